"""The programs of a recipe: the very functions that a run compiles, lowered for shapes alone."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mmjax import optim, sharding, study
from mmjax.encoders import batching
from mmjax.encoders.base import Encoder
from mmjax.encoders.llava import Llava
from mmjax.encoders.padding import bucket
from mmjax.errors import MmjaxError
from mmjax.generation import decode
from mmjax.generation.prompts import BUCKETS, Prepared
from mmjax.plan.encoders import ShapesLibrary
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import EncoderSpec, Stage
from mmjax.state import TrainState
from mmjax.step import make_train_step
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.planned import Decoder, Plannable, Planned, raw_inputs, rounded, shaped, whole
from mmjax.tasks.run import Run
from mmjax.trees import PyTree

_TEXTS, _PICTURES = 128, 16  # rows of an extraction's batch, as `Encoder.outputs` takes them


@dataclass(frozen=True)
class PlannedProgram:
    """One compiled program of a run.

    Attributes:
      name: of the stage and of what it does, `main: train step`.
      trace: the function for its shapes, before it is lowered.
      arguments: what it is given, name -> shapes in their shardings.
      unit: what a run of it counts.
      units: how many.
      times: runs of it in the whole recipe; 0 where that is not known.
      assumed: what only the data would say.
    """

    name: str
    trace: Callable[[], Any]
    arguments: Mapping[str, PyTree]
    unit: str
    units: int
    times: int = 0
    assumed: tuple[str, ...] = ()

    def held(self) -> dict[str, int]:
        """Bytes that each argument takes on a device."""
        return {name: share_of(tree) for name, tree in self.arguments.items()}


def share_of(tree: PyTree) -> int:
    """Bytes of a tree on one device."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * _itemsize(x) for x in jax.tree.leaves(tree)
    )


def _itemsize(leaf: Any) -> int:
    return 1 if leaf.dtype == jnp.bool_ else jnp.dtype(leaf.dtype).itemsize


def programs(recipe: Recipe, mesh: Mesh, base: Recipe | None = None) -> Iterator[PlannedProgram]:
    """All programs of a recipe, stage by stage; one seed's.

    Args:
      recipe: what is run.
      mesh: over the described devices.
      base: the recipe of the finished run that it stands on, which need not be there.

    Yields:
      Programs, in the order in which a run comes to them.

    Raises:
      MmjaxError: a task that cannot be planned, sizes that the mesh cannot split, or an encoder
        whose sizes are not known.
    """
    library = ShapesLibrary(mesh, recipe.languages)
    seen: set[EncoderSpec] = set()
    for name, planned, run in stages(recipe, library, base):
        stage, seeds = run.stage, len(recipe.seeds)
        for role, (encoder, spec) in planned.extracted.items():
            if spec not in seen:
                seen.add(spec)
                yield _extraction(f"{name}: {role} features", encoder, spec, mesh)
        if planned.batch:
            yield _step(f"{name}: train step", stage, planned, mesh, stage.train.steps * seeds)
        for evaluation in planned.asked:
            yield _asked(f"{name}: evaluation, {evaluation}", planned, evaluation, mesh)
        if planned.decoder is not None:
            yield from _written(name, planned.decoder, mesh)


def stages(
    recipe: Recipe, library: ShapesLibrary, base: Recipe | None = None
) -> Iterator[tuple[str, Planned, Run]]:
    """Every stage of the first seed as shapes, the base first; see `programs`."""
    done: dict[Path, Planned] = {}
    under: Run | None = None
    if base is not None:
        if not recipe.base:
            raise MmjaxError(f"--base: {recipe.name} stands on no finished run")
        *_, (_, planned, under) = stages(base, library)
        done[under.adapter] = planned
    for run in _runs(recipe, under):
        definition = definition_of(run.stage.task)
        if not isinstance(definition, Plannable):
            raise MmjaxError(
                f"task {run.stage.task!r} cannot be planned: its definition has no `planned` "
                "(see mmjax/tasks/planned.py)"
            )
        below = None
        if run.base is not None:
            below = done.get(run.base.adapter)
            if below is None:  # of another run folder
                other = definition_of(run.base.stage.task)
                assert isinstance(other, Plannable)
                below = other.planned(run.base, None, library)
        done[run.adapter] = planned = definition.planned(run, below, library)
        yield run.stage.name, planned, run


def _runs(recipe: Recipe, under: Run | None) -> list[Run]:
    try:
        runs = study.plan(recipe, Path("planned", recipe.name), under)
    except MmjaxError as error:
        if not recipe.base or Path(recipe.base).exists():
            raise
        raise MmjaxError(
            f"{error}; a plan needs no more than its recipe: --base {Path(recipe.base).name}"
        ) from error
    return runs[: len(recipe.stages)]


def state_of(stage: Stage, trainable: PyTree, mesh: Mesh) -> tuple[TrainState, Any]:
    """A run's state as shapes, each moment where its parameter lies; and the optimizer."""
    tx, _ = optim.make_optimizer(stage.optim, trainable, stage.train.steps)
    where = sharding.replicated(mesh)
    shapes = jax.eval_shape(tx.init, trainable)
    opt_state = optax.tree_map_params(
        tx,
        lambda moment, like: jax.ShapeDtypeStruct(
            moment.shape, moment.dtype, sharding=like.sharding
        ),
        shapes,
        trainable,
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    )
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    step: Any = shaped(mesh, (), jnp.int32, split=False)
    return TrainState(step, trainable, opt_state, whole(key, mesh)), tx


def _step(name: str, stage: Stage, planned: Planned, mesh: Mesh, times: int) -> PlannedProgram:
    state, tx = state_of(stage, planned.trainable, mesh)
    step = make_train_step(planned.task, tx, stage.train.accumulate, mesh.shape["data"])
    batch = planned.batch
    return PlannedProgram(
        name,
        lambda: step.trace(state, planned.frozen, batch),
        {"trained": state, "frozen": planned.frozen, "batch": batch},
        planned.unit,
        planned.units,
        times,
        planned.assumed,
    )


def _extraction(name: str, encoder: Encoder, spec: EncoderSpec, mesh: Mesh) -> PlannedProgram:
    texts = encoder.modality == "text"
    length = spec.max_length or encoder.config.max_length if texts else 0
    rows = rounded(max(1, _TEXTS * 32 // max(length, 32)) if texts else _PICTURES, mesh)
    inputs = raw_inputs(spec, encoder, mesh, rows)
    where = sharding.replicated(mesh)

    def trace() -> Any:
        # The very program of `Encoder.outputs`.
        return batching._compute.trace(
            encoder.params, inputs, encoder.module, encoder.pooling, spec.output, where
        )

    arguments = {"frozen": encoder.params, "batch": inputs}
    return PlannedProgram(name, trace, arguments, "texts" if texts else "pictures", rows)


def _asked(name: str, planned: Planned, which: str, mesh: Mesh) -> PlannedProgram:
    evaluation = planned.asked[which]
    function = jax.jit(evaluation.function, out_shardings=sharding.replicated(mesh))
    arguments = {
        "trained": planned.trainable,
        "frozen": planned.frozen,
        "batch": evaluation.inputs,
    }
    return PlannedProgram(
        name,
        lambda: function.trace(planned.trainable, planned.frozen, evaluation.inputs),
        arguments,
        "rows",
        evaluation.rows,
        assumed=planned.assumed,
    )


def _written(stage: str, one: Decoder, mesh: Mesh) -> Iterator[PlannedProgram]:
    """Reading the prompts, and one token of every answer."""
    model, rows = one.model, rounded(one.rows, mesh)
    new = bucket(one.new, BUCKETS)
    length = min(bucket(one.prompt, BUCKETS), model.config.max_length)
    options = decode.DecodeOptions(model.module, mesh, new, (2,))
    width = model.config.text.hidden_size if isinstance(model.module, Llava) else model.hidden_size
    prompts = Prepared(
        shaped(mesh, (rows, length, width), split=False),  # type: ignore[arg-type]
        shaped(mesh, (rows, length), jnp.int32, split=False),  # type: ignore[arg-type]
    )
    keys = jax.ShapeDtypeStruct((rows,), jax.random.key(0).dtype)

    @functools.cache
    def first() -> Any:
        return decode.prefill.trace(
            model.params, one.adapters, prompts, None, keys, options=options
        )

    state = decode_state(first, mesh)
    frozen = {"frozen": model.params, "trained": one.adapters}
    yield PlannedProgram(
        f"{stage}: reading prompts", first, {**frozen, "batch": prompts}, "prompts", rows
    )

    def following() -> Any:
        ended = np.zeros(rows, bool)
        return decode.decode.trace(
            model.params, one.adapters, state, ended, new, None, keys, options=options
        )

    yield PlannedProgram(
        f"{stage}: one token of answers",
        following,
        {**frozen, "state": state},
        "tokens",
        rows,
    )


def decode_state(first: Callable[[], Any], mesh: Mesh) -> decode.State:
    """A batch under way as shapes, where `mmjax.generation.decode` puts it.

    Args:
      first: traces the reading of the prompts.
      mesh: over the devices.
    """
    made = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), first().out_info)
    heads = sharding.fit(
        [(r".*", jax.sharding.PartitionSpec(None, "data", "model"))], {"k": made.past[0]}, mesh
    )
    (where,) = jax.tree.leaves(
        sharding.shardings({"k": made.past[0]}, mesh, heads),
        is_leaf=lambda x: isinstance(x, jax.sharding.Sharding),
    )
    past = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), made.past)
    mask = shaped(mesh, made.mask.shape, made.mask.dtype)
    rest = (whole(x, mesh) for x in made[2:])
    return decode.State(past, mask, *rest)  # type: ignore[arg-type]
