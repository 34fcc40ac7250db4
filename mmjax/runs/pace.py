"""Where the time of a training goes, and a trace of some of its steps."""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax

FILE = "pace.jsonl"
TRACE = "trace"
_WARM = 2  # steps before a trace begins: they compile
_traced = 0


def trace_steps(count: int) -> None:
    """How many steps of every training are traced; 0 for none."""
    global _traced
    _traced = count


class Pace:
    """Times the parts of a training loop; a line at every record, in `pace.jsonl`.

    A line holds `step`, `seconds_per_step`, the shares of the time that went into `loader`,
    `metrics`, `evaluation` and `saving`, and `memory_bytes`: the most that a device held where it
    says so, else the most that this process had resident.
    """

    def __init__(self, folder: Path, start: int) -> None:
        """Nothing is timed yet.

        Args:
          folder: of the run.
          start: the step that training goes on from.
        """
        self._file, self._start, self._folder = folder / FILE, start, folder
        self._step, self._since = start, time.monotonic()
        self._spent: dict[str, float] = {}
        self._tracing = False

    @contextlib.contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Counts the time within."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[what] = self._spent.get(what, 0.0) + time.monotonic() - began

    def begin(self, step: int) -> None:
        """Before a step: begins or ends the trace."""
        first = self._start + _WARM + 1
        if _traced and step == first:
            jax.profiler.start_trace(str(self._folder / TRACE), create_perfetto_trace=True)
            self._tracing = True
        elif self._tracing and step == first + _traced:
            self.close()

    def record(self, step: int) -> None:
        """Writes a line, where this is process 0, and begins anew."""
        now = time.monotonic()
        passed, steps = max(now - self._since, 1e-9), max(step - self._step, 1)
        line = {
            "step": step,
            "seconds_per_step": passed / steps,
            **{f"{what}_share": spent / passed for what, spent in sorted(self._spent.items())},
            "memory_bytes": _memory(),
        }
        if jax.process_index() == 0:
            with contextlib.suppress(OSError), self._file.open("a") as file:  # no run ends for it
                file.write(json.dumps(line) + "\n")
        self._step, self._since, self._spent = step, now, {}

    def close(self) -> None:
        """Ends the trace, where one is open."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def __enter__(self) -> "Pace":
        """Of a loop."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Ends the trace."""
        self.close()


def peak_memory() -> int:
    """Most resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _memory() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", peak_memory()))
