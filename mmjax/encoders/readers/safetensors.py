"""Reads safetensors files."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mmjax.errors import WeightsError

_LONGEST_HEADER = 100_000_000  # bytes, as the format says


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
        try:
            self._file = safe_open(path, framework="np")
            _refuse_twins(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                f"{path} is damaged or cut short ({error}); fetch it again"
            ) from error

    def keys(self) -> Iterable[str]:
        """All tensor names."""
        return self._file.keys()

    def header(self, key: str) -> tuple[str, tuple[int, ...]]:
        """(dtype name, shape) of a tensor."""
        view = self._file.get_slice(key)
        return view.get_dtype(), tuple(view.get_shape())

    def read(self, key: str) -> np.ndarray:
        """The tensor."""
        try:
            return self._file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{self._path}: cannot read tensor {key!r}: {error}") from error


def _refuse_twins(path: Path) -> None:
    """JSON allows a name twice, and the safetensors package would take the last."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = dict(pairs)
        if len(names) != len(pairs):
            twins = sorted({name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1})
            raise ValueError(f"its header has {', '.join(twins)} twice")
        return names

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(min(length, _LONGEST_HEADER)), object_pairs_hook=unique)
