"""Reads GGUF files: metadata, and weights dequantised one by one."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.errors import WeightsError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
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
          WeightsError: a type that the gguf package cannot dequantise.
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
          WeightsError: a type that the gguf package cannot dequantise.
        """
        from gguf import dequantize

        tensor = self.tensors[name]
        try:
            array = dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise WeightsError(f"{self.path}: cannot dequantise {name} ({error})") from error
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
        return _parse(path)
    except WeightsError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError) as error:
        raise WeightsError(
            f"{path} is truncated or damaged ({type(error).__name__}: {error}); fetch it again"
        ) from error


def _parse(path: Path) -> GgufFile:
    from gguf import GGUFReader  # slow to import, seldom needed

    reader = GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    size = path.stat().st_size
    tensors, shapes = {}, {}
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            raise WeightsError(f"{path} is truncated: {tensor.name} ends past byte {size}")
        tensors[tensor.name] = tensor
        # GGUF counts the fastest axis first.
        shapes[tensor.name] = tuple(int(n) for n in reversed(tensor.shape))
    return GgufFile(path, metadata, shapes, tensors)
