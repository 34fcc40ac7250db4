"""What all benchmarks share: options, timing in turn, ratios with intervals, reports."""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmjax.errors import MmjaxError

NOISE = 0.10  # a side that differs more than this from itself settles nothing
Points = list[tuple[int, float]]  # (batch size, value)


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
      full: the sizes for a quiet machine, rather than those for a minute or two.
      peer: "torch" or "none".
      pythons: further peers of `clip-forward`: "jimm" or "flaxclip" -> an interpreter that has it.
      batches: batch sizes; empty takes each benchmark's own.
      rounds: rounds of timing; 0 takes 3, or 7 where `full`.
      config: recipe that `adapter-cached` times.
    """

    full: bool = False
    peer: str = "none"
    pythons: Mapping[str, str] = field(default_factory=dict)
    batches: tuple[int, ...] = ()
    rounds: int = 0
    config: str = "configs/base_emoji.py"

    def sizes(self, quick: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
        """Batch sizes of a benchmark with these of its own."""
        return self.batches or tuple(full if self.full else quick)

    @property
    def num_rounds(self) -> int:
        """Rounds of timing."""
        return self.rounds or (7 if self.full else 3)


@dataclass(frozen=True)
class Grid:
    """A table of text: a title, column names, rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Report:
    """What a benchmark found.

    Attributes:
      grids: to print.
      samples: every figure measured, for JSON.
      curves: quantity -> line -> points, to draw against the batch size.
    """

    grids: list[Grid] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, Points]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios with its bootstrap 90 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Compares two sides round by round.

    Args:
      numerator: seconds of each round.
      denominator: seconds of the same rounds.

    Returns:
      The ratio; the same samples give the same interval.
    """
    each = [a / b for a, b in zip(numerator, denominator, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(each, k=len(each))) for _ in range(1000))
    return Ratio(statistics.median(each), medians[50], medians[949])


@dataclass(frozen=True)
class Comparison:
    """Seconds of every side, two runs a round added up; `again` is the first side once more."""

    seconds: Mapping[str, list[float]]
    again: list[float]

    @property
    def _first(self) -> list[float]:
        return next(iter(self.seconds.values()))

    @property
    def noise(self) -> Ratio:
        """The first side against itself."""
        return ratio(self.again, self._first)

    @property
    def conclusive(self) -> bool:
        """Whether the first side equals itself to within NOISE."""
        return self.noise.low >= 1 - NOISE and self.noise.high <= 1 + NOISE

    def of(self, side: str) -> Ratio:
        """The first side's time by another's: below 1 the first is quicker."""
        return ratio(self._first, self.seconds[side])

    def samples(self) -> dict[str, Any]:
        """All there is, for JSON."""
        return {"seconds": dict(self.seconds), "again": self.again, "conclusive": self.conclusive}

    def grid(self, title: str) -> Grid:
        """One row a side; noise is told before any ratio."""
        first = next(iter(self.seconds))
        verdict = "" if self.conclusive else "inconclusive (noise): "
        rows = [(f"{first} against itself", "", f"{verdict}{self.noise}")]
        for side, taken in self.seconds.items():
            share = "" if side == first else f"{verdict}{self.of(side)}"
            rows.append((side, f"{min(taken) / 2:.3f}", share))
        columns = ("side", "best seconds", f"{first} / side, median [90 % interval]")
        return Grid(title, columns, tuple(rows))


def compare(sides: Mapping[str, Callable[[], Any]], rounds: int) -> Comparison:
    """Times sides in turn: there and back in every round, so that drift hits all alike.

    Each timed run follows an untimed one of the same side: whoever runs behind a side that has
    just returned gigabytes to the system would pay for its pages (seen: 10 % of A/A).

    Args:
      sides: name -> a call that returns when its work is done.
      rounds: how often.

    Returns:
      The seconds; the first side also runs against itself.
    """
    first = next(iter(sides))
    order = [*((name, run) for name, run in sides.items()), ("again", sides[first])]
    seconds: dict[str, list[float]] = {name: [] for name, _ in order}
    for _ in range(rounds):
        taken = dict.fromkeys(seconds, 0.0)
        for name, run in (*order, *reversed(order)):
            run()
            began = time.perf_counter()
            run()
            taken[name] += time.perf_counter() - began
        for name, value in taken.items():
            seconds[name].append(value)
    again = seconds.pop("again")
    return Comparison(seconds, again)


def check_equal(values: Mapping[str, float], tolerance: float = 1e-4) -> None:
    """Refuses to time sides that do not compute the same.

    Raises:
      MmjaxError: names the sides and their values.
    """
    first = next(iter(values.values()))
    if not all(abs(value - first) <= tolerance * abs(first) for value in values.values()):
        shown = ", ".join(f"{name} {value:.7g}" for name, value in values.items())
        raise MmjaxError(f"the sides do not agree, so their times say nothing: {shown}")


def surroundings() -> dict[str, Any]:
    """Versions, device and load: what a figure means nothing without."""
    import jax

    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }
