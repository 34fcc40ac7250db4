"""Parameters on their way from the host to their devices, one layer of a large stack at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import (
    AbstractMesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)
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


def in_order(placement: Sharding | None, shape: tuple[int, ...]) -> Format | Sharding | None:
    """Where a parameter lies, and on a TPU in which order.

    What a program reads in another order than it lies in is copied whole before the program begins.
    A device's part of a matrix in a stack of layers is read along its longer side, everything else
    row by row (by libtpu 0.0.52, which compiles a decoder's training step and its decoding so).

    Args:
      placement: None is the default device.
      shape: the parameter's.

    Returns:
      The placement itself but for TPUs.
    """
    if isinstance(placement, NamedSharding) and isinstance(placement.mesh, AbstractMesh):
        return placement
    devices: list[Any] = jax.devices()[:1] if placement is None else list(placement.device_set)
    if not shape or devices[0].platform != "tpu":
        return placement
    order = [*range(len(shape))]
    own = shape if placement is None else placement.shard_shape(shape)
    if len(own) == 3 and own[-2] > own[-1]:
        order[-2:] = reversed(order[-2:])
    where = SingleDeviceSharding(devices[0]) if placement is None else placement
    return Format(Layout(tuple(order)), where)


def _place(value: np.ndarray, placement: NamedSharding | None) -> jax.Array:
    where = in_order(placement, value.shape)
    if placement is None:
        return jax.device_put(value, where)
    made = jax.make_array_from_callback(value.shape, placement, lambda index: value[index])
    return made if where is placement else _laid_out(where)(made)


@functools.cache
def _laid_out(where: Format) -> Any:
    """The program that brings an array into an order."""
    return jax.jit(lambda x: x, out_shardings=where, donate_argnums=0)


def _zeros(
    shape: tuple[int, ...], dtype: np.dtype, placement: NamedSharding | None
) -> Shaped[Array, "n ..."]:
    return _zeros_at(shape, dtype, in_order(placement, shape))()


@functools.cache
def _zeros_at(shape: tuple[int, ...], dtype: np.dtype, where: Any) -> Any:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=where)


def _insert(
    stack: Shaped[Array, "n ..."],
    layer: Shaped[Array, "..."],
    at: int | Int[Array, ""],
    placement: NamedSharding | None,
) -> Shaped[Array, "n ..."]:
    """Writes one layer into a stack, in the stack's own memory."""
    return _insert_at(in_order(placement, stack.shape))(stack, layer, at)


@functools.cache
def _insert_at(where: Any) -> Any:
    def insert(stack: Array, layer: Array, at: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(stack, layer, at, 0)

    return jax.jit(insert, donate_argnums=0, out_shardings=where)
