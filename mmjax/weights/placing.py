"""Parameters on their way from the host to their devices, one layer of a large stack at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

# From so many bytes on, a stack of layers is never whole on the host. Below it is: that is quicker.
STREAMED = 64 << 20


class Leaf:
    """One parameter under way: filled piece by piece, then placed."""

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, placement: NamedSharding | None, stacked: bool
    ) -> None:
        """Reserves its memory: on the host, or on its devices where it is a large stack.

        Args:
          shape: the parameter's.
          dtype: the parameter's.
          placement: None is the default device.
          stacked: whether the first axis is that of layers, each of which is one piece.
        """
        self._placement, self._dtype = placement, np.dtype(dtype)
        self._host: np.ndarray | None = None
        self._device: jax.Array | None = None
        # A CPU's default device takes the host's array itself: it is never there twice.
        shared = placement is None and jax.default_backend() == "cpu"
        if stacked and not shared and np.prod(shape) * self._dtype.itemsize >= STREAMED:
            self._device = _zeros(shape, self._dtype, placement)
            self._layer = None
            if placement is not None:
                self._layer = NamedSharding(placement.mesh, PartitionSpec(*placement.spec[1:]))
        else:
            self._host = np.empty(shape, dtype)

    def put(self, layer: int | None, value: np.ndarray) -> None:
        """Takes one layer, or the whole where `layer` is None."""
        if self._host is not None:
            self._host[... if layer is None else layer] = value
            return
        assert self._device is not None
        assert layer is not None
        part = _place(np.ascontiguousarray(value, self._dtype), self._layer)
        # Waiting keeps the layers from gathering on the host.
        self._device = _insert(self._device, part, layer, self._placement).block_until_ready()

    def finish(self) -> jax.Array:
        """The parameter, in its sharding."""
        if self._device is not None:
            return self._device
        assert self._host is not None
        return _place(self._host, self._placement)


def _place(value: np.ndarray, placement: NamedSharding | None) -> jax.Array:
    if placement is None:
        return jax.device_put(value)
    return jax.make_array_from_callback(value.shape, placement, lambda index: value[index])


def _pinned(x: Array, placement: NamedSharding | None) -> Array:
    return x if placement is None else jax.lax.with_sharding_constraint(x, placement)


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "placement"))
def _zeros(
    shape: tuple[int, ...], dtype: np.dtype, placement: NamedSharding | None
) -> Shaped[Array, "n ..."]:
    return _pinned(jnp.zeros(shape, dtype), placement)


@functools.partial(jax.jit, donate_argnames="stack", static_argnames="placement")
def _insert(
    stack: Shaped[Array, "n ..."],
    layer: Shaped[Array, "..."],
    at: int | Int[Array, ""],
    placement: NamedSharding | None,
) -> Shaped[Array, "n ..."]:
    """Writes one layer into a stack, in the stack's own memory."""
    return _pinned(jax.lax.dynamic_update_index_in_dim(stack, layer, at, 0), placement)
