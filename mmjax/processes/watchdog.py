"""A run that makes no step any more ends in a sentence, rather than hang until someone looks.

A lost process is found by `mmjax.processes.peers`. A stuck one still gives signs of life: its
loader waits for a file system, or a collective for a peer that will never come. Whoever makes
progress says so; a thread looks whether anyone did.
"""

import contextlib
import faulthandler
import functools
import sys
import threading
import time
from collections.abc import Iterator

from mmjax.processes import peers, threads

_EVERY = 1.0  # seconds between two looks, at most
_limit = 0.0
_last = 0.0


def set_limit(seconds: float) -> None:
    """How long a training may make no progress; 0 for ever.

    Args:
      seconds: longer than the longest step, evaluation's batch or compilation takes.
    """
    global _limit
    _limit = seconds


def alive() -> None:
    """Said by whatever makes progress: a step, a batch that is evaluated."""
    global _last
    _last = time.monotonic()


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Within it the process ends with exit code `peers.LOST` where nobody is alive for too long."""
    if not _limit:
        yield
        return
    alive()
    with threads.beside(functools.partial(_look, _limit), "mmjax watchdog"):
        yield


def _look(limit: float, ended: threading.Event) -> None:
    while not ended.wait(min(_EVERY, limit / 4)):
        if time.monotonic() - _last > limit:
            with contextlib.suppress(Exception):  # where this process stands, thread by thread
                faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            peers.give_up(
                f"no step was made for {limit:g} s (--stuck_after); where each thread stands is "
                "above. The run goes on from its last checkpoint when it is started again with the "
                "same command"
            )
