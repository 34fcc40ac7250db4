"""Reads GGUF files: metadata, and weights dequantised one by one."""

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.errors import WeightsError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Bytes of each scalar type. A string is a length and bytes, an array a type, a length and items.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
# The least that a tensor's entry (name length, rank, type, offset) and a key's can take.
_TENSOR_BYTES, _KEY_BYTES = 24, 13


@dataclass(frozen=True)
class GgufFile:
    """An opened file.

    Attributes:
      path: the file.
      metadata: key -> int, float, bool, str or list of those.
      shapes: the file's tensor names -> shape as torch has it, [out, in].
      tensors: what the gguf package makes of each tensor.
    """

    path: Path
    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    tensors: dict[str, Any]

    def weights(self, dtype: Any = np.float32) -> Iterator[tuple[str, np.ndarray]]:
        """Dequantises the tensors one at a time.

        Args:
          dtype: floating-point type of the arrays; f16 halves what must be held in memory.

        Yields:
          (name, array of the shape [out, in]) in the file's order.

        Raises:
          WeightsError: a type that the gguf package cannot dequantise, or numbers not finite.
        """
        for name in self.tensors:
            yield name, self.weight(name).astype(dtype, copy=False)

    def weight(self, name: str) -> np.ndarray:
        """Dequantises one tensor.

        Args:
          name: the file's name of it.

        Returns:
          Float32 [out, in].

        Raises:
          WeightsError: a type that the gguf package cannot dequantise, or numbers not finite.
        """
        from gguf import dequantize

        tensor = self.tensors[name]
        try:
            array = dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise WeightsError(f"{self.path}: cannot dequantise {name} ({error})") from error
        if not np.isfinite(array).all():
            raise WeightsError(f"{self.path}: {name} holds NaN or infinite numbers")
        return array.reshape(self.shapes[name])


def read(path: Path) -> GgufFile:
    """Opens a GGUF file and reads its metadata; weights are mapped, not loaded.

    Args:
      path: the file.

    Returns:
      The opened file.

    Raises:
      WeightsError: another format or version, or a truncated or damaged file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(24)
    if head[:4] != _MAGIC:
        raise WeightsError(f"{path} starts with {head[:4]!r}, expected {_MAGIC!r}: no GGUF file")
    if len(head) < 24:
        raise WeightsError(f"{path} is truncated: {len(head)} bytes; fetch it again")
    version, tensors, keys = struct.unpack("<IQQ", head[4:])
    if version not in _VERSIONS:
        raise WeightsError(f"{path} has GGUF version {version}, known are {_VERSIONS}")
    # Counts are checked first: the package would loop over whatever they say.
    if tensors * _TENSOR_BYTES + keys * _KEY_BYTES > size:
        raise WeightsError(
            f"{path} is damaged: {tensors} tensors and {keys} keys do not fit into {size} bytes"
        )
    try:
        _check_lengths(path, tensors, keys)
        return _parse(path)
    except WeightsError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError) as error:
        raise WeightsError(
            f"{path} is truncated or damaged ({type(error).__name__}: {error}); fetch it again"
        ) from error


def _check_lengths(path: Path, tensors: int, keys: int) -> None:
    """Walks the header: the package would loop over any length and multiply any shape."""
    data = np.asarray(np.memmap(path, np.uint8, mode="r"))  # a memmap's own slices are slow
    at = 24

    def skip(count: int) -> int:
        nonlocal at
        if count > len(data) - at:
            raise WeightsError(f"{path} is truncated or damaged: {count} bytes needed at {at}")
        at += count
        return at - count

    def number(nbytes: int) -> int:
        start = skip(nbytes)
        return int.from_bytes(data[start : start + nbytes].tobytes(), "little")

    def skip_values(kind: int, count: int) -> None:
        if kind in _SCALARS:
            skip(_SCALARS[kind] * count)
        elif kind == _STRING:
            for _ in range(count):
                skip(number(8))
        else:
            raise WeightsError(f"{path} is damaged: a value of type {kind} at byte {at}")

    for _ in range(keys):
        skip(number(8))
        kind = number(4)
        if kind == _ARRAY:
            kind, count = number(4), number(8)
            skip_values(kind, count)
        else:
            skip_values(kind, 1)
    for _ in range(tensors):
        skip(number(8))
        rank = number(4)
        if rank > _MOST_DIMENSIONS:
            raise WeightsError(f"{path} is damaged: a tensor of {rank} dimensions")
        size = math.prod(number(8) for _ in range(rank))
        skip(12)  # type and offset
        # No type has more than 16 weights in a byte.
        if size > 16 * len(data):
            raise WeightsError(f"{path} is damaged: a tensor of {size} weights does not fit")


def _parse(path: Path) -> GgufFile:
    from gguf import GGUFReader  # slow to import, seldom needed

    reader = GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    size = path.stat().st_size
    tensors, shapes = {}, {}
    for before, after in itertools.pairwise(sorted(reader.tensors, key=lambda t: t.data_offset)):
        if before.data_offset + before.n_bytes > after.data_offset:
            raise WeightsError(f"{path} is damaged: {before.name} and {after.name} overlap")
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            raise WeightsError(f"{path} is truncated: {tensor.name} ends past byte {size}")
        tensors[tensor.name] = tensor
        # GGUF counts the fastest axis first.
        shapes[tensor.name] = tuple(int(n) for n in reversed(tensor.shape))
    return GgufFile(path, metadata, shapes, tensors)
