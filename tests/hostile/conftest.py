"""What refusing a hostile file must look like, and how the suite measures it."""

import contextlib
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmjax.errors import MmjaxError

LONGEST_MESSAGE = 600  # characters
MOST_BYTES = 512 << 20  # above what the process held before
SECONDS, HANGS = 5.0, 60  # of this thread's work; of the clock, when the case is given up

Refused = Callable[..., str]
Read = Callable[[], Any]


@pytest.fixture(scope="session")
def refused() -> Refused:
    """Returns `refused(read, *named, ran=None)`: calls `read`, gives the message of its refusal.

    It fails unless the refusal is an `MmjaxError` of one line and bounded length that holds each
    of `named` (a file's name, a key), was quick, took little memory, and left no file `ran`, which
    hostile code would write.
    """

    def check(read: Read, *named: str, ran: Path | None = None, seconds: float = SECONDS) -> str:
        message, spent, grown = _measured(read)
        if spent >= seconds:  # garbage may be collected meanwhile; a hostile file is slow twice
            message, spent, grown = _measured(read)
        assert spent < seconds, f"took {spent:.1f} s"
        assert grown < MOST_BYTES, f"took {grown >> 20} MiB"
        assert "\n" not in message, message
        assert len(message) <= LONGEST_MESSAGE, message
        for name in named:
            assert name in message, message
        assert ran is None or not ran.exists(), "code of the file ran"
        return message

    return check


def _measured(read: Read) -> tuple[str, float, int]:
    """(the refusal's message, seconds of this thread, bytes that the process grew by)."""
    before = _peak_bytes(afresh=True)
    began = time.thread_time()  # the machine may be busy, and so may this process's other threads
    with _quiet(), _given_up_after(HANGS), pytest.raises(MmjaxError) as raised:
        read()
    return str(raised.value), time.thread_time() - began, _peak_bytes() - before


def _peak_bytes(afresh: bool = False) -> int:
    """The most memory that the process has held, since the last call `afresh` where Linux says."""
    status = Path("/proc/self/status")
    if sys.platform != "linux":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
    if afresh:
        with contextlib.suppress(OSError):  # some containers forbid it
            Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) << 10


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Numpy's overflows inside the parsers are no failures here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _given_up_after(seconds: int) -> Iterator[None]:
    """Ends a case that hangs, so that the suite goes on."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"still at it after {seconds} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
