"""The train step: pure, gradients of the trainable tree only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax.metrics import Mean, Metrics
from mmjax.state import TrainState
from mmjax.tasks.base import Batch, Task
from mmjax.trees import PyTree

TrainStep = Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]


def make_train_step(task: Task, tx: optax.GradientTransformation, **jit_options: Any) -> TrainStep:
    """Compiles one optimizer step of a task.

    The frozen tree is an argument: it is never differentiated, donated or returned. The state is
    donated.

    Args:
      task: gives the loss.
      tx: the optimizer over the trainable tree.
      **jit_options: passed to `jax.jit` (shardings).

    Returns:
      (state, frozen, batch) -> (state, metrics). Metrics hold the task's own, `grad_norm` of the
      trainable tree and `loss`.
    """

    def train_step(state: TrainState, frozen: PyTree, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        (loss, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(
            state.trainable, frozen, batch, key
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        one = jnp.ones((), jnp.float32)
        metrics = metrics | {
            "loss": Mean(loss.astype(jnp.float32), one),
            "grad_norm": Mean(optax.tree.norm(grads), one),
        }
        trainable = optax.apply_updates(state.trainable, updates)
        return TrainState(state.step + 1, trainable, opt_state, state.key_data), metrics

    return jax.jit(train_step, donate_argnums=0, **jit_options)
