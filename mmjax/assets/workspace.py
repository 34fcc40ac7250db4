"""Whole or not at all: a lock among processes, a folder to work in, one rename at the end."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmjax.progress import status


@contextlib.contextmanager
def workspace(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder beside the finished ones, for one process at a time.

    Whatever killed processes left under the same name is removed: under the lock it is nobody's.

    Args:
      parent: folder of the finished folders, on whose disk the work is done.
      name: of what is made; processes that make the same thing wait for each other.

    Yields:
      The folder; rename out of it what is finished, the rest is removed.
    """
    from filelock import FileLock, Timeout

    locks = parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with status(f"waiting for another process that makes {name}"):
            lock.acquire()
    work = parent / ".work" / name
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        try:
            yield Path(tempfile.mkdtemp(dir=work))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()  # the system does this when the process is killed
