"""Some steps of a task, as the trainer makes them."""

from typing import Any

import jax
import jax.numpy as jnp

from mmjax import optim
from mmjax.specs.spec import OptimSpec
from mmjax.state import create
from mmjax.step import make_train_step


def run(
    task: Any, trainable: Any, frozen: Any, batch: Any, steps: int = 3, lr: float = 0.02
) -> Any:
    """(state, loss of each step); `trainable` stays whole."""
    spec = OptimSpec(lr=lr, weight_decay=0.1, schedule="constant")
    tx, _ = optim.make_optimizer(spec, trainable, steps)
    state = create(jax.tree.map(jnp.copy, trainable), tx, jax.random.key(1))
    step, losses = make_train_step(task, tx), []
    for _ in range(steps):
        state, found = step(state, frozen, batch)
        losses.append(float(found["loss"].total))
    return state, losses
