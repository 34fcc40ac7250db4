"""A ring of devices: who sends to whom, and how what is sent is packed."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Int

AXIS = "data"


@functools.cache
def ring_order(mesh: Mesh) -> tuple[int, ...]:
    """Places along the axis `data` in the order in which they send; see `closed_way`.

    Args:
      mesh: of any devices; what it knows of TPUs' network are their chips' coordinates.

    Returns:
      Every place once.
    """
    count = mesh.shape[AXIS]
    devices = np.moveaxis(mesh.devices, mesh.axis_names.index(AXIS), 0).reshape(count, -1)[:, 0]
    return closed_way([tuple(getattr(device, "coords", ())) for device in devices])


def closed_way(coordinates: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """A way through all chips of a grid and back, by single links.

    Only such hops are sent beside what is computed: where rows of a grid of 32 or 256 chips follow
    one another from their beginnings, every hop waits for the one before (Google's compiler, v5e).

    Args:
      coordinates: of every place; along a line, hops pass over one at the most.

    Returns:
      Every place once; as they stand where two have the same coordinates or none, where they are
      no whole grid, and where all sides of it are odd, for then there is no such way.
    """
    plain = tuple(range(len(coordinates)))
    if not all(coordinates) or len(set(coordinates)) < len(coordinates):
        return plain
    lines = [sorted(set(along)) for along in zip(*coordinates, strict=True)]
    places = {
        tuple(line.index(x) for line, x in zip(lines, corner, strict=True)): place
        for place, corner in enumerate(coordinates)
    }
    sizes = [len(line) for line in lines]
    even = next((axis for axis, size in enumerate(sizes) if size % 2 == 0), None)
    if even is None or np.prod(sizes) != len(coordinates):
        return plain
    column = _snake(sizes[:even] + sizes[even + 1 :])
    return tuple(
        places[(*rest[:even], row, *rest[even:])] for row, rest in _cycle(sizes[even], column)
    )


def _snake(sizes: list[int]) -> list[tuple[int, ...]]:
    """All places of a grid, each beside the one before it."""
    path: list[tuple[int, ...]] = [()]
    for size in sizes:
        path = [
            (*place, i)
            for number, place in enumerate(path)
            for i in (range(size) if number % 2 == 0 else reversed(range(size)))
        ]
    return path


def _cycle(rows: int, path: list[tuple[int, ...]]) -> list[tuple[int, tuple[int, ...]]]:
    """A closed way through an even number of rows of one path."""
    first, rest = path[0], path[1:]
    if not rest:  # a line: out over every other place, and back over those between
        places = [*range(0, rows, 2), *range(rows - 1, 0, -2)]
        return [(row, first) for row in places]
    way = [(0, first)]
    for row in range(rows):
        way += [(row, place) for place in (rest if row % 2 == 0 else rest[::-1])]
    return way + [(row, first) for row in range(rows - 1, 0, -1)]


def send(tree: Any, mesh: Mesh) -> Any:
    """Sends arrays to the next device of the ring, within `shard_map`.

    Those of one axis and one length go as one, as the bits that they are, in words of 32: a TPU
    has few messages under way at a time.

    Args:
      tree: arrays; with one axis bool, int32 or f32 of equal lengths.
      mesh: the ring goes over its axis `data`.

    Returns:
      The same of the device before.
    """
    order = ring_order(mesh)
    ring = list(zip(order, order[1:] + order[:1], strict=True))
    leaves, structure = jax.tree.flatten(tree)
    words = [_words(x) for x in leaves if x.ndim == 1]
    whole = [x for x in leaves if x.ndim > 1]
    packed = [jnp.stack(words)] if words else []
    whole, packed = lax.ppermute((whole, packed), AXIS, ring)
    rest, rows = iter(whole), iter(packed[0] if packed else ())
    return structure.unflatten(
        _unpacked(next(rows), x.dtype) if x.ndim == 1 else next(rest) for x in leaves
    )


def _words(x: Array) -> Int[Array, "*n"]:
    return x.astype(jnp.int32) if x.dtype == jnp.bool_ else lax.bitcast_convert_type(x, jnp.int32)


def _unpacked(words: Int[Array, "*n"], dtype: Any) -> Array:
    return words != 0 if dtype == jnp.bool_ else lax.bitcast_convert_type(words, dtype)
