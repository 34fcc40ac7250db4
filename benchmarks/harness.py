"""What all benchmarks share: options, ratios with intervals, reports."""

import dataclasses
import os
import platform
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmjax.errors import MmjaxError

NOISE = 0.10  # a side that differs more than this from itself settles nothing
QUIET = 0.05  # nor does a round in which others had more than this share of the cores
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
      threads: cores and threads of each side; 0 takes all that there are.
    """

    full: bool = False
    peer: str = "none"
    pythons: Mapping[str, str] = field(default_factory=dict)
    batches: tuple[int, ...] = ()
    rounds: int = 0
    config: str = "configs/base_emoji.py"
    threads: int = 0

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


@dataclass(frozen=True)
class Line:
    """A line of the table that `--table` writes: a piece of work, beside whom, and the ratio."""

    work: str
    peer: str
    ratio: str
    noise: str


@dataclass
class Report:
    """What a benchmark found.

    Attributes:
      grids: to print.
      samples: every figure measured, for JSON.
      lines: for the table of all benchmarks.
      curves: quantity -> line -> points, to draw against the batch size.
    """

    grids: list[Grid] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
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
    """What sides took, each in a process of its own; see `apart.compare`.

    Attributes:
      seconds: side -> seconds of each round, two runs added up.
      same: the first side's seconds beside those of a second process of the same.
      others: the share of the cores' time that went elsewhere, a round each; None: not counted.
      idle: the same before anything ran.
      peak: side -> most resident memory of its process in bytes.
      facts: side -> what else it said.
      skipped: side -> why it did not run.
      cores: which all sides were kept to, each with as many threads.
    """

    seconds: Mapping[str, list[float]]
    same: tuple[list[float], list[float]]
    others: tuple[float | None, ...] = ()
    idle: float | None = None
    peak: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()

    @property
    def first(self) -> str:
        """The side that the others are compared with."""
        return next(iter(self.seconds))

    @property
    def noise(self) -> Ratio:
        """The first side against itself."""
        return ratio(self.same[1], self.same[0])

    @property
    def refusal(self) -> str:
        """Why no ratio is told; empty where they may be."""
        shares = [share for share in self.others if share is not None]
        if shares and max(shares) > QUIET:
            return f"busy: others had {max(shares):.0%} of the cores"
        if not 1 - NOISE <= self.noise.low <= self.noise.high <= 1 + NOISE:
            return f"noisy: {self.first} against itself {self.noise}"
        return ""

    def of(self, side: str) -> Ratio:
        """The first side's time by another's: below 1 the first is quicker."""
        return ratio(self.seconds[self.first], self.seconds[side])

    def samples(self) -> dict[str, Any]:
        """All there is, for JSON."""
        return dataclasses.asdict(self) | {"refusal": self.refusal}

    def grid(self, title: str) -> Grid:
        """One row a side; where the machine settles nothing, no ratio is told."""
        shares = [f"{share:.0%}" for share in self.others if share is not None]
        quiet = f"others had {', '.join(shares)} of the cores" if shares else "others: not counted"
        rows = [("A/A", "", "", self.refusal or str(self.noise))]
        for side, taken in self.seconds.items():
            share = "" if side == self.first or self.refusal else str(self.of(side))
            best, memory = f"{min(taken) / 2:.3f}", f"{self.peak.get(side, 0) / 2**20:,.0f}"
            rows.append((side, best, memory, share))
        rows += [(side, "", "", why) for side, why in self.skipped.items()]
        rows.append((f"cores {', '.join(map(str, self.cores))}", "", "", quiet))
        columns = ("side", "best seconds", "peak MiB", f"{self.first} / side, median [90 %]")
        return Grid(title, columns, tuple(rows))

    def lines(self, work: str) -> list[Line]:
        """The comparison for the table of all benchmarks: one line a peer."""
        if self.refusal:
            return [
                Line(work, side, self.refusal, "") for side in self.seconds if side != self.first
            ]
        return [
            Line(work, side, str(self.of(side)), str(self.noise))
            for side in self.seconds
            if side != self.first
        ]


def check_equal(values: Mapping[str, Any], tolerance: float = 1e-4) -> None:
    """Refuses to time sides that do not compute the same.

    Args:
      values: side -> a number, or lists of them.
      tolerance: by the first side's largest.

    Raises:
      MmjaxError: names two sides and how far they are apart.
    """
    name, *_ = values
    first = np.asarray(values[name], np.float64)
    for side, value in values.items():
        array = np.asarray(value, np.float64)
        apart = np.abs(array - first).max() if array.shape == first.shape else np.inf
        # Written so that what is no number is refused too.
        if not apart <= tolerance * np.abs(first).max():
            raise MmjaxError(
                "the sides do not agree, so their times say nothing: "
                f"{name} {_shown(first)}, {side} {_shown(array)}, apart by {apart:.2g}"
            )


def check_same(values: Mapping[str, Any]) -> None:
    """Refuses to time sides that do not return the very same, such as texts.

    Raises:
      MmjaxError: names two sides.
    """
    name, *_ = values
    for side, value in values.items():
        if value != values[name]:
            raise MmjaxError(
                "the sides do not agree, so their times say nothing: "
                f"{name} {str(values[name])[:80]!r}, {side} {str(value)[:80]!r}"
            )


def _shown(value: np.ndarray) -> str:
    return f"{value:.7g}" if value.ndim == 0 else f"{list(value.shape)}"


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
