"""Which files of an asset were found whole, so that each is hashed once and not at every start.

A file counts as checked as long as its size, its time of change and its inode are those of the
check. What changes without any of these (a disk that rots) `python -m mmjax.assets verify` finds.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax import files as disk
from mmjax.progress import track

# Of this process, for a cache that cannot be written.
_SEEN: dict[Path, dict[str, list[int]]] = {}


def damaged(name: str, folder: Path, files: Mapping[str, Any]) -> list[str]:
    """Hashes those files of an asset that are not known to be whole.

    Args:
      name: of the asset, for messages.
      folder: of its ready files.
      files: relative name -> {"sha256"} as the asset's card has it.

    Returns:
      Names of files whose bytes are not those of the card.
    """
    states = _read(folder)
    unknown = [file for file in sorted(files) if states.get(file) != disk.state_of(folder / file)]
    if not unknown:
        return []
    damaged_files = [
        file
        for file in track(unknown, f"checking the files of {name}")
        if disk.sha256_of(folder / file) != files[file]["sha256"]
    ]
    if not damaged_files:
        remember(name, folder, files)
    return damaged_files


def remember(name: str, folder: Path, files: Mapping[str, Any]) -> None:
    """Notes that all files of an asset were found whole as they now are.

    Args:
      name: of the asset.
      folder: of its ready files.
      files: their relative names.
    """
    states = {file: disk.state_of(folder / file) for file in files}
    _SEEN[folder] = states
    record = _record(folder)
    temporary = record.with_name(f"{record.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # a cache of others: hashed once a process
        record.parent.mkdir(exist_ok=True)
        try:
            temporary.write_text(json.dumps(states) + "\n", "utf-8")
            os.replace(temporary, record)
        finally:
            temporary.unlink(missing_ok=True)


def _read(folder: Path) -> Mapping[str, Any]:
    if folder in _SEEN:
        return _SEEN[folder]
    try:
        states = json.loads(_record(folder).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return states if isinstance(states, dict) else {}


def _record(folder: Path) -> Path:
    return folder.parent / ".checked" / f"{folder.name}.json"
