"""Work whose size is known, for the tests of the harness; a process of its own imports it."""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any


def sleep(seconds: float) -> Callable[[], float]:
    """Takes so long, however busy the machine is."""

    def run() -> float:
        time.sleep(seconds)
        return seconds

    return run


def hold(mib: int) -> tuple[Callable[[], int], dict[str, Any]]:
    """Holds so much memory, and says where it runs."""
    held = bytearray(b"x") * (mib << 20)
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    facts = {"pid": os.getpid(), "cores": affinity, "threads": os.environ["OMP_NUM_THREADS"]}
    return lambda: len(held), facts


def absent() -> None:
    """Needs what is not here."""
    importlib.import_module("no_such_package")


def broken() -> None:
    """Never gets ready."""
    raise RuntimeError("out of order")
