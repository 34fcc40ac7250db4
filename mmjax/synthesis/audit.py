"""The filter over files: tasks are judged in parts, and every decision leaves a line."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.data.turn_records import Record, read_records
from mmjax.errors import DataError
from mmjax.files import digest_of
from mmjax.synthesis.judge import LABELS, Judge, decide, margins, scored
from mmjax.synthesis.parse import Triplet, triplets_of
from mmjax.synthesis.parts import Failure, Outcome, Parts, Rows, outcomes_in, plan_batches

_SCORES, _TASKS = "scores", "tasks"


def judge_tasks(generated: Path, parts: Parts, judge: Judge, batch_size: int = 32) -> None:
    """Judges this shard's share of all tasks; `Parts` says how work is shared and goes on.

    Args:
      generated: records with tasks.
      parts: keeps the scores, an item a record.
      judge: weighs them.
      batch_size: records that are judged together.

    Raises:
      MmjaxError: damaged files.
    """
    rows = Rows(generated)

    def tasks(row: int) -> list[Triplet]:
        return triplets_of(Record.of_object(f"{generated}, row {row + 1}", rows[row]))

    sizes = [max(judge.sizes(tasks(row)), default=0) for row in range(len(rows))]

    def do(batch: Sequence[int]) -> list[Outcome]:
        each = [tasks(row) for row in batch]
        flat = [
            _listed(scores) for scores in judge.scores([task for some in each for task in some])
        ]
        ends = np.cumsum([len(some) for some in each])
        return [
            {_SCORES: flat[end - len(some) : end], _TASKS: _digest(some)}
            for some, end in zip(each, ends, strict=True)
        ]

    parts.work(plan_batches(np.array(sizes, np.int64), batch_size), do, "judging tasks")


def carried(generated: Path, earlier: Iterable[Path]) -> Iterator[tuple[int, Outcome]]:
    """Yields (row, scores) of the records whose very tasks the same judge scored before.

    Args:
      generated: records with tasks.
      earlier: folders of `Parts` in which `judge_tasks` kept scores of another such file.

    Raises:
      MmjaxError: damaged files.
    """
    outcomes: dict[str, Any] = {}
    for outcome in itertools.chain.from_iterable(map(outcomes_in, earlier)):
        if isinstance(of := outcome.get(_TASKS), str):  # older ones do not say whose they are
            outcomes[of] = outcome
    for row, record in enumerate(read_records(generated) if outcomes else ()):
        if (outcome := outcomes.get(_digest(triplets_of(record)))) is not None:
            yield row, outcome


def _digest(tasks: Sequence[Triplet]) -> str:
    """Stands for what the judge reads of a record."""
    return digest_of([task.as_object() for task in tasks])[:32]


def _listed(scores: Float[np.ndarray, " 3"]) -> list[float] | None:
    return scores.tolist() if np.isfinite(scores).all() else None


@dataclass(frozen=True)
class Choice:
    """Which tasks are kept; see `decide`.

    Attributes:
      threshold: the least margin.
      keep_rate: a share instead.
    """

    threshold: float = 0.0
    keep_rate: float | None = None

    def why(self, label: str) -> str:
        """Why a task is not kept that the judge called `label`."""
        if not label:
            return "longer than the judge reads"
        if self.keep_rate is not None:
            return f"not in the top {100 * self.keep_rate:g} %"
        return f"margin below {self.threshold:g}"


def audit(
    generated: Path,
    parts: Parts,
    choice: Choice = Choice(),
    looked: Float[np.ndarray, " n"] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each task, in the order of records and tasks.

    Args:
      generated: records with tasks.
      parts: has the scores of all of them.
      choice: which are kept.
      looked: margins of `mmjax.synthesis.judge.look` for all tasks; None where nobody looked.

    Yields:
      {"id", "number", "image", "caption", "question", "precise", "informative", "scores",
      "margin", "label", "keep", "why"}.

    Raises:
      MmjaxError: scores lack, or are of another file.
    """
    table = [_array(scores) for _, outcome in parts.merged() for scores in _scores_in(outcome)]
    all_margins = margins(np.stack(table)) if table else np.zeros(0)
    judged = decide(all_margins, choice.threshold, choice.keep_rate)
    kept = decide(all_margins, choice.threshold, choice.keep_rate, looked)
    at = -1
    for at, row in enumerate(_rows(generated)):
        if at == len(table):
            raise DataError(f"{generated} has more tasks than were judged; judge them again")
        verdict = scored(table[at])
        why = "kept" if kept[at] else choice.why(verdict["label"])
        why = "the picture says no" if judged[at] and not kept[at] else why
        yield {**row, **verdict, "keep": bool(kept[at]), "why": why}
    if at + 1 != len(table):
        raise DataError(f"{generated} has fewer tasks than were judged; judge them again")


def unjudged(generated: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of an audit that keeps every task, without a judge."""
    for row in _rows(generated):
        yield {**row, **scored(None), "keep": True, "why": "kept, not judged"}


def _rows(generated: Path) -> Iterator[dict[str, Any]]:
    """Of each task what an audit says of it before anybody judges."""
    for record in read_records(generated):
        for number, task in enumerate(triplets_of(record)):
            yield {
                "id": record.id,
                "number": number,
                "image": record.images[0] if record.images else "",
                "caption": record.turns[1].text if len(record.turns) > 1 else "",
                **task.as_object(),
            }


def _scores_in(found: Outcome) -> Sequence[Sequence[float] | None]:
    return () if isinstance(found, Failure) else found[_SCORES]


def _array(scores: Sequence[float] | None) -> Float[np.ndarray, " 3"]:
    return np.full(len(LABELS), np.nan) if scores is None else np.array(scores)
