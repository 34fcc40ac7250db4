"""An `instruct` run put together."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from mmjax import sharding, trees
from mmjax.data.library import Library
from mmjax.errors import MmjaxError, check, setting
from mmjax.runs.adapter_files import find_adapter, load_adapter_params, read_card
from mmjax.tasks import typed
from mmjax.tasks.instruct.build import make_instruct
from mmjax.tasks.instruct.data import prepare_instructions
from mmjax.tasks.instruct.easy_vqa import InstructData
from mmjax.tasks.instruct.sources import wording_of
from mmjax.tasks.instruct.task import InstructTask, frozen_tree
from mmjax.tasks.instruct.towers import encoders_of
from mmjax.tasks.run import Assembly, Run
from mmjax.trees import PyTree

Instructed: TypeAlias = Assembly[InstructTask, InstructData]


def assemble_instruct(run: Run, library: Library) -> Instructed:
    """Builds the task, its data and its frozen tree.

    Args:
      run: a stage with a seed.
      library: loads encoders and questions once.

    Returns:
      The assembly; `frozen` lies on the mesh, without the weights that learn.
    """
    language, vision = encoders_of(run.stage, library)
    task = make_instruct(run.stage, language, vision)
    data = prepare_instructions(run.stage, run.seed, library, task.parts.routed)
    frozen = frozen_tree(language, vision)
    card: dict[str, Any] = {"prompt": dataclasses.asdict(wording_of(run.stage.questions))}
    start = start_of(run)
    if start is not None and start.is_dir():
        card["start"] = read_card(start)["trainable"]["fingerprint"]
    return Assembly(
        task,
        data,
        task.unchosen(frozen),
        on_card=card,
        initial=functools.partial(
            begin, task, frozen, library.mesh, start, fsdp=run.recipe.mesh.fsdp
        ),
    )


def start_of(run: Run) -> Path | None:
    """The adapter that a run's training begins at; of an earlier stage it need not be there yet.

    Raises:
      MmjaxError: neither a stage before this one nor a folder with an adapter.
    """
    start = run.stage.instruct.start
    if not start:
        return None
    names = [stage.name for stage in run.recipe.stages]
    if start in names:
        before = names[: names.index(run.stage.name)]
        check(start in before, "instruct.start", start, "a stage before this one")
        return dataclasses.replace(run, folder=run.folder.parent / start).adapter
    try:
        return find_adapter(Path(start))
    except MmjaxError as error:
        raise MmjaxError(
            f"{setting('instruct.start')} is {start!r}, which is no earlier stage of the recipe "
            f"({', '.join(names[:-1]) or 'there is none'}); {error}"
        ) from error


def shardings_of(task: InstructTask, frozen: PyTree, mesh: Mesh, fsdp: bool = False) -> PyTree:
    """Where the trainable tree lies: copies of weights as the weights, all else whole everywhere.

    Args:
      task: says what learns.
      frozen: the whole frozen tree, or shapes in their shardings.
      mesh: the mesh.
      fsdp: whether copies of weights are split over `data` too.
    """
    shapes = typed.shapes(task.init, jax.random.key(0), frozen, {})
    shardings = sharding.shardings(shapes, mesh)
    if task.weights and mesh.size > 1:  # on one device weights lie where JAX puts them
        shardings["weights"] = sharding.lying(task.chosen(frozen))
        if fsdp:
            shardings["weights"] = sharding.spread(shardings["weights"], shapes["weights"], mesh)
    return shardings


def placed(task: InstructTask, trained: PyTree, frozen: PyTree, mesh: Mesh) -> PyTree:
    """A trained tree of the host's on the mesh, each part where `shardings_of` says."""
    return typed.device_put(trained, shardings_of(task, frozen, mesh))


def trained(run: Run, task: InstructTask, library: Library) -> PyTree:
    """The finished adapter's parameters, on the mesh."""
    language, vision = encoders_of(run.stage, library)
    params, _ = load_adapter_params(run.adapter)
    return placed(task, params, frozen_tree(language, vision), library.mesh)


def begin(
    task: InstructTask,
    frozen: PyTree,
    mesh: Mesh,
    start: Path | None,
    key: Key[Array, ""],
    fsdp: bool = False,
) -> PyTree:
    """The trainable tree before the first step, on the mesh.

    Args:
      task: says what learns.
      frozen: the whole frozen tree.
      mesh: the mesh.
      start: an adapter whose parts take the place of new ones.
      key: draws the new ones.
      fsdp: as of `shardings_of`.

    Raises:
      MmjaxError: the adapter at `start` has parts that do not learn here, or of other sizes.
    """
    where = shardings_of(task, frozen, mesh, fsdp)
    fresh = typed.jit(task.init, out_shardings=where)(key, frozen, {})
    if start is None:
        return fresh
    params, _ = load_adapter_params(start)
    return overlaid(fresh, params, where, start)


def overlaid(fresh: PyTree, given: PyTree, where: PyTree, start: Path) -> PyTree:
    """A trainable tree with given leaves in it."""
    leaves = dict(trees.named_leaves(fresh))
    places = dict(trees.named_leaves(where))
    new: Mapping[str, Any] = dict(trees.named_leaves(given))
    lost = sorted(set(new) - set(leaves))
    if lost:
        raise MmjaxError(
            f"{setting('instruct.start')}: {start} trained {lost[0]}"
            f"{f' and {len(lost) - 1} more parameters' if lost[1:] else ''}, which do not learn in "
            "this stage and would be lost; give it the same adapter, or a wider instruct.train"
        )
    for path, leaf in new.items():
        if leaf.shape != leaves[path].shape:
            raise MmjaxError(
                f"{setting('instruct.start')}: {path} of {start} has shape {leaf.shape}, where "
                f"this stage has {leaves[path].shape}"
            )

    def put(at: tuple[jax.tree_util.KeyEntry, ...], old: Array) -> Array:
        path = trees.path_of(at)
        return typed.device_put(new[path], places[path]) if path in new else old

    return jax.tree_util.tree_map_with_path(put, fresh)
