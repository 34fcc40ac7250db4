"""Fits projectors to arrays in memory: one compilation for a set of sizes, whatever the data."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # pyright: ignore[reportMissingTypeStubs]  # it has none
from jaxtyping import Array, Bool, Float, Int

from mmjax import optim
from mmjax.encoders.output import Tower
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.spec import OptimSpec
from mmjax.tasks import typed
from mmjax.tasks.projection.task import LABEL, ProjectionTask
from mmjax.trees import PyTree

ROWS = 1024  # projected at a time, padded: one compilation whatever the number of rows
STEPS = 16  # optimizer steps of one call, for the same reason


class Modalities(NamedTuple):
    """Features of every modality, finite everywhere, and which examples have it."""

    features: list[Float[np.ndarray, "n _"]]
    present: list[Bool[np.ndarray, " n"]]

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each modality."""
        return tuple(x.shape[1] for x in self.features)


@dataclasses.dataclass(frozen=True)
class FitSpec:
    """How long and how fast; see `mmjax.sklearn.ContrastiveProjection`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What came out: parameters as NumPy arrays, and a loss for every epoch."""

    params: PyTree
    losses: list[float]
    validation: list[float]


class _State(NamedTuple):
    """What training carries along."""

    params: PyTree
    opt_state: Any
    key: Any


class Program(NamedTuple):
    """The compiled functions of one set of sizes."""

    roles: tuple[str, ...]
    start: Callable[..., _State]
    run: Callable[..., tuple[_State, Any]]
    measure: Callable[..., Any]
    project: Mapping[str, Callable[..., Any]]

    def batch(
        self, data: Modalities, labels: Int[np.ndarray, " n"], chunk: Int[np.ndarray, "*steps b"]
    ) -> dict[str, Any]:
        """Gathers examples; -1 is padding."""
        roles = {
            role: {"features": x[chunk], "present": kept[chunk] & (chunk >= 0)}
            for role, x, kept in zip(self.roles, *data, strict=True)
        }
        return {**roles, LABEL: {LABEL: labels[chunk]}}


@functools.lru_cache(maxsize=32)
def program(spec: ProjectionSpec, widths: tuple[int, ...]) -> Program:
    """The functions of these sizes; whoever asks again gets the compiled ones.

    Args:
      spec: loss and sizes of the projectors.
      widths: of each modality.

    Returns:
      The program; its roles are modality_0, modality_1 ...
    """
    roles = tuple(f"modality_{number}" for number in range(len(widths)))
    towers = {role: Tower(role, width) for role, width in zip(roles, widths, strict=True)}
    task = ProjectionTask(towers, spec)
    quiet = ProjectionTask(towers, dataclasses.replace(spec, dropout=0.0))

    def optimizer(params: PyTree, rates: Any) -> optax.GradientTransformation:
        return optax.adamw(rates[0], weight_decay=rates[1], mask=optim.decayed(OptimSpec(), params))

    def start(key: Any, examples: Any, train_key: Any) -> _State:
        params = task.init(key, {}, examples)
        return _State(params, optimizer(params, (0.0, 0.0)).init(params), train_key)

    def step(state: _State, batch: Any, rates: Any) -> tuple[_State, Any]:
        key, sub = jax.random.split(state.key)

        def loss_of(params: PyTree) -> Float[Array, ""]:
            return task.loss(params, {}, batch, sub)[0]

        loss, grads = typed.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer(state.params, rates).update(
            grads, state.opt_state, state.params
        )
        return _State(optax.apply_updates(state.params, updates), opt_state, key), loss

    @typed.jit
    def run(state: _State, batches: Any, rates: Any) -> tuple[_State, Any]:
        def one(state: _State, batch: Any) -> tuple[_State, Any]:
            some = jnp.stack([batch[role]["present"].any() for role in roles]).any()
            # Padding is no step: Adam would move on, out of habit, without any gradient.
            return typed.cond(
                some, lambda: step(state, batch, rates), lambda: (state, jnp.zeros(()))
            )

        return jax.lax.scan(one, state, batches)

    @typed.jit
    def measure(state: _State, batch: Any) -> Any:
        return quiet.loss(state.params, {}, batch, state.key)[0]

    def projecting(role: str) -> Callable[[PyTree, Any], Array]:
        return lambda params, x: task.project(role, params, {}, {"features": x})

    project = {role: typed.jit(projecting(role)) for role in roles}
    return Program(roles, start, run, measure, project)


def fit(
    spec: ProjectionSpec,
    how: FitSpec,
    data: Modalities,
    labels: Int[np.ndarray, " n"],
    rng: np.random.RandomState,
    held: Int[np.ndarray, " h"] | None = None,
) -> Fitted:
    """Trains projectors from scratch.

    Args:
      spec: loss and sizes.
      how: epochs, batches, rates.
      data: all examples.
      labels: int32 class of every example.
      rng: draws initial values, order and dropout.
      held: examples that are not trained on; the epoch with the lowest loss on them is kept, and
        `how.patience` epochs without a lower one end the training.

    Returns:
      The parameters and the losses of all epochs.

    Raises:
      ValueError: the loss is not finite.
    """
    compiled = program(spec, data.widths)
    rows = np.arange(len(labels)) if held is None else np.setdiff1d(np.arange(len(labels)), held)
    init_key, key = jax.random.split(jax.random.key(rng.randint(2**31 - 1)))
    few = len(rows) if spec.standardize else 2
    examples = {
        role: {"features": jnp.asarray(x[rows][kept[rows]][:few])}
        for role, x, kept in zip(compiled.roles, *data, strict=True)
    }
    best = state = compiled.start(init_key, examples, key)
    rates = np.float32(how.learning_rate), np.float32(how.weight_decay)
    losses: list[float] = []
    validation: list[float] = []
    for _ in range(how.epochs):
        each: list[np.ndarray] = []
        for chunk in _chunks(rng.permutation(rows), how.batch_size):
            state, chunk_losses = compiled.run(state, compiled.batch(data, labels, chunk), rates)
            each.append(np.asarray(chunk_losses)[(chunk >= 0).any(axis=1)])
        losses.append(float(np.concatenate(each).mean()))
        if not np.isfinite(losses[-1]):
            raise ValueError("the loss is not finite; try a lower learning_rate, or scale X")
        if held is None:
            best = state
            continue
        validation.append(float(compiled.measure(state, compiled.batch(data, labels, held))))
        behind = len(validation) - 1 - int(np.argmin(validation))
        if not behind:
            best = state
        elif behind >= how.patience:
            break
    return Fitted(jax.tree.map(np.asarray, best.params), losses, validation)


def project(spec: ProjectionSpec, params: PyTree, data: Modalities) -> Float[np.ndarray, "n e"]:
    """Projects examples, the modalities' outputs side by side; 0 for one that is not there.

    Args:
      spec: as fitted.
      params: as fitted.
      data: examples.

    Returns:
      f32.
    """
    compiled = program(spec, data.widths)
    out: list[np.ndarray] = []
    for role, x, kept in zip(compiled.roles, *data, strict=True):
        parts: list[np.ndarray] = []
        for start in range(0, len(x), ROWS):
            part = x[start : start + ROWS]
            padded = np.pad(part, ((0, ROWS - len(part)), (0, 0)))
            parts.append(np.asarray(compiled.project[role](params, padded))[: len(part)])
        out.append(np.where(kept[:, None], np.concatenate(parts), np.float32(0)))
    return np.concatenate(out, axis=1)


def _chunks(order: Int[np.ndarray, " n"], size: int) -> Iterator[Int[np.ndarray, "steps b"]]:
    """Numbers of examples, STEPS batches at a time; -1 fills up the last batches."""
    whole = STEPS * size
    for start in range(0, len(order), whole):
        part = order[start : start + whole]
        padded = np.full(whole, -1, order.dtype)
        padded[: len(part)] = part
        yield padded.reshape(STEPS, size)
