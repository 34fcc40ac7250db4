"""What a run stands on: the finished adapter below it, and the one below that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.checks.foreign import reading
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.runs.adapter_files import CARD, load_adapter_params, read_card
from mmjax.specs.build import build
from mmjax.specs.families import FAMILIES
from mmjax.specs.spec import EncoderSpec, Stage
from mmjax.tasks import Task, Tower, make_task
from mmjax.trees import PyTree


def stage_of(card: Mapping[str, Any]) -> Stage:
    """The stage that a card describes."""
    stage = dict(card["stage"])
    # Prompts that were trained before they could end in words end in none.
    stage["prompts"] = {"ending": "", **stage.get("prompts", {})}
    return build(Stage, stage)


def base_folder(card: Mapping[str, Any], folder: Path) -> Path | None:
    """The folder of the adapter that the one with this card, in this folder, stands on.

    Returns:
      The folder; None where it stands on nothing.

    Raises:
      MmjaxError: there is no adapter, or one of a task that it cannot stand on.
    """
    if card["base"] is None:
        return None
    below, task = folder / card["base"]["path"], card["stage"]["task"]
    found = read_card(below)["stage"]["task"]
    wanted = FAMILIES[task].stands_on
    if found not in wanted:
        raise MmjaxError(
            f"{folder / CARD}: 'base.path' leads to a {found!r} adapter; one of the task {task!r} "
            f"stands on {' or '.join(wanted)}"
        )
    return below


def load_base(
    folder: Path, towers: Mapping[str, Tower], mesh: Mesh
) -> tuple[Task, dict[str, PyTree], dict[str, Any]]:
    """Loads a finished adapter, and whatever it stands on, for another one to stand on.

    Args:
      folder: of the adapter.
      towers: role -> frozen tower.
      mesh: where the parameters will lie.

    Returns:
      (its task, {"base": what it trained, ["below": the same of what it stands on]}, its card).

    Raises:
      MmjaxError: an adapter is missing, damaged, or not the one that the next was trained on.
    """
    params, card = load_adapter_params(folder)
    frozen: dict[str, PyTree] = {"base": sharding.place(params, mesh)}
    task, below, _ = load_base_of(card, folder, towers, mesh)
    if below:
        frozen["below"] = below
    return make_task(stage_of(card), towers, task, mesh), frozen, card


def load_base_of(
    card: Mapping[str, Any], folder: Path, towers: Mapping[str, Tower], mesh: Mesh
) -> tuple[Task | None, dict[str, PyTree], dict[str, Any] | None]:
    """Loads what the adapter with this card, in this folder, stands on; see `load_base`.

    Returns:
      As `load_base`; (None, {}, None) where it stands on nothing.
    """
    below = base_folder(card, folder)
    if below is None:
        return None, {}, None
    found = load_base(below, towers, mesh)
    if found[2]["trainable"]["fingerprint"] != card["base"]["fingerprint"]:
        raise MmjaxError(
            f"the base at {below} is not the one that {folder} was trained "
            "on; train the adapter again, or put its own base back"
        )
    return found


def check_sizes(
    task: Task,
    stage: Stage,
    towers: Mapping[str, Tower],
    params: PyTree,
    frozen: PyTree,
    folder: Path,
) -> None:
    """Refuses parameters of other sizes than the card's stage makes, without computing anything.

    Args:
      task: of the stage.
      stage: as the card describes it.
      towers: role -> frozen tower.
      params: what was trained.
      frozen: what it stands on.
      folder: of the adapter, for messages.

    Raises:
      MmjaxError: the published functions cannot be computed with these parameters.
    """
    for name, function in task.functions().items():
        if name.endswith("images"):
            roles = ["image"]
        elif name.endswith("joined"):
            roles = list(towers)
        else:
            own = name == "embed_texts" or stage.task == "domain"
            roles = [stage.text_role if own else "text"]
        width = sum(towers[role].width for role in roles)
        inputs: dict[str, Any] = {"features": jax.ShapeDtypeStruct((1, width), jnp.float32)}
        if stage.encoders[roles[0]].output.startswith("tokens"):
            inputs["features"] = jax.ShapeDtypeStruct((1, 4, width), jnp.float32)
            inputs["mask"] = jax.ShapeDtypeStruct((1, 4), jnp.bool_)
        with reading(folder / CARD, "the card of its parameters", MmjaxError):
            jax.eval_shape(function, params, frozen, inputs)


def check_encoder(
    library: Library,
    card: Mapping[str, Any],
    role: str,
    spec: EncoderSpec,
    allow_other: bool,
    folder: Path,
) -> None:
    """Refuses an encoder that an adapter was not trained on.

    Raises:
      MmjaxError: its weights or its preprocessing are not those of the card.
    """
    found, saved = library.identity(spec), card["encoders"][role]
    for part in ("fingerprint", "preprocess_fingerprint"):
        if found[part] != saved[part] and not allow_other:
            raise MmjaxError(
                f"{folder} was trained on another {role} encoder: the {part} of "
                f"{spec.source} is {found[part][:12]}, the card says {saved[part][:12]}; give "
                "the same weights, or accept these with allow_other_encoder=True"
            )
