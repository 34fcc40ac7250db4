"""What a run stands on: the finished adapter below it, and the one below that."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.checks.foreign import reading
from mmjax.data.library import Library
from mmjax.encoders.output import Tower
from mmjax.errors import MmjaxError, setting
from mmjax.evals.base import Functions
from mmjax.runs.adapter_files import CARD, base_folder, find_adapter, load_adapter_params, read_card
from mmjax.specs.data import PairsSpec
from mmjax.specs.families import family_of
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.tasks.base import DualEncoder, Task, TextSpace
from mmjax.tasks.cards import library_of
from mmjax.tasks.dual_encoder.contrastive import ContrastiveTask
from mmjax.tasks.dual_encoder.domain import DomainTask
from mmjax.tasks.dual_encoder.language import LanguageTask
from mmjax.tasks.dual_encoder.pretrained import PretrainedTask
from mmjax.tasks.published import Published
from mmjax.tasks.run import Run, stage_of
from mmjax.trees import PyTree


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
    base = load_base(below, towers, mesh)
    if base[2]["trainable"]["fingerprint"] != card["base"]["fingerprint"]:
        raise MmjaxError(
            f"the base at {below} is not the one that {folder} was trained "
            "on; train the adapter again, or put its own base back"
        )
    return base


@dataclass(frozen=True)
class Loaded:
    """A finished adapter as it comes from its folder, with all that it stands on.

    Attributes:
      folder: where it lies.
      card: everything that is known of it.
      stage: that was trained.
      towers: role -> frozen tower, of cached features.
      library: has its encoders, which are those that it was trained on.
      trainable: its parameters, on the mesh.
      base: the task that it stands on, if any.
      frozen: {"base", perhaps "below"}: the parameters of what it stands on.
      base_card: card of the base.
    """

    folder: Path
    card: Mapping[str, Any]
    stage: Stage
    towers: dict[str, Tower]
    library: Library
    trainable: PyTree
    base: Task | None
    frozen: dict[str, PyTree]
    base_card: Mapping[str, Any] | None

    @classmethod
    def of(cls, folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> "Loaded":
        """Reads an adapter and whatever it stands on.

        Args:
          folder: of the adapter.
          allow_other_encoder: accept encoders whose fingerprints differ from the card's.
          mesh: where all of it will lie; None takes all devices as the axis `data`.

        Raises:
          MmjaxError: it is damaged, or was trained on other encoders.
        """
        params, card = load_adapter_params(folder)
        library = library_of(card, allow_other_encoder, folder, mesh)
        stage = stage_of(card)
        towers = frozen_towers(stage, library)
        base, frozen, base_card = load_base_of(card, folder, towers, library.mesh)
        trainable = sharding.place(params, library.mesh)
        return cls(folder, card, stage, towers, library, trainable, base, frozen, base_card)

    def bound(self, task: Task) -> Functions:
        """What a task publishes, with these parameters.

        Raises:
          MmjaxError: they are of other sizes than the card's stage makes.
        """
        check_sizes(task, self.stage, self.towers, self.trainable, self.frozen, self.folder)
        return Published(task, self.library.mesh).bind(self.trainable, self.frozen)


def frozen_towers(stage: Stage, library: Library) -> dict[str, Tower]:
    """Role -> an encoder whose features are computed beforehand."""
    specs = stage.encoders.items()
    return {role: Tower(role, library.encoder(s).width(s.output)) for role, s in specs}


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
            typed.shapes(function, params, frozen, inputs)


def make_task(
    stage: Stage,
    towers: Mapping[str, Tower],
    base: Task | None = None,
    mesh: Mesh | None = None,
) -> Task:
    """Builds the task of a stage.

    Args:
      stage: the recipe's stage.
      towers: role -> frozen tower.
      base: the task of the base that `language` and `domain` build on.
      mesh: of the batches; a contrastive loss goes round its data axis.

    Returns:
      The task.

    Raises:
      MmjaxError: an adapter that needs token outputs on an encoder that gives pooled ones; towers
        that share no space; heads to be tuned where the base has none.
    """
    ring = mesh if mesh is not None and mesh.shape["data"] > 1 else None
    if stage.task == "contrastive":
        heads = stage.image_head, stage.text_head
        return ContrastiveTask(towers["image"], towers["text"], *heads, stage.loss, ring)
    if stage.task == "pretrained":
        return _pretrained(stage, towers["image"], towers["text"])
    if stage.task == "domain":
        assert isinstance(base, DualEncoder)
        bare = isinstance(base, PretrainedTask) and not stage.adapters
        if stage.residual.tune == "heads" and bare:
            raise MmjaxError(
                f"{setting('residual.tune')} is 'heads', but a pretrained base has none; set it to "
                "'adapter', or put adapters into its towers: "
                f"{setting('adapters')}.image=dict(kind='lora'), or kind='full' for all of it"
            )
        if stage.residual.tune == "none" and not stage.adapters:
            raise MmjaxError(
                f"{setting('residual.tune')} is 'none' and {setting('adapters')} is empty: nothing "
                "would be trained"
            )
        trained = stage.residual, stage.weighting, stage.continual, stage.loss
        own = {role: towers[role] for role in stage.adapters}
        return DomainTask(base, *trained, ring, own)
    assert isinstance(base, TextSpace)
    if not stage.encoders["foreign"].output.startswith("tokens"):
        raise MmjaxError(
            f"{setting('encoders.foreign.output')} must be 'tokens' or 'tokens_deep': the language "
            "adapter reads each token"
        )
    return LanguageTask(towers["foreign"], base, stage.adapter, stage.loss, ring)


def _pretrained(stage: Stage, image: Tower, text: Tower) -> PretrainedTask:
    if image.width != text.width:
        sizes = f"{image.width} and {text.width} dimensions"
        raise MmjaxError(
            f"the towers of {stage.encoders['image'].source} and {stage.encoders['text'].source} "
            f"embed in {sizes}, so they share no space; name the two towers of one model, or join "
            "them with a base of task 'contrastive'"
        )
    scales = [t.logit_scale for t in (image, text) if t.logit_scale is not None]
    fixed = -math.log(stage.loss.init_temperature)
    return PretrainedTask(image, text, scales[0] if scales else fixed)


def outside_base(recipe: Recipe, seed: int) -> Run:
    """A finished base of another run folder; its split must be this seed's own."""
    folder = find_adapter(Path(str(recipe.base)), seed)
    card = read_card(folder)
    stage = stage_of(card)
    main = recipe.lowest
    tasks = family_of(main.task).stands_on
    if stage.task not in tasks:
        raise MmjaxError(
            f"{folder} is a {stage.task!r} adapter; config.base needs one of {', '.join(tasks)}"
        )
    if main.task != "language" and main.encoders != stage.encoders:
        raise MmjaxError(
            f"{folder} stands on other encoders ({_flat_encoders(stage)}) than config.encoders "
            f"({_flat_encoders(main)}); a domain is adapted with those of its base"
        )
    if stage.task != "pretrained" and stage.pairs.source == main.pairs.source:
        if card["seed"] != seed:
            raise MmjaxError(
                f"{folder} was trained with seed {card['seed']}: its training items may be test "
                f"items of seed {seed}; set --config.seeds='({card['seed']},)' or give the base of "
                "that seed"
            )
        if main.task != "language" and _dealt(stage) != _dealt(main):
            raise MmjaxError(
                f"{folder} was trained on another split or domain of {main.pairs.source}: its "
                "training items may be test items here; give a base with the same config.pairs"
            )
    return Run(recipe, stage, seed, folder.parent)


def base_name(run: Run) -> str:
    """What a report calls what the base of a run trained."""
    pretrained = run.base is not None and run.base.stage.task == "pretrained"
    return "base temperature" if pretrained else "base heads"


def _dealt(stage: Stage) -> PairsSpec:
    """What decides on which side of the split an item is."""
    domain = dataclasses.replace(stage.pairs.domain, fraction=1.0)
    return dataclasses.replace(stage.pairs, domain=domain, views=())


def _flat_encoders(stage: Stage) -> str:
    return ", ".join(f"{role}: {spec.source}" for role, spec in sorted(stage.encoders.items()))
