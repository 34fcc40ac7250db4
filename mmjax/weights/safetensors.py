"""Reads safetensors files."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mmjax.checks import foreign, foreign_arrays
from mmjax.errors import WeightsError

# The format allows a header of 100 MB, which takes gigabytes of memory once it is read.
_LONGEST_HEADER = 1 << 24  # bytes
_A_FILE = "a safetensors file"


class SafetensorsFile:
    """The tensors of a safetensors file by name; each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Reads the header.

        Args:
          path: the file.

        Raises:
          WeightsError: damaged, cut short, or with two tensors of one name.
        """
        self._path = path
        with foreign.reading(path, _A_FILE):
            _check_header(path)
            try:
                self._file = safe_open(path, framework="np")
            except SafetensorError as error:
                raise WeightsError(
                    f"{path} is damaged or cut short ({foreign.reason(error)}); fetch it again"
                ) from error

    def keys(self) -> Iterable[str]:
        """All tensor names."""
        return self._file.keys()

    def header(self, key: str) -> tuple[str, tuple[int, ...]]:
        """(dtype name, shape) of a tensor."""
        view = self._file.get_slice(key)
        return view.get_dtype(), tuple(view.get_shape())

    def read(self, key: str) -> np.ndarray:
        """The tensor.

        Raises:
          WeightsError: it cannot be read, or holds NaN or infinite numbers.
        """
        with foreign.reading(self._path, _A_FILE):
            return foreign_arrays.finite(
                f"{self._path}: tensor {key!r}", self._file.get_tensor(key)
            )


def _check_header(path: Path) -> None:
    """Bounds the header's length, and refuses a name that stands in it twice.

    JSON allows that, and the safetensors package would take the last.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = dict(pairs)
        if len(names) != len(pairs):
            twin, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise WeightsError(f"{path} is damaged: its header has {foreign.shown(twin)} twice")
        return names

    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LONGEST_HEADER):
            raise WeightsError(
                f"{path} is damaged or cut short: it has {size} bytes and says that its header has "
                f"{length}, of which at most {_LONGEST_HEADER} are read"
            )
        header = json.loads(file.read(length), object_pairs_hook=unique)
    if not isinstance(header, dict) or len(header) > foreign.MOST_TENSORS:
        raise WeightsError(
            f"{path}: its header is no object of at most {foreign.MOST_TENSORS} tensors"
        )
