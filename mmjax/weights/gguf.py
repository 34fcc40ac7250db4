"""Reads GGUF files: metadata, and weights dequantised one by one."""

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmjax.checks import foreign, foreign_arrays
from mmjax.errors import WeightsError, shown
from mmjax.weights import vocabulary

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# What each scalar type is. A string is a length and bytes, an array a type, a length and items.
_SCALARS = {
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4"},
    **{7: "?", 10: "<u8", 11: "<i8", 12: "<f8"},
}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS, _MOST_KEYS = 4, 10_000
_LARGEST_HEADER = 1 << 26  # bytes of names, metadata and vocabulary; published ones have 10 million
_ALIGNMENT = 32  # bytes, where the file says nothing


@dataclass(frozen=True)
class GgufWeights:
    """Where a tensor lies, and in which type.

    Attributes:
      kind: ggml's type of it.
      shape: as torch has it, [out, in].
      start: its first byte.
      nbytes: its length.
    """

    kind: "GGMLQuantizationType"
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """An opened file.

    Attributes:
      path: the file.
      metadata: key -> int, float, bool, str or list of those.
      tensors: the file's tensor names -> where they lie.
      data: its bytes, mapped.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufWeights]
    data: np.ndarray = field(repr=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The file's tensor names -> shape as torch has it, [out, in]."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

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
        from gguf import GGMLQuantizationType, dequantize

        tensor = self.tensors[name]
        data = self.data[tensor.start : tensor.start + tensor.nbytes]
        if tensor.kind == GGMLQuantizationType.F64:
            array = data.view(np.float64).astype(np.float32)
        else:
            with foreign.reading(self.path, f"weights: cannot dequantise {shown(name)}"):
                array = dequantize(data.reshape(*tensor.shape[:-1], -1), tensor.kind)
        return foreign_arrays.finite(f"{self.path}: {name}", array.reshape(tensor.shape))


def read_gguf(path: Path) -> GgufFile:
    """Opens a GGUF file and reads its metadata; weights are mapped, not loaded.

    Args:
      path: the file.

    Returns:
      The opened file.

    Raises:
      WeightsError: another format or version, or a truncated or damaged file.

    Source:
      https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
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
    if tensors > foreign.MOST_TENSORS or keys > _MOST_KEYS:
        raise WeightsError(
            f"{path} is damaged: {tensors} tensors and {keys} keys do not fit into {size} bytes; "
            f"at most {foreign.MOST_TENSORS} and {_MOST_KEYS} are read"
        )
    with foreign.reading(path, "a GGUF file: it is truncated or damaged"):
        return _Header(path).read(tensors, keys)


class _Header:
    """Reads forward through metadata and tensors' names, and never past the end."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 24
        self.data = np.asarray(np.memmap(path, np.uint8, mode="r"))

    def read(self, tensors: int, keys: int) -> GgufFile:
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            name = self.text()
            if name in metadata:
                raise WeightsError(f"{self.path} is damaged: the key {shown(name)} stands twice")
            metadata[name] = self.value(self.number(4))
        entries = [self.entry() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        foreign.integer(f"{self.path}: general.alignment", alignment, 1, 1 << 20)
        if alignment & (alignment - 1):
            raise WeightsError(f"{self.path}: general.alignment {alignment} is no power of two")
        start = -(-self.at // alignment) * alignment
        return GgufFile(self.path, metadata, self.placed(entries, start), self.data)

    def take(self, count: int) -> np.ndarray:
        """The next bytes."""
        if count > len(self.data) - self.at:
            raise WeightsError(
                f"{self.path} is truncated or damaged: {count} bytes needed at {self.at}, it has "
                f"{len(self.data)}"
            )
        if self.at + count > _LARGEST_HEADER:
            raise WeightsError(f"{self.path} has more than {_LARGEST_HEADER} bytes of metadata")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, nbytes: int) -> int:
        return int.from_bytes(self.take(nbytes).tobytes(), "little")

    def text(self) -> str:
        content = self.take(self.number(8)).tobytes()
        return foreign.text(f"{self.path}: a text", content.decode())

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalars(kind, 1)[0]
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise WeightsError(f"{self.path} is damaged: a value of type {kind} at byte {self.at}")
        kind, count = self.number(4), self.number(8)
        if kind not in (*_SCALARS, _STRING) or count > vocabulary.MOST:
            raise WeightsError(
                f"{self.path} is damaged: a list of {count} values of type {kind} at byte {self.at}"
            )
        if kind in _SCALARS:
            return self.scalars(kind, count)
        return [self.text() for _ in range(count)]

    def scalars(self, kind: int, count: int) -> list[Any]:
        dtype = np.dtype(_SCALARS[kind])
        return self.take(count * dtype.itemsize).view(dtype).tolist()

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape with the fastest axis first, type, offset) of a tensor."""
        name, rank = self.text(), self.number(4)
        if not 1 <= rank <= _MOST_DIMENSIONS:
            raise WeightsError(f"{self.path} is damaged: a tensor of {rank} dimensions")
        return name, tuple(self.number(8) for _ in range(rank)), self.number(4), self.number(8)

    def placed(
        self, entries: list[tuple[str, tuple[int, ...], int, int]], start: int
    ) -> dict[str, GgufWeights]:
        """Where the tensors lie: inside the file, each by itself."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # slow to import, seldom needed

        tensors: dict[str, GgufWeights] = {}
        for name, shape, number, offset in entries:
            kind = GGMLQuantizationType(number)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            nbytes = math.prod(shape) // block * block_bytes
            at = start + offset
            if name in tensors:
                raise WeightsError(f"{self.path} is damaged: the tensor {shown(name)} stands twice")
            if 0 in shape or shape[0] % block or at + nbytes > len(self.data):
                raise WeightsError(
                    f"{self.path} is truncated or damaged: {shown(name)} of {list(shape)} weights "
                    f"in {kind.name} does not fit into {len(self.data)} bytes"
                )
            tensors[name] = GgufWeights(kind, shape[::-1], at, nbytes)
        ordered = sorted(tensors.items(), key=lambda item: item[1].start)
        for (before, first), (after, second) in itertools.pairwise(ordered):
            if first.start + first.nbytes > second.start:
                raise WeightsError(
                    f"{self.path} is damaged: {shown(before)} and {shown(after)} overlap"
                )
        return tensors
