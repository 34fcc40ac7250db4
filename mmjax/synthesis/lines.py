"""Files of JSON lines that are larger than memory: written whole, found again, mended."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmjax.data.files import read_jsonl
from mmjax.errors import writing
from mmjax.files import open_atomic

_BLOCK = 1 << 16


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Writes a whole file line by line, or leaves what was there.

    Args:
      path: the file to make or replace; its folder must exist.
      lines: with their line feeds; never all in memory.

    Returns:
      How many there were.

    Raises:
      MmjaxError: the file cannot be written.
    """
    count = 0
    with open_atomic(path) as write:
        for line in lines:
            write(line)
            count += 1
    return count


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Adds lines to a file, with their line feeds; they are on the disk when this returns.

    Raises:
      MmjaxError: the file cannot be written.
    """
    with writing(path), path.open("ab") as file:
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def read_placed(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields (byte where its line begins, "FILE, row N", object) of a JSON-lines file.

    Raises:
      DataError: as `read_jsonl`.
    """
    # `read_jsonl` is ahead of the places, so that they come of lines that are good.
    for (where, content), place in zip(read_jsonl(path), _places(path), strict=True):
        yield place, where, content


def _places(path: Path) -> Iterator[int]:
    """Where lines begin that are not blank, as `read_jsonl` counts them."""
    with path.open("rb") as file:
        place = 0
        for line in file:
            if line.decode("utf-8" if place else "utf-8-sig").strip():
                yield place
            place += len(line)


def drop_torn(path: Path) -> None:
    """Cuts off the end of a file that a killed process had not written whole; none may be there."""
    if not path.exists():
        return
    with writing(path), path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start if newline < 0 else start + newline + 1
            if newline >= 0:
                break
        if end < size:
            file.truncate(end)
