"""What a run changes: one pytree, donated to every step and saved in every checkpoint."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, UInt32

from mmjax.trees import PyTree


class TrainState(NamedTuple):
    """The trainable half of a run. The frozen half is never part of it.

    Attributes:
      step: int32 scalar, optimizer steps taken.
      trainable: the adapter's parameters, f32.
      opt_state: optax state over `trainable`.
      key_data: uint32 data of the run's PRNG key; a step folds its number into it.
    """

    step: Int[Array, ""]
    trainable: PyTree
    opt_state: Any
    key_data: UInt32[Array, " k"]


def create(trainable: PyTree, tx: optax.GradientTransformation, key: Key[Array, ""]) -> TrainState:
    """The state before the first step.

    Args:
      trainable: initial adapter parameters.
      tx: the optimizer.
      key: the run's PRNG key (dropout, sampling on the device).

    Returns:
      A fresh TrainState.
    """
    return TrainState(
        jnp.zeros((), jnp.int32), trainable, tx.init(trainable), jax.random.key_data(key)
    )
