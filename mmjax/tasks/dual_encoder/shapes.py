"""A dual encoder's run as shapes alone; see `mmjax.tasks.planned`."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mmjax.data.library import Library
from mmjax.encoders.output import Tower
from mmjax.errors import MmjaxError
from mmjax.losses.consolidation import Prior
from mmjax.sharding import check_batch
from mmjax.tasks.adapting import tower_of
from mmjax.tasks.base import GENERAL, Task
from mmjax.tasks.dual_encoder.stacking import make_task
from mmjax.tasks.planned import (
    Asked,
    Planned,
    extracted,
    initial,
    inputs_of,
    rounded,
    shaped,
    standing_on,
)
from mmjax.tasks.published import BATCH
from mmjax.tasks.run import Run
from mmjax.trees import PyTree


def planned(run: Run, base: Planned | None, library: Library) -> Planned:
    """What the run's programs are made for.

    Args:
      run: a stage with a seed.
      base: of the run below.
      library: its encoders have shapes for weights, on the mesh.

    Returns:
      The run as shapes. Of `two_stage` the contrastive phase, which is the larger one.
    """
    stage, mesh = run.stage, library.mesh
    if stage.task != "pretrained":
        check_batch(stage.train.batch_size, mesh)
    towers: dict[str, Tower] = {}
    frozen: dict[str, PyTree] = {}
    for role, spec in stage.encoders.items():
        encoder = library.encoder(spec)
        if stage.caches(role):
            scale = encoder.logit_scale
            towers[role] = Tower(role, encoder.width(spec.output), logit_scale=scale)
        else:
            towers[role] = tower_of(stage, role, library, None)
            frozen[role] = encoder.params
    frozen |= standing_on(base)
    task = _task(run, towers, library)
    rows = stage.train.batch_size
    batch: dict[str, Any] = {}
    for role in () if stage.task == "pretrained" else _roles(run):
        own = stage.text_role if role == f"{GENERAL}text" else role.removeprefix(GENERAL)
        batch[role] = {
            **inputs_of(stage, own, library, rows),
            "row": shaped(mesh, (rows,), jnp.int32),
        }
    trainable = initial(task, frozen, batch, mesh)
    if stage.task == "domain" and stage.continual.kind == "ewc":
        frozen["prior"] = Prior(trainable, trainable)
    asked_rows = rounded(BATCH, mesh)
    evaluations: dict[str, Asked] = {}
    for name, function in task.functions().items():
        if name not in ("embed_images", "embed_texts"):
            continue  # the base's own: no more than these
        role = "image" if name == "embed_images" else stage.text_role
        evaluations[name] = Asked(function, inputs_of(stage, role, library, asked_rows), asked_rows)
    return Planned(
        task,
        frozen,
        trainable,
        batch,
        "pairs",
        rows,
        evaluations,
        extracted(stage, library),
    )


def _task(run: Run, towers: Mapping[str, Tower], library: Library) -> Task:
    """The run's task, and those below it, over the run's own towers, as a base is loaded for it."""
    below = None if run.base is None else _task(run.base, towers, library)
    return make_task(run.stage, towers, below, library.mesh)


def _roles(run: Run) -> tuple[str, ...]:
    stage = run.stage
    if stage.task == "language":
        contrastive = stage.loss.kind in ("contrastive", "two_stage")
        return ("foreign", "image") if contrastive else ("foreign", "text")
    if stage.task == "domain":
        kept = stage.continual.kind == "distill"
        general = (f"{GENERAL}image", f"{GENERAL}text") if kept else ()
        return ("image", stage.text_role, *general)
    if stage.task == "contrastive":
        return ("image", "text")
    raise MmjaxError(f"task {stage.task!r} is none of the dual encoders that can be planned")
