"""The train step: pure, gradients of the trainable tree only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Key

from mmjax.encoders.output import Batch
from mmjax.metrics import Mean, Metrics
from mmjax.state import TrainState
from mmjax.tasks.base import Embedding, Task, Weighted
from mmjax.tasks.gradient_cache import cached_gradient, cut
from mmjax.trees import PyTree

Step = Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]


class TrainStep:
    """A compiled step: (state, frozen, batch) -> (state, metrics).

    The state comes back in the shardings that it came in. Left to itself the compiler would lay out
    what grew from split weights as those lie, over processes of which none could read it whole.
    """

    def __init__(self, step: Step) -> None:
        """Nothing is compiled yet.

        Args:
          step: a pure function; its state is donated.
        """
        self._step = step
        self._programs: dict[tuple[NamedSharding | None, ...], Any] = {}

    def __call__(
        self, state: TrainState, frozen: PyTree, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        """Takes one step."""
        return self._program(state)(state, frozen, batch)

    def trace(self, state: TrainState, frozen: PyTree, batch: PyTree) -> jax.stages.Traced:
        """The step for arguments, or shapes of such, before it is lowered."""
        return self._program(state).trace(state, frozen, batch)

    def lower(self, state: TrainState, frozen: PyTree, batch: PyTree) -> jax.stages.Lowered:
        """The step's program for arguments, or shapes of such, before it is compiled."""
        return self._program(state).lower(state, frozen, batch)

    def _cache_size(self) -> int:
        """Compiled programs so far, as functions of `jax.jit` count their own."""
        return sum(program._cache_size() for program in self._programs.values())

    def _program(self, state: TrainState) -> Any:
        """`jax.jit`'s own, which returns a state as this one lies; None lies anywhere."""
        placed = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(state)]
        kept = tuple(s if isinstance(s, NamedSharding) else None for s in placed)
        if kept not in self._programs:
            out = jax.tree.unflatten(jax.tree.structure(state), kept), None
            self._programs[kept] = jax.jit(self._step, donate_argnums=0, out_shardings=out)
        return self._programs[kept]


def make_train_step(
    task: Task, tx: optax.GradientTransformation, accumulate: int = 1, shards: int = 1
) -> TrainStep:
    """Compiles one optimizer step of a task.

    The frozen tree is an argument: it is never differentiated, donated or returned. The state is
    donated, and comes back in the shardings that it came in.

    Args:
      task: gives the loss.
      tx: the optimizer over the trainable tree.
      accumulate: micro-batches that a batch is cut into, one after the other, to save memory; the
        gradient is that of the whole batch, as each is weighted by what its loss is a mean over; of
        a task that compares rows it is computed in two passes (`mmjax.tasks.gradient_cache`).
      shards: devices that the batch is split over. Each cuts its own rows, so that all of them work
        on every micro-batch and no row moves.

    Returns:
      (state, frozen, batch) -> (state, metrics). Metrics hold the task's own, `grad_norm` of the
      trainable tree and `loss`.
    """
    gradient: Callable[..., Any] = jax.value_and_grad(task.loss, has_aux=True)
    if accumulate > 1 and isinstance(task, Embedding):
        gradient = cached_gradient(task, accumulate, shards)
    elif accumulate > 1:
        assert isinstance(task, Weighted)
        gradient = _accumulated(task, gradient, accumulate, shards)

    def train_step(state: TrainState, frozen: PyTree, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        (loss, metrics), grads = gradient(state.trainable, frozen, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        one = jnp.ones((), jnp.float32)
        metrics = metrics | {
            "loss": Mean(loss.astype(jnp.float32), one),
            "grad_norm": Mean(optax.tree.norm(grads), one),
        }
        trainable = optax.apply_updates(state.trainable, updates)
        return TrainState(state.step + 1, trainable, opt_state, state.key_data), metrics

    return TrainStep(train_step)


def _accumulated(
    task: Weighted, gradient: Callable[..., Any], count: int, shards: int
) -> Callable[[PyTree, PyTree, Batch, Key[Array, ""]], Any]:
    """`gradient` over micro-batches: sums of weighted parts, divided once."""

    def run(
        trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[tuple[Float[Array, ""], Metrics], PyTree]:
        parts = jax.tree.map(lambda x: cut(x, count, shards), dict(batch))

        def one(sums: PyTree, part: tuple[Batch, Key[Array, ""]]) -> tuple[PyTree, Metrics]:
            (loss, metrics), grads = gradient(trainable, frozen, *part)
            weight = task.weight(part[0])
            # A micro-batch of padding alone has no mean; it weighs nothing.
            scaled = jax.tree.map(lambda x: jnp.where(weight > 0, x * weight, 0), (loss, grads))
            return jax.tree.map(jnp.add, sums, (*scaled, weight)), metrics

        zero = jnp.zeros((), jnp.float32)
        start = (zero, jax.tree.map(jnp.zeros_like, trainable), zero)
        (loss, grads, weight), metrics = jax.lax.scan(
            one, start, (parts, jax.random.split(key, count))
        )
        loss, grads = jax.tree.map(lambda x: x / weight, (loss, grads))
        return (loss, jax.tree.map(lambda x: x.sum(0), metrics)), grads

    return run
