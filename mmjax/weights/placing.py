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


def in_rows(placement: Sharding | None, ndim: int) -> Format | Sharding | None:
    """Where a parameter lies, and on a TPU in which order.

    Loops over layers read row-major stacks. A TPU's own order of an array is another one where that
    needs less padding, and each program would copy such a stack whole before it begins.

    Args:
      placement: None is the default device.
      ndim: axes of the parameter.

    Returns:
      The placement itself but for TPUs.
    """
    if isinstance(placement, NamedSharding) and isinstance(placement.mesh, AbstractMesh):
        return placement
    devices: list[Any] = jax.devices()[:1] if placement is None else list(placement.device_set)
    if not ndim or devices[0].platform != "tpu":
        return placement
    rows = Layout(tuple(range(ndim)))
    return Format(rows, SingleDeviceSharding(devices[0]) if placement is None else placement)


def _place(value: np.ndarray, placement: NamedSharding | None) -> jax.Array:
    where = in_rows(placement, value.ndim)
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
    return _zeros_at(shape, dtype, in_rows(placement, len(shape)))()


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
    return _insert_at(in_rows(placement, stack.ndim))(stack, layer, at)


@functools.cache
def _insert_at(where: Any) -> Any:
    def insert(stack: Array, layer: Array, at: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(stack, layer, at, 0)

    return jax.jit(insert, donate_argnums=0, out_shardings=where)
