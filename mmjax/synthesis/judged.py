"""What the filter decided, as arrays: keep rates, and where truth is known, precision."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mmjax.data.files import read_jsonl
from mmjax.report.page import Table

RATES = tuple(tenth / 10 for tenth in range(1, 11))


@dataclass(frozen=True)
class Judged:
    """The tasks of an audit, in its order.

    Attributes:
      margins: of the label "yes" over the others; NaN where a task has no score.
      kept: whether the filter kept it.
      right: 1.0 where metadata says that the precise answer is right, 0.0 where wrong, else NaN.
      labels: the filter's label of each, "" where it has none.
    """

    margins: Float[np.ndarray, " n"]
    kept: Bool[np.ndarray, " n"]
    right: Float[np.ndarray, " n"]
    labels: tuple[str, ...]

    @property
    def threshold(self) -> float | None:
        """The lowest margin that was kept; None where nothing with a margin was."""
        margins = self.margins[self.kept & np.isfinite(self.margins)]
        return float(margins.min()) if len(margins) else None

    def with_truth(self) -> "Judged":
        """Those whose margin and truth are known."""
        known = np.isfinite(self.margins) & np.isfinite(self.right)
        labels = tuple(
            label for label, is_known in zip(self.labels, known, strict=True) if is_known
        )
        return Judged(self.margins[known], self.kept[known], self.right[known], labels)


class Tasks:
    """Gathers `Judged` row by row, in some 20 bytes a task."""

    def __init__(self) -> None:
        """None yet."""
        self._margins, self._right = array("d"), array("f")
        self._kept, self._labels = bytearray(), list[str]()
        self._names: dict[str, str] = {}  # every label is held once

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row of an audit; what it lacks is not known."""
        right, label = row.get("right"), str(row.get("label") or "")
        self._margins.append(margin_of(row))
        self._right.append(float(right) if isinstance(right, bool) else math.nan)
        self._kept.append(row.get("keep") is True)
        self._labels.append(self._names.setdefault(label, label))

    def judged(self) -> Judged:
        """All that were added."""
        return Judged(
            np.array(self._margins),
            np.frombuffer(bytes(self._kept), np.uint8).astype(bool),
            np.array(self._right),
            tuple(self._labels),
        )


def margin_of(row: Mapping[str, Any]) -> float:
    """The margin in a row of an audit; NaN where it has none."""
    value = row.get("margin")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def read_judged(path: Path) -> Judged:
    """Reads an audit.

    Args:
      path: audit.jsonl of a run folder.

    Raises:
      DataError: it cannot be read, by file and row.
    """
    tasks = Tasks()
    for _, row in read_jsonl(path):
        tasks.add(row)
    return tasks.judged()


@dataclass(frozen=True)
class Kept:
    """Tasks whose margin is not below a threshold.

    Attributes:
      threshold: of the margin.
      kept: how many there are.
      rate: their share of all.
      precision: share of right ones among those whose truth is known; NaN without any.
      recall: share of all right ones that are kept; NaN without any.
    """

    threshold: float
    kept: int
    rate: float
    precision: float
    recall: float


def keep(judged: Judged, thresholds: Sequence[float]) -> tuple[Kept, ...]:
    """What several thresholds keep.

    Args:
      judged: tasks; those without a margin count for nothing.
      thresholds: of the margin.

    Returns:
      One row a threshold.
    """
    scored = np.isfinite(judged.margins)
    order = np.argsort(-judged.margins[scored], kind="stable")
    margins, right = judged.margins[scored][order], judged.right[scored][order]
    known = np.concatenate([[0], np.cumsum(np.isfinite(right))])
    good = np.concatenate([[0.0], np.cumsum(np.nan_to_num(right))])
    rows: list[Kept] = []
    for threshold in thresholds:
        count = int(np.searchsorted(-margins, -threshold, side="right"))
        rows.append(
            Kept(
                float(threshold),
                count,
                _share(count, len(margins)),
                _share(float(good[count]), float(known[count])),
                _share(float(good[count]), float(good[-1])),
            )
        )
    return tuple(rows)


def precision_by_keep_rate(
    judged: Judged, rates: Sequence[float] = RATES
) -> tuple[tuple[float, Kept], ...]:
    """How many of the kept are right, were a share of all tasks kept by margin.

    Tasks of equal margin are kept together, so what is kept may be more than the share.

    Args:
      judged: tasks; those that have a margin and a truth count.
      rates: shares of them to keep, above 0 and at most 1.

    Returns:
      (share, what it keeps); nothing where no task has both.
    """
    judged = judged.with_truth()
    if not len(judged.margins):
        return ()
    falling = -np.sort(-judged.margins)
    places = [max(1, round(rate * len(falling))) - 1 for rate in rates]
    return tuple(zip(rates, keep(judged, [float(falling[p]) for p in places]), strict=True))


def precision_table(audits: Sequence[Judged]) -> Table | None:
    """Precision against keep rate.

    Args:
      audits: one a seed.

    Returns:
      A row for each tenth of the tasks; None where no audit has truth.
    """
    seeds = [rows for rows in map(precision_by_keep_rate, audits) if rows]
    if not seeds:
        return None
    rows = tuple(
        (
            f"{rate:.0%}",
            tuple(
                tuple(float(getattr(seed[place][1], name)) for seed in seeds)
                for name in ("kept", "threshold", "precision", "recall")
            ),
        )
        for place, rate in enumerate(RATES)
    )
    return Table(
        "Precision by keep rate",
        ("kept", "lowest margin", "of the kept, right", "of the right, kept"),
        rows,
        "Of tasks whose truth is known, those of the highest margin are kept. The last row keeps "
        "all: what others have above its precision is the filter's doing.",
        (",.0f", ".2f", ".1%", ".1%"),
    )


def threshold_table(audits: Sequence[Judged]) -> Table | None:
    """What round thresholds of the margin keep, and the one that was used.

    Args:
      audits: one a seed.

    Returns:
      A row for each threshold; None where nothing has a margin.
    """
    margins = np.concatenate([audit.margins[np.isfinite(audit.margins)] for audit in audits])
    if not len(margins):
        return None
    least, most = np.percentile(margins, [1, 99])
    thresholds = _round_numbers(float(least), float(most))
    rows = [(f"{t:g}", [keep(audit, [t])[0] for audit in audits]) for t in thresholds]
    used = [t for audit in audits if (t := audit.threshold) is not None]
    marked = ""
    if len(used) == len(audits):
        mean = float(np.mean(used))
        marked = f"used: {mean:.2f}"
        seeds = [keep(audit, [t])[0] for audit, t in zip(audits, used, strict=True)]
        rows.insert(sum(mean > t for t in thresholds), (marked, seeds))
    return Table(
        "Tasks kept by threshold",
        ("kept", "keep rate", "of the kept, right"),
        tuple(
            (
                label,
                tuple(
                    tuple(float(getattr(seed, name)) for seed in seeds)
                    for name in ("kept", "rate", "precision")
                ),
            )
            for label, seeds in rows
        ),
        "Tasks whose margin is not below the threshold, duplicates among them; the one used is the "
        "lowest margin that was kept.",
        (",.0f", ".1%", ".1%"),
        (marked,),
    )


def _round_numbers(least: float, most: float) -> list[float]:
    """Some four to ten round numbers from one to another; none between equal ones."""
    if most - least < 1e-6:
        return []
    step = 10.0 ** math.floor(math.log10(most - least))
    while (most - least) / step < 4:
        step /= 2
    first, last = math.ceil(least / step), math.floor(most / step)
    return [round(number * step, 9) for number in range(first, last + 1)]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
