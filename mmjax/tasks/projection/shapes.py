"""A `projection` run as shapes alone; see `mmjax.tasks.planned`."""

from typing import Any

import jax.numpy as jnp

from mmjax.data.library import Library
from mmjax.errors import check
from mmjax.sharding import check_batch
from mmjax.tasks.adapting import towers_of, weights_in_step
from mmjax.tasks.planned import Asked, Planned, extracted, initial, inputs_of, rounded, shaped
from mmjax.tasks.projection.task import JOINED, LABEL, make_projection
from mmjax.tasks.published import BATCH
from mmjax.tasks.run import Run


def planned(run: Run, base: Planned | None, library: Library) -> Planned:
    """What the run's programs are made for; it stands on nothing."""
    stage, mesh = run.stage, library.mesh
    check_batch(stage.train.batch_size, mesh)
    ready = stage.projection.features
    check(
        not ready,
        "projection.features",
        ready,
        "none: a plan reads no data and cannot know their widths",
    )
    towers = towers_of(stage, library)
    task, frozen = make_projection(stage, towers, mesh), weights_in_step(stage, library)

    def inputs(rows: int) -> dict[str, Any]:
        apart = {role: inputs_of(stage, role, library, rows) for role in towers}
        if stage.projection.mode != "single":
            return apart
        if not stage.adapters:
            width = sum(tower.width for tower in towers.values())
            return {JOINED: {"features": shaped(mesh, (rows, width))}}
        beside = {f"{r}/{name}": x for r, own in apart.items() for name, x in own.items()}
        return {JOINED: beside}

    rows = stage.train.batch_size
    batch = {**inputs(rows), LABEL: {LABEL: shaped(mesh, (rows,), jnp.int32)}}
    some = rounded(BATCH, mesh)
    evaluations = {
        name: Asked(function, read, some)
        for (name, function), read in zip(
            task.functions().items(), inputs(some).values(), strict=True
        )
    }
    trainable = initial(task, frozen, batch, mesh)
    return Planned(
        task, frozen, trainable, batch, "examples", rows, evaluations, extracted(stage, library)
    )
