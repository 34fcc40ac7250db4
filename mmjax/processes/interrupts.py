"""SIGTERM and Ctrl-C save what is trained at the next step boundary; a second one ends at once.

A training loop stands in `held()` and asks `stop_here()` after every step; what it does that takes
long and can be done again, an evaluation, stands in `released()`. There, and outside of the loop,
the first signal raises `Interrupted` as soon as Python may, for nothing is half-written. Only the
command line installs this: in a notebook signals do what they always do.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from mmjax.processes import peers, watchdog

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE = 10.0  # seconds that a library's long call outside the loop may take to come to its end

_asked: int | None = None  # the first signal's number
_held = 0
_released = False
_noticed = threading.Event()


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by `signum`; `code` is the exit code that shells expect."""

    def __init__(self, signum: int) -> None:
        """Remembers the signal."""
        super().__init__(signal.Signals(signum).name)
        self.signum, self.code = signum, 128 + signum


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Takes both signals over, in the main thread; afterwards they do what they did before."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = socket.socketpair()
    write.setblocking(False)
    former = {number: signal.signal(number, _handle) for number in SIGNALS}
    # The thread learns of a signal even where the main thread is deep in another library.
    wakeup = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(read,), name="mmjax signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in former.items():
            signal.signal(number, handler)
        write.close()
        thread.join()
        read.close()
        _asked = None
        _noticed.clear()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within it the first signal waits for `stop_here`."""
    global _held
    watch = peers.current()
    _held += 1
    if watch is not None:
        watch.busy(True)
    try:
        with watchdog.watching():
            yield
    finally:
        _held -= 1
        if watch is not None:
            watch.busy(False)
    if watch is None and _asked is not None:  # it came after the last boundary
        raise Interrupted(_asked)


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Within it, inside of `held()`, a lone process is interrupted at once; several agree later."""
    global _released
    _released = True
    try:
        if _asked is not None and peers.current() is None:
            raise Interrupted(_asked)
        yield
    finally:
        _released = False


def stop_here() -> int | None:
    """Asked after every step: the signal that ends the run here, the same in every process."""
    watchdog.alive()
    watch = peers.current()
    if watch is None:
        return _asked
    return (_asked or signal.SIGTERM) if watch.boundary() else None


def _handle(signum: int, frame: FrameType | None) -> None:
    """In the main thread, between two instructions of Python."""
    _noticed.set()
    if (not _held or _released) and peers.current() is None:
        raise Interrupted(signum)


def _listen(read: socket.socket) -> None:
    """Counts signals as they come."""
    global _asked
    while data := read.recv(1):
        signum = data[0]
        if signum not in SIGNALS:
            continue
        if _asked is not None:
            _end(signum, "stopped at once by a second signal")
        _asked = signum
        watch = peers.current()
        if watch is not None:
            watch.ask_to_stop(signum)
        elif not _held and not _noticed.wait(_GRACE):
            _end(signum, "stopped; the same command goes on where it was")


def _end(signum: int, sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"\n{sentence}", file=sys.stderr, flush=True)
    os._exit(128 + signum)
