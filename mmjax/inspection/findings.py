"""What a look at data finds: one sentence each, with the rows that it is about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_MOST = 8  # rows that a sentence names


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know.

    Attributes:
      kind: what it is in one word, for programs.
      level: `error`: training would refuse it, or its figures would mean nothing; `warning`: it
        costs quality; `note`: worth knowing.
      text: a sentence without the rows.
      rows: numbers (or names) of the rows, as the file counts them.
    """

    kind: str
    level: Level
    text: str
    rows: tuple[int | str, ...] = field(default=())

    def __str__(self) -> str:
        """The sentence with its rows."""
        return f"{self.text}{': ' + told(self.rows) if self.rows else ''}"


def told(rows: Sequence[int | str]) -> str:
    """Rows in words: `rows 3, 17 and 5 more`."""
    word = "row" if all(isinstance(row, int) for row in rows) else "picture"
    first = ", ".join(map(str, rows[:_MOST]))
    more = f" and {len(rows) - _MOST} more" if len(rows) > _MOST else ""
    return f"{word}{'s' if len(rows) > 1 else ''} {first}{more}"


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first; what is as grave stays in its order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
