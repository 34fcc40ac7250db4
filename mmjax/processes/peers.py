"""The other processes of a run: whoever is lost ends the rest within seconds, in one sentence.

JAX waits minutes for a process that is gone, and then says so in a traceback. Here each process
tells the coordinator every second that it lives; process 0 looks for those that do not. The same
channel carries the news that one failed, and the agreement on the step at which all stop.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mmjax.errors import first_line

LOST = 75  # exit code: the run goes on with the same command (EX_TEMPFAIL of sysexits.h)
_FAILED = 1
_EVERY = 1.0  # seconds between two signs of life
_SOON = 5.0  # seconds without one that are enough where a collective has failed already
_SILENT = 2.0  # seconds that the client may take to answer before the coordinator is looked for
_BEATS, _NEWS, _BOUNDS = "mmjax/beat/", "mmjax/news/", "mmjax/bound/"

_watch: "_Watch | None" = None


def watch(client: Any, address: str | None, index: int, count: int, timeout: float) -> None:
    """Begins to watch, as soon as this process has joined the others.

    Args:
      client: JAX's client of the coordinator.
      address: "host:port" where the coordinator listens; None if that is not known.
      index: number of this process.
      count: how many there are.
      timeout: seconds without a sign of life after which a process is lost.
    """
    global _watch
    _watch = _Watch(client, index, count, timeout)
    _watch.start()
    host, _, port = (address or "").rpartition(":")
    if index and port.isdigit():
        _abort_later()
        where = (host.strip("[]"), int(port))
        guard = threading.Thread(target=_watch.guard, args=where, name="mmjax coordinator")
        guard.daemon = True
        guard.start()


def _abort_later() -> None:
    """Gives this process some seconds between an abort and its end.

    JAX's client aborts as soon as its connection to the coordinator breaks, and holds its lock
    meanwhile: nobody could ask it who is lost. The C library's `sleep` as the handler of SIGABRT
    keeps the aborting thread asleep for as many seconds as the signal's number says, six; then the
    abort goes on as it would have. A handler in Python might wait for ever for the interpreter.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # Windows
        library = ctypes.CDLL(None)
        library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        library.signal.restype = ctypes.c_void_p
        library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))


def waiting(index: str | None, count: str | None, timeout: float) -> threading.Timer:
    """A timer that ends this process where the others have not come in time; cancel it if they do.

    Args:
      index: number of this process, where the launcher has told it.
      count: how many there are, likewise.
      timeout: seconds.

    Returns:
      The timer, which runs.
    """

    def give_up() -> None:
        here = f"process {index} of {count}" if index and count else "this process"
        missing = f"process {1 - int(index)}" if index in ("0", "1") and count == "2" else "another"
        _end(
            LOST,
            f"{missing} did not come within {timeout:g} s to where {here} waits; start all of "
            "them, or wait longer with --peer_timeout",
        )

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    return timer


def give_up(sentence: str) -> None:
    """Ends this process, and with it all others, so that a scheduler starts them again.

    Args:
      sentence: what a user must know.
    """
    if _watch is not None:
        _watch.tell_lost()
    _end(LOST, sentence)


def explain() -> None:
    """Ends this process with the name of the one that is lost, if that is why something failed."""
    if _watch is not None:
        _watch.explain()


def leave(code: int) -> None:
    """Tells the others how this process ends; one that fails does not wait for them.

    Args:
      code: its exit code.
    """
    if _watch is not None:
        _watch.leave(code)


class _Watch(threading.Thread):
    """Signs of life, news and the agreement to stop, once a second."""

    def __init__(self, client: Any, index: int, count: int, timeout: float) -> None:
        super().__init__(name="mmjax peers", daemon=True)
        self._client, self._index, self._count = client, index, count
        self._patience = max(timeout - 2 * _EVERY, _EVERY)
        self._last = {i: ("", time.monotonic()) for i in range(count) if i != index}
        self._left = threading.Event()
        self._hurried = False
        self._beat = 0
        self._asked: float | None = None  # when the client was asked what it has not answered
        # The agreement to stop: `_tick` counts step boundaries, alike in every process.
        self._lock = threading.Lock()
        self._tick, self._busy = 0, False
        self._bound: int | None = None
        self._decided = threading.Event()
        self._stop_at: int | None = None

    def run(self) -> None:
        """Looks once a second, until this process has told how it ends."""
        while not self._left.is_set():
            try:
                self._look()
            except Exception as error:  # what the client raises differs between versions of JAX
                if not self._left.wait(_EVERY) and not self._answers():
                    self._lose(0, f" ({first_line(error, 80)})" if self._count > 2 else "")
            self._left.wait(_EVERY)

    def guard(self, host: str, port: int) -> None:
        """Ends this process once nobody listens where the coordinator did.

        It looks only while the client does not answer, as it does not while it aborts. A host that
        refuses is up, and process 0 is gone; one that is silent has as long as any other process.

        Args:
          host: of the coordinator.
          port: of the coordinator.
        """
        while not self._left.wait(_EVERY / 2):
            since = self._asked
            if since is None or time.monotonic() - since < _SILENT:
                continue
            try:
                socket.create_connection((host, port), _SILENT).close()
            except OSError as error:
                gone = isinstance(error, ConnectionRefusedError)
                gone = gone or time.monotonic() - since > self._patience
                if gone and self._asked == since and not self._left.is_set():
                    self._lose(0)

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the client says; `guard` sees for how long it does not."""
        self._asked = time.monotonic()
        try:
            return function(*arguments)
        finally:
            self._asked = None

    def _answers(self) -> bool:
        """Whether the coordinator does; process 0 is where it lives."""
        try:
            self._ask(self._client.key_value_dir_get, _NEWS)
            return True
        except Exception:
            return self._index == 0 or self._left.is_set()

    def _look(self) -> None:
        self._beat += 1
        self._ask(self._client.key_value_set, f"{_BEATS}{self._index}", str(self._beat), True)
        news = self._directory(_NEWS)
        for name, what in news.items():
            kind, _, number = name.partition("/")
            if kind == "lost" and int(number) != self._index:
                self._lose(int(number))
            if kind == "failed" and int(number) != self._index and not self._left.wait(_SOON):
                _end(
                    _FAILED,
                    f"process {number} of {self._count} stopped with an error, which its own "
                    "output tells; this one stops too",
                )
            if kind == "stop":
                self._offer(int(what))
        if "at" in news:
            self._stop_at = int(news["at"])
            self._decided.set()
        if self._index == 0:
            self._find_lost(news)

    def _find_lost(self, news: dict[str, str]) -> None:
        beats, now = self._directory(_BEATS), time.monotonic()
        patience = min(self._patience, _SOON) if self._hurried else self._patience
        for i, (former, since) in self._last.items():
            beat = beats.get(str(i), "")
            if beat != former:
                self._last[i] = (beat, now)
            elif now - since > patience and f"done/{i}" not in news:
                self._tell(f"lost/{i}", "")
                self._left.wait(2 * _EVERY)  # the others read it here, where the coordinator lives
                self._lose(i)

    def _directory(self, name: str) -> dict[str, str]:
        entries = self._ask(self._client.key_value_dir_get, name)
        return {key.removeprefix(name): value for key, value in entries}

    def _tell(self, name: str, what: str) -> None:
        self._client.key_value_set(f"{_NEWS}{name}", what, True)

    def _lose(self, number: int, why: str = "") -> None:
        _end(
            LOST,
            f"process {number} of {self._count} was lost{why}; the run goes on from its last "
            "checkpoint when all are started again with the same command",
        )

    def explain(self) -> None:
        """Waits until the one that is lost is known; returns where none is."""
        self._hurried = True
        if threading.current_thread() is not self:
            time.sleep(min(self._patience, 2 * _SOON) + 3 * _EVERY)

    def leave(self, code: int) -> None:
        """See `mmjax.processes.peers.leave`."""
        kind = "done" if code == 0 else "failed"
        with contextlib.suppress(Exception):
            self._tell(f"{kind}/{self._index}", "")
        self._left.set()
        if code:
            if self._index == 0:
                time.sleep(3 * _EVERY)
            _end(code, "")

    def tell_lost(self) -> None:
        """Tells the others that this process is lost to them."""
        with contextlib.suppress(Exception):
            self._tell(f"lost/{self._index}", "")
        self._left.set()
        if self._index == 0:
            time.sleep(3 * _EVERY)  # they read it here, where the coordinator lives

    # ---- The agreement to stop

    def ask_to_stop(self, signum: int) -> None:
        """Asks all processes to stop, at a step that none of them has passed."""
        with contextlib.suppress(Exception):
            self._tell("stop", str(signum))

    def boundary(self) -> bool:
        """Whether all processes stop here; called at every step boundary, by all of them."""
        with self._lock:
            self._tick += 1
            tick, bound = self._tick, self._bound
        if bound is not None and tick >= bound:
            self._decided.wait()
        return self._stop_at is not None and tick >= self._stop_at

    def busy(self, busy: bool) -> None:
        """Says whether this process is in a loop with step boundaries."""
        self._busy = busy

    def _offer(self, signum: int) -> None:
        """Says how far this process may get; process 0 takes the farthest, now if none is busy."""
        with self._lock:
            if self._bound is None:
                self._bound = self._tick + 1
                offer = f"{self._bound} {int(self._busy)} {signum}"
                self._client.key_value_set(f"{_BOUNDS}{self._index}", offer, True)
        if self._index == 0 and self._stop_at is None:
            offers = [x.split() for x in self._directory(_BOUNDS).values()]
            if len(offers) == self._count:
                busy = any(b == "1" for _, b, _ in offers)
                self._tell("at", str(max(int(bound) for bound, _, _ in offers) if busy else -1))
        if self._stop_at == -1:
            _end(128 + signum, "stopped; the same command goes on where it was")


def _end(code: int, sentence: str) -> None:
    """Ends the process at once: the usual end would wait for those that are gone."""
    if sentence:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            kind = "error: " if code in (LOST, _FAILED) else ""
            print(f"{kind}{sentence}", file=sys.stderr, flush=True)
    os._exit(code)


def current() -> "_Watch | None":
    """The watch of this process; None where it is alone."""
    return _watch
