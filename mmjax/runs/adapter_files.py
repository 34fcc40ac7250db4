"""An adapter and its card on the disk: written whole, verified when they are read."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mmjax import sharding, trees
from mmjax.checkpoint import quiet_about_full_disks, saving
from mmjax.checks.arguments import whole
from mmjax.checks.foreign import is_file, reading, shown_path
from mmjax.errors import MmjaxError, first_line
from mmjax.files import write_atomic, write_tensors
from mmjax.sharding import to_host
from mmjax.specs.card import check_card
from mmjax.specs.families import family_of, main_name
from mmjax.trees import PyTree

CARD = "adapter_card.json"


_LARGEST_CARD = 1 << 26  # bytes


def save_adapter(folder: Path, trainable: PyTree, card: Mapping[str, Any]) -> str:
    """Writes an adapter and its card; the card's rename is the moment at which it counts.

    Args:
      folder: holds one adapter; an older one is replaced.
      trainable: the adapter's parameters.
      card: JSON-able; gets `params` (the parameters' folder) and `trainable` (count, fingerprint).

    Returns:
      The fingerprint of the parameters.

    Raises:
      MmjaxError: the disk is full.
    """
    host = to_host(trainable)
    params = f"params-{card['step']:06d}"
    fingerprint = trees.fingerprint(host)
    full = dict(card) | {
        "params": params,
        "trainable": {"count": trees.count(host), "fingerprint": fingerprint},
    }
    with saving(folder), quiet_about_full_disks():
        folder.mkdir(parents=True, exist_ok=True)
        ocp.save(str((folder / params).absolute()), trainable, overwrite=True)
        if jax.process_index() == 0:
            write_atomic(folder / CARD, json.dumps(full, indent=2, ensure_ascii=False) + "\n")
            for old in folder.iterdir():
                if old.name not in (params, CARD):
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
        sharding.wait_for_all(f"adapter {params}")  # none may look for it before it is whole
    return fingerprint


def read_card(folder: Path) -> dict[str, Any]:
    """Reads an adapter's card.

    Raises:
      MmjaxError: there is none, or one that lacks something or says what cannot be; see
        `mmjax.specs.card`.
    """
    path = folder / CARD
    with reading(path, "an adapter card", MmjaxError):
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise MmjaxError(
                f"no adapter at {folder}: {CARD} is missing; train it first"
            ) from error
        if size > _LARGEST_CARD:
            raise MmjaxError(f"{path} has {size} bytes; no adapter card is that long")
        content = json.loads(path.read_text(encoding="utf-8"))
    return check_card(path, content)


def load_adapter_params(folder: Path) -> tuple[PyTree, dict[str, Any]]:
    """Loads an adapter onto one device, whatever mesh it was trained on.

    Args:
      folder: holds an adapter and its card.

    Returns:
      (trainable as f32 NumPy arrays, card).

    Raises:
      MmjaxError: it is missing, damaged, or its bytes are not those that the card names.
    """
    card = read_card(folder)
    path = folder / card["params"]
    try:
        if path.suffix == ".safetensors":
            trainable = flax.traverse_util.unflatten_dict(load_file(path), sep="/")
        else:
            metadata = ocp.metadata(path.absolute())
            _check_size(metadata.metadata, card, path)
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), metadata.metadata
            )
            trainable = jax.tree.map(np.asarray, ocp.load(path.absolute(), abstract))
    except MmjaxError:
        raise
    except Exception as error:  # Orbax raises many kinds for torn files
        raise MmjaxError(
            f"the adapter at {path} is damaged ({first_line(error)}); train it again"
        ) from error
    return _verified(trainable, card, path), card


def _check_size(claimed: PyTree, card: Mapping[str, Any], path: Path) -> None:
    """Holds the sizes of an adapter's arrays against its card and its files, before any is made."""
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(claimed))
    held = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    # Trained parameters hardly compress.
    if count != card["trainable"]["count"] or count * 4 > held * 64 + (1 << 20):
        raise MmjaxError(
            f"the adapter at {path} claims {count} parameters in {held} bytes, its card "
            f"{card['trainable']['count']}; it is damaged, train it again"
        )


def _verified(trainable: PyTree, card: Mapping[str, Any], path: Path) -> PyTree:
    """The parameters, if they are those that the card was written for."""
    if trees.fingerprint(trainable) != card["trainable"]["fingerprint"]:
        raise MmjaxError(f"the adapter at {path} is not the one its card names; train it again")
    return trainable


def export_adapter(folder: Path, trainable: PyTree, card: Mapping[str, Any]) -> None:
    """Writes an adapter for people outside JAX: adapter.safetensors (paths `a/b/c`) and its card.

    Args:
      folder: made if missing.
      trainable: nested dict of f32 arrays.
      card: the adapter's card.

    Raises:
      MmjaxError: the disk is full.
    """
    # Not np.ascontiguousarray, which makes a vector of a scalar.
    flat = {path: np.asarray(leaf, order="C") for path, leaf in trees.named_leaves(trainable)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "adapter.safetensors"
        write_tensors(path, flat, "flax")
    except (OSError, SafetensorError) as error:
        raise MmjaxError(f"cannot write {folder / 'adapter.safetensors'}: {error}") from error
    exported = dict(card) | {"params": "adapter.safetensors"}
    write_atomic(folder / CARD, json.dumps(exported, indent=2, ensure_ascii=False) + "\n")


def find_adapter(path: Path, seed: int | None = None) -> Path:
    """The adapter's folder at or below a path.

    Args:
      path: an adapter's own folder, a stage's folder, a run folder, or an export.
      seed: which seed of a run folder; None takes the one with the best validation.

    Returns:
      The folder that holds the card.

    Raises:
      MmjaxError: there is none.
    """
    if seed is not None:
        whole("seed", seed, 0, 2**31 - 1)
    for folder in (path, path / "adapter"):
        if is_file(folder / CARD):
            return folder
    is_folder = os.path.isdir(path)  # which, unlike pathlib's, takes any name
    seeds = sorted(path.glob("seed_*" if seed is None else f"seed_{seed}")) if is_folder else []
    folders = [card.parent for s in seeds for card in s.glob(f"*/{CARD}")]
    folders += [card.parent for s in seeds for card in s.glob(f"*/adapter/{CARD}")]
    cards = {folder: read_card(folder) for folder in folders}
    # Beside the main stage a run folder holds its base and baselines, under names of their own.
    main = {f: c for f, c in cards.items() if c["stage"]["name"] == main_name(c["stage"]["task"])}
    # In a chain each link is its own task's main stage; what another one stands on is not meant.
    carrying = {c["base"]["fingerprint"] for c in main.values() if c["base"] is not None}
    main = {f: c for f, c in main.items() if c["trainable"]["fingerprint"] not in carrying}
    if not main:
        raise MmjaxError(
            f"no adapter at {shown_path(path)}: found no {CARD} there; train one first"
        )
    select = {f: c["validation"].get(c["stage"]["train"]["select"], 0.0) for f, c in main.items()}
    return max(select, key=lambda f: select[f])


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
    base_task = read_card(below)["stage"]["task"]
    allowed = family_of(task).stands_on
    if base_task not in allowed:
        raise MmjaxError(
            f"{folder / CARD}: 'base.path' leads to a {base_task!r} adapter; one of the task "
            f"{task!r} stands on {' or '.join(allowed)}"
        )
    return below
