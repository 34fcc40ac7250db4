"""Files that are whole or not there, and JSON."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.checks import foreign
from mmjax.errors import MmjaxError, writing


def digest_of(value: Any) -> str:
    """Sha256 of a JSON-able value, the same before it is written and after it is read."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hashes a file.

    Args:
      path: the file.

    Returns:
      Hexadecimal sha256.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    """Sha256 of the sorted "NAME SHA256" lines of several files or arrays."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def state_of(path: Path) -> list[int]:
    """What tells a file from an earlier or another one: size, time of change, inode.

    Args:
      path: the file.

    Returns:
      JSON-able numbers; none where it is gone.
    """
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole, as `write_atomic` does."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_atomic(path: Path, content: str | bytes, flush: bool = True) -> None:
    """Writes a whole file or leaves what was there.

    Args:
      path: the file to make or replace; its folder must exist.
      content: text (written as UTF-8) or bytes.
      flush: as of `open_atomic`.

    Raises:
      MmjaxError: the file cannot be written, for instance because the disk is full.
    """
    with open_atomic(path, flush) as write:
        write(content)


@contextlib.contextmanager
def open_atomic(path: Path, flush: bool = True) -> Iterator[Callable[[str | bytes], None]]:
    """Writes a file piece by piece: whole once the block ends, as it was where the block fails.

    Args:
      path: the file to make or replace; its folder must exist.
      flush: to the disk before the file takes its name, so that a machine that goes down leaves no
        half of it. It takes too long for thousands of files that are easily made again.

    Yields:
      What writes text (as UTF-8) or bytes behind what was written.

    Raises:
      MmjaxError: the file cannot be written, for instance because the disk is full.
    """
    temporary: str | None = None
    try:
        with writing(path):
            fd, temporary = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
            )

        def write(content: str | bytes) -> None:
            with writing(path):
                _write_all(fd, content.encode() if isinstance(content, str) else content)

        try:
            yield write
            with writing(path):
                os.fchmod(fd, 0o644)  # mkstemp's 0600 would hide a report from its reader
                if flush:
                    os.fsync(fd)
        finally:
            os.close(fd)
        with writing(path):
            os.replace(temporary, path)
    finally:
        # After a rename the name is gone; after any failure the half-written file must go.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:  # os.write may take less than it is given
        view = view[os.write(fd, view) :]


def write_tensors(path: Path, tensors: dict[str, Any], form: str = "pt") -> None:
    """Writes a safetensors file for whoever may read the folder: the library's own is its owner's.

    Args:
      path: the file to make or replace.
      tensors: name -> array, in C order.
      form: the framework that they are for, which Hugging Face's loaders ask for.
    """
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata={"format": form})
    path.chmod(0o644)


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.

    Returns:
      Its content.

    Raises:
      MmjaxError: the file lacks, is too large, or holds no JSON object.
    """
    content = foreign.read_bounded_json(path)
    if not isinstance(content, dict):
        raise MmjaxError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def read_optional_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, or gives an empty one where the file does not exist."""
    return read_json_object(path) if path.exists() else {}
