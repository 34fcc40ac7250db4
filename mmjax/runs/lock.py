"""One run at a time in a run folder: a lock that says whose it is, and that dies with its owner."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax import sharding
from mmjax.errors import MmjaxError, writing
from mmjax.processes import threads
from mmjax.progress import status
from mmjax.runs.run_folder import make

LOCK = ".lock"
# The owner writes its file anew so often (seconds). Where the system's own lock does not reach, as
# between the hosts of some shared disks, an owner that misses a few of these is dead.
BEAT = 4.0
PATIENCE = 4 * BEAT


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Makes a run folder this run's own for a while; all processes of the run have to ask.

    The first process holds the lock for all of them. A folder that is made for it, and in which
    nothing was written, is removed again.

    Args:
      workdir: the run folder; its name is free to be used for a new one.

    Raises:
      MmjaxError: another run is at work in it, on this host or another, or it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(_folder(workdir))
                stack.enter_context(_locked(workdir / LOCK))
            except MmjaxError as error:
                refusal = error
        if not sharding.in_every_process(np.array([refusal is None])).all():
            raise refusal or MmjaxError(f"{workdir} was refused to the first process of this run")
        yield


@contextlib.contextmanager
def _folder(workdir: Path) -> Iterator[None]:
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    make(workdir)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # something is in it
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with writing(path):
        file = _acquire(path)
    if file is None:
        yield
        return
    try:
        with _beating(file):
            yield
    finally:
        path.unlink(missing_ok=True)  # while it is still locked: nobody else's is removed
        os.close(file)


def _acquire(path: Path) -> int | None:
    """Opens the lock's file and makes it this process's own.

    Returns:
      A descriptor, whose lock the system takes back when the process is killed; None in a folder
      that this process can only read, so that it needs no lock.

    Raises:
      MmjaxError: as `hold`.
    """
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return None
            raise
        try:
            _check_free(path, file)
            # Its owner may have ended, and removed it, since it was opened: then it locks nothing.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _check_free(path: Path, file: int) -> None:
    """Takes the system's lock; where it does not reach the owner, looks whether he still beats."""
    owner = _owner(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        reaches = owner.get("host") == socket.gethostname()
    except BlockingIOError:
        raise _refusal(path, _owner(path)) from None
    except OSError:  # a disk without locks
        reaches = False
    if not owner or reaches:
        return  # nobody's, or of a process of this host that is gone: its lock would be held
    question = f"whether process {owner.get('pid')} on {owner.get('host')} is still at work"
    with status(f"looking {question} in {path.parent}"):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(BEAT / 8)
            if path.exists() and _owner(path) != owner:
                raise _refusal(path, owner)


def _owner(path: Path) -> dict[str, Any]:
    """What the lock's file says; empty where it says nothing."""
    for _ in range(3):  # it may be written at this moment
        with contextlib.suppress(OSError, ValueError):
            owner = json.loads(path.read_bytes())
            if isinstance(owner, dict):
                return owner
        time.sleep(0.02)
    return {}


def _refusal(path: Path, owner: dict[str, Any]) -> MmjaxError:
    who = "another process"
    if owner:
        who = f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"
    return MmjaxError(
        f"{path.parent} is in use by {who}; wait until it has ended, stop it, or use another "
        "--workdir"
    )


@contextlib.contextmanager
def _beating(file: int) -> Iterator[None]:
    """Says whose the lock is, and again and again that its owner lives."""
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }

    def tell(count: int) -> None:
        content = json.dumps({**owner, "beat": f"{count:09d}"}).encode()
        with contextlib.suppress(OSError):  # a full disk takes no run's lock away
            os.pwrite(file, content, 0)
            os.ftruncate(file, len(content))

    def beat(ended: threading.Event) -> None:
        count = 0
        while not ended.wait(BEAT):
            count += 1
            tell(count)

    tell(0)
    with threads.beside(beat, "lock"):
        yield
