"""What is known of files that did not change since they were read: their hashes and their rows."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmjax.data.files import read_jsonl
from mmjax.errors import MmjaxError
from mmjax.files import read_optional_json, sha256_of, state_of, write_json

_SETTLED = 2_000_000_000  # nanoseconds: no clock of a file system ticks slower


class KnownFiles:
    """Hashes and row counts, remembered by a file's size, time of change and inode.

    A file that changed within the last two seconds is read again: it may change once more within
    one tick of the file system's clock, and keep its size.
    """

    def __init__(self, memory: Path) -> None:
        """Nothing is read yet.

        Args:
          memory: the JSON file that remembers; several processes may share it, and the last to
            write wins, as what it holds can be found again.
        """
        self._memory = memory

    def sha256(self, path: Path) -> str:
        """Sha256 of a file, hexadecimal."""
        return str(self._of(path, "sha256", sha256_of))

    def rows(self, path: Path) -> int:
        """Rows of a file of JSON lines, each of which is checked where the file is read."""
        return int(self._of(path, "rows", lambda file: sum(1 for _ in read_jsonl(file))))

    def _of(self, path: Path, what: str, read: Callable[[Path], Any]) -> Any:
        now, stamp = time.time_ns(), state_of(path)
        entry = self._read().get(str(path))
        if not isinstance(entry, dict) or entry.get("stamp") != stamp:
            entry = {"stamp": stamp}
        if what in entry:
            return entry[what]
        value = read(path)
        if stamp and stamp == state_of(path) and now - stamp[1] > _SETTLED:
            write_json(self._memory, {**self._read(), str(path): {**entry, what: value}})
        return value

    def _read(self) -> dict[str, Any]:
        try:
            return read_optional_json(self._memory)
        except MmjaxError:  # damaged: found again
            return {}
