"""Making room: what the cache holds that can be made again, and how long nothing has used it."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmjax.assets import cache_dir
from mmjax.errors import MmjaxError

# folder of the cache -> what is in it, and what it costs to have it again.
KINDS = {
    "features": "outputs of frozen encoders; computed again when a recipe wants them",
    "compiled": "compiled programs; compiled again",
    "datasets": "data sets made of assets, unpacked tars; made again",
    "rehearsal": "texts that language models wrote; written again",
    "assets": "weights and data; fetched again",
}
USUAL = ("features", "compiled")
_HIDDEN = (".locks", ".work")
RECENT = 3600  # seconds: what a run may be using at this moment


@dataclass(frozen=True)
class CacheEntry:
    """One thing in the cache.

    Attributes:
      kind: of `KINDS`.
      path: file or folder.
      bytes: of all that is in it.
      used: seconds since the epoch, when one of its files was last read or written.
    """

    kind: str
    path: Path
    bytes: int
    used: float


def entries(kinds: Sequence[str] = tuple(KINDS)) -> list[CacheEntry]:
    """All that the cache holds of some kinds, the longest unused first.

    Raises:
      MmjaxError: a kind that there is not.
    """
    cache_entries = []
    for kind in kinds:
        if kind not in KINDS:
            raise MmjaxError(f"the cache has no {kind!r}; it has {', '.join(KINDS)}")
        folder = cache_dir() / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name in _HIDDEN or path.name.endswith(".lock"):
                continue
            try:
                own = path.lstat()
                stats = [f.lstat() for f in (path, *path.rglob("*")) if not f.is_dir()]
            except FileNotFoundError:  # somebody else removed it meanwhile
                continue
            size = sum(s.st_size for s in stats)
            used = max((max(s.st_atime, s.st_mtime) for s in stats), default=own.st_mtime)
            cache_entries.append(CacheEntry(kind, path, size, used))
    return sorted(cache_entries, key=lambda entry: entry.used)


def clean(kinds: Sequence[str] = USUAL, days: float = 0.0, remove: bool = True) -> list[CacheEntry]:
    """Removes what nothing has used for some days.

    Args:
      kinds: of `KINDS`.
      days: that it lay unused at least; what was used within the last hour stays in any case.
      remove: False only says what would go.

    Returns:
      What is gone.

    Raises:
      MmjaxError: a kind that there is not, or something cannot be removed.
    """
    until = time.time() - max(days * 86400, RECENT)
    gone = [entry for entry in entries(kinds) if entry.used < until]
    for entry in gone if remove else ():
        try:
            if entry.path.is_dir() and not entry.path.is_symlink():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink()
        except FileNotFoundError:  # another process was quicker
            continue
        except OSError as error:
            raise MmjaxError(f"cannot remove {entry.path}: {error.strerror}") from error
    return gone
