"""A whole look at data: what there is, and what a colleague would say of it."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.inspection import pictures, sides, texts
from mmjax.inspection.findings import LEVELS, Finding, in_order
from mmjax.inspection.pictures import Doubles
from mmjax.inspection.reading import SourceRows, read_all


@dataclasses.dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
      data: the rows.
      findings: the gravest first.
      languages: column of text -> the language that it is in.
      doubles: groups of rows with one picture.
      unreadable: numbers of rows whose picture cannot be opened, or is not there.
      pixels: (median width, median height) of the pictures; None without pictures.
    """

    data: SourceRows
    findings: tuple[Finding, ...]
    languages: Mapping[str, str]
    doubles: Doubles
    unreadable: frozenset[int]
    pixels: tuple[int, int] | None

    def of(self, kind: str) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    @property
    def errors(self) -> list[Finding]:
        """What training would refuse, or be wrong by."""
        return [finding for finding in self.findings if finding.level == "error"]

    def summary(self) -> list[tuple[str, str]]:
        """(name, value) of what there is."""
        data = self.data
        facts = [("rows", f"{len(data.rows):,}")]
        if self.pixels is not None:
            shown = sum(row.image is not None for row in data.rows) - len(self.unreadable)
            width, height = self.pixels
            facts.append(("pictures", f"{shown:,}, {width} x {height} pixels in the median"))
        for column in data.columns:
            size = sorted(texts.lengths(data.rows, column))
            if not size:
                facts.append((f"texts under {column!r}", "0"))
                continue
            spoken = self.languages.get(column)
            where = f" in {spoken!r}" if spoken else ""
            long = size[int(0.95 * (len(size) - 1))]
            facts.append(
                (
                    f"texts under {column!r}",
                    f"{len(size):,}{where}, about {statistics.median(size):.0f} tokens in "
                    f"the median, {long} at 95 %",
                )
            )
        count = Counter(row.label for row in data.rows if row.label)
        if count:
            (most, n), (least, m) = count.most_common()[0], count.most_common()[-1]
            extent = f"{m} ({least!r}) to {n} ({most!r}) rows each"
            facts.append(("classes", f"{len(count)}, {extent}"))
        by_side = Counter(row.side for row in data.rows if row.side)
        if by_side:
            facts.append(("split", ", ".join(f"{n:,} {side}" for side, n in by_side.items())))
        return facts

    def as_json(self) -> dict[str, Any]:
        """All of it for programs."""
        return {
            "source": self.data.source,
            "summary": dict(self.summary()),
            "languages": dict(self.languages),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """All of it for people."""
        summary = self.summary()
        width = max(len(name) for name, _ in summary)
        lines = [self.data.source, *(f"  {name:{width}s}  {value}" for name, value in summary), ""]
        if not self.findings:
            return [*lines, "Nothing to complain about."]
        for level in LEVELS:
            lines += [f"{level}: {f}" for f in self.findings if f.level == level]
        return lines


def look_over(source: str) -> Look:
    """Looks data over.

    Args:
      source: a folder of classes, a list, a table, or tar shards; see `mmjax.data.own`.

    Returns:
      What was found.

    Raises:
      MmjaxError: there is no such data, or the extra `check` is missing.
    """
    data = read_all(source)
    gallery, findings = pictures.look_at(data.rows)
    doubles = pictures.doubles_in(gallery)
    findings = [*data.faults, *findings, *pictures.about_doubles(doubles, data.rows)]
    for column in data.columns:
        findings += texts.look_at(data.rows, column)
    findings += sides.look_at_classes(data.rows)
    findings += sides.leaks(data.rows, doubles)
    seen = {int(n) for n in gallery.numbers}
    shown = any(row.image is not None for row in data.rows)
    bad = {i for i in range(len(data.rows)) if i not in seen} if shown else set[int]()
    return Look(
        data,
        tuple(in_order(findings)),
        texts.languages_of(data.rows, data.columns),
        doubles,
        frozenset(bad),
        _median(gallery.sizes),
    )


def _median(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    if not sizes:
        return None
    return tuple(int(statistics.median(side)) for side in zip(*sizes, strict=True))  # type: ignore[return-value]
