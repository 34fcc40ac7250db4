"""Compares sides fairly: each in a process of its own, on the same cores, in turn.

Two frameworks in one process disturb each other: their threads spin for work on the same cores. So
no process here holds two sides, and only one of them works at a time.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.harness import QUIET, Comparison, Options
from benchmarks.side import cores_busy
from mmjax.errors import MmjaxError
from mmjax.progress import track

# Threads that spin for more work after their own have stopped by then.
PAUSE = 0.25


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
      name: shown.
      make: "package.module:function" that makes the run, called in the side's own process.
      arguments: of the function; plain values.
      python: interpreter; a peer may need one of its own.
    """

    name: str
    make: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable


class Worker:
    """A side's process. It runs when it is told to, and sleeps otherwise.

    Attributes:
      side: whose.
      value: what its first run returned.
      facts: what it said of itself.
      missing: the package that it lacks, where it cannot run; else None.
      peak: most resident memory in bytes, once it has ended.
    """

    def __init__(self, side: Side, cores: Sequence[int], threads: int) -> None:
        """Starts the process and waits for its first run.

        Args:
          side: what to run.
          cores: where it may.
          threads: of its pools.

        Raises:
          MmjaxError: it ends before, for another reason than a missing package.
        """
        self.side, self.peak = side, 0
        script = str(Path(__file__).with_name("side.py"))
        try:
            self._process = subprocess.Popen(
                [side.python, "-P", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise MmjaxError(f"{side.name}: {side.python}: {error.strerror}") from error
        request = {"make": side.make, "arguments": dict(side.arguments)}
        reply = self._ask(json.dumps({**request, "cores": list(cores), "threads": threads}))
        self.missing: str | None = reply.get("missing")
        self.value, self.facts = reply.get("value"), reply.get("facts", {})

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise MmjaxError(f"the side {self.side.name!r} ended; what it said stands above")
        return json.loads(answer)

    def run(self) -> dict[str, Any]:
        """Two runs, the second by the clock; see `side.measure`."""
        return self._ask("run")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process; nothing of it stays."""
        try:
            if error is None and self.missing is None:
                self.peak = self._ask("end")["peak"]
        finally:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def cores_of(threads: int = 0) -> list[int]:
    """The cores that sides are kept to.

    Args:
      threads: how many; 0 takes all that this process may use.

    Returns:
      Their numbers.

    Raises:
      MmjaxError: there are fewer.
    """
    if hasattr(os, "sched_getaffinity"):
        own = sorted(os.sched_getaffinity(0))
    else:
        own = list(range(os.cpu_count() or 1))
    if threads > len(own):
        raise MmjaxError(f"--threads {threads}; this process may use {len(own)} cores")
    return own[: threads or None]


def others(runs: Sequence[Mapping[str, Any]], cores: int) -> float | None:
    """The share of the cores' time that went elsewhere while sides ran.

    Args:
      runs: what `side.measure` found.
      cores: how many.

    Returns:
      Time that other processes used or that was stolen, by all there was; None where the system
      does not count it.
    """
    if any(run["busy"] is None for run in runs):
        return None
    spare = sum(run["busy"] - run["own"] for run in runs)
    # The counters tick 100 times a second: what they cannot tell is not held against anybody.
    return max(0.0, spare / (cores * sum(run["seconds"] for run in runs)))


def _round(workers: Sequence[Worker], cores: int) -> tuple[list[float], float | None]:
    """(seconds of each, there and back added up; the share of others)."""
    taken = [0.0] * len(workers)
    runs: list[dict[str, Any]] = []
    for i in [*range(len(workers)), *reversed(range(len(workers)))]:
        time.sleep(PAUSE)
        runs.append(workers[i].run())
        taken[i] += runs[-1]["seconds"]
    return taken, others(runs, cores)


def _rounds(
    workers: Sequence[Worker], options: Options, cores: int, label: str
) -> tuple[dict[str, list[float]], list[float | None]]:
    """Seconds of each side, and the others' share, a round each.

    A round in which others had too much of the cores is run again, at most as often as there are
    rounds; it is chosen by their time, never by its own.
    """
    names = [worker.side.name for worker in workers]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    shares: list[float | None] = []
    spare = options.num_rounds
    for _ in track(range(options.num_rounds), label, options.num_rounds):
        taken, share = _round(workers, cores)
        while share is not None and share > QUIET and spare:
            spare -= 1
            taken, share = _round(workers, cores)
        for name, value in zip(names, taken, strict=True):
            seconds[name].append(value)
        shares.append(share)
    return seconds, shares


def idle_share(cores: Sequence[int], seconds: float = 1.0) -> float | None:
    """The share of the cores' time that others use while no side runs; None where not counted."""
    before = cores_busy(list(cores))
    time.sleep(seconds)
    after = cores_busy(list(cores))
    if before is None or after is None:
        return None
    return (after[0] - before[0]) / (seconds * len(cores))


def compare(
    sides: Sequence[Side],
    options: Options,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Comparison:
    """Times sides in turn: there and back in every round, so that drift hits all alike.

    The first side runs beside a second process of itself first (A/A): what those two differ by is
    what the machine adds.

    Args:
      sides: the first is what the others are compared with.
      options: rounds, threads.
      check: called with name -> value of each side's first run before anything is timed; raises
        where they do not agree.

    Returns:
      Seconds, memory, and how quiet the machine was.

    Raises:
      MmjaxError: a side ends, or the sides do not agree.
    """
    cores = cores_of(options.threads)
    threads, first = len(cores), sides[0]
    again = Side(f"{first.name} again", first.make, first.arguments, first.python)
    idle = idle_share(cores)
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        a = stack.enter_context(Worker(first, cores, threads))
        if a.missing:
            raise MmjaxError(f"{first.name} needs the package {a.missing!r}, which is not here")
        with Worker(again, cores, threads) as b:
            same, quiet = _rounds([a, b], options, threads, f"{first.name} beside itself")
        running = [a]
        for side in sides[1:]:
            worker = stack.enter_context(Worker(side, cores, threads))
            if worker.missing:
                skipped[side.name] = f"skipped: the package {worker.missing!r} is not here"
            else:
                running.append(worker)
        if check is not None:
            check({worker.side.name: worker.value for worker in running})
        seconds, shares = _rounds(running, options, threads, f"{first.name} beside the others")
    return Comparison(
        seconds,
        (same[first.name], same[again.name]),
        tuple(quiet + shares),
        idle,
        {worker.side.name: worker.peak for worker in running},
        {worker.side.name: worker.facts for worker in running},
        skipped,
        tuple(cores),
    )
