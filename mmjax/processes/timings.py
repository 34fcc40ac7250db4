"""Where a start's time went: phases, each second counted in one of them, and compiled programs."""

import contextlib
import contextvars
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

COMPILING = "compiling"
REST = "the rest: reading files, setting up"
_COMPILED = "/jax/core/compile/backend_compile_duration"  # by XLA, or read from JAX's own cache


@dataclass
class Timings:
    """A start's clock.

    Attributes:
      seconds: phase -> seconds, without those of phases within it.
      programs: compiled so far.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    programs: int = 0
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def enter(self, name: str) -> None:
        """A phase begins; the one around it waits."""
        self._count()
        self._open.append(name)

    def leave(self) -> None:
        """The innermost phase ends."""
        self._count()
        self._open.pop()

    def compiled(self, seconds: float) -> None:
        """A program was compiled within the innermost phase."""
        self.programs += 1
        self._add(COMPILING, seconds)
        if self._open:
            self._add(self._open[-1], -seconds)

    def table(self) -> dict[str, float]:
        """Phase -> seconds so far, the longest first."""
        self._count()
        phases = {name: max(0.0, seconds) for name, seconds in self.seconds.items()}
        compiling = phases.pop(COMPILING, 0.0)
        if self.programs:
            phases[f"{COMPILING} {self.programs} programs"] = compiling
        return dict(sorted(phases.items(), key=lambda item: -item[1]))

    def _count(self) -> None:
        now = time.monotonic()
        if self._open:
            self._add(self._open[-1], now - self._since)
        self._since = now

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


_CURRENT: contextvars.ContextVar[Timings | None] = contextvars.ContextVar("timings", default=None)


@contextlib.contextmanager
def recorded() -> Iterator[Timings]:
    """A clock for all phases within; JAX tells it of every program that is compiled."""
    import jax.monitoring  # whoever reports a phase need not import JAX

    clock = Timings()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event == _COMPILED:
            clock.compiled(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    token = _CURRENT.set(clock)
    clock.enter(REST)
    try:
        yield clock
    finally:
        clock.leave()
        _CURRENT.reset(token)
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Counts what happens within as a phase, where a clock runs in this thread.

    Args:
      name: shown in the report.
    """
    clock = _CURRENT.get()
    if clock is None:
        yield
        return
    clock.enter(name)
    try:
        yield
    finally:
        clock.leave()
