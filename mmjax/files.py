"""Files that are whole or not there, and JSON."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mmjax.checks import foreign
from mmjax.errors import MmjaxError, writing


def digest_of(value: Any) -> str:
    """Sha256 of a JSON-able value, the same before it is written and after it is read."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole, as `write_atomic` does."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a whole file or leaves what was there: temporary name, flush to disk, rename.

    Args:
      path: the file to make or replace; its folder must exist.
      content: text (written as UTF-8) or bytes.

    Raises:
      MmjaxError: the file cannot be written, for instance because the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        with writing(path):
            fd, temporary = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
            )
            try:
                os.fchmod(fd, 0o644)  # mkstemp's 0600 would hide a report from its reader
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, path)
    finally:
        # After a rename the name is gone; after any failure the half-written file must go.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:  # os.write may take less than it is given
        view = view[os.write(fd, view) :]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.

    Returns:
      Its content.

    Raises:
      MmjaxError: the file lacks, is too large, or holds no JSON object.
    """
    content = foreign.read_json(path)
    if not isinstance(content, dict):
        raise MmjaxError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def read_optional_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, or gives an empty one where the file does not exist."""
    return read_json(path) if path.exists() else {}
