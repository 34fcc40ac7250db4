"""The filter over files: tasks are judged in parts, and every decision leaves a line."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from mmjax.data.turn_records import read_records
from mmjax.errors import DataError
from mmjax.files import digest_of
from mmjax.synthesis.generate import seeing
from mmjax.synthesis.judge import LABELS, Judge, Looker, decide, look, margins, scored
from mmjax.synthesis.parse import Triplet, triplets_of
from mmjax.synthesis.parts import Failure, Outcome, Parts, Rows, outcomes_in, plan_batches

_SCORES, _LOOKED, _TASKS = "scores", "looked", "tasks"


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
        return triplets_of(rows.record(row))

    sizes = [max(judge.sizes(tasks(row)), default=0) for row in range(len(rows))]

    def do(batch: Sequence[int]) -> list[Outcome]:
        each = [tasks(row) for row in batch]
        flat = judge.scores([task for some in each for task in some])
        names = [_digest(some) for some in each]
        return _by_record(_SCORES, [_listed(scores) for scores in flat], each, names)

    parts.work(plan_batches(np.array(sizes, np.int64), batch_size), do, "judging tasks")


def look_at_tasks(
    generated: Path,
    parts: Parts,
    looker: Looker,
    batch_size: int = 32,
    tries: int = 2,
    retry_failed: bool = False,
) -> None:
    """Asks what sees the pictures about this shard's share of all tasks.

    Args:
      generated: records with tasks.
      parts: keeps the margins, an item a record.
      looker: see `mmjax.synthesis.judge.look`.
      batch_size: records whose pictures are read together, and tasks that are asked about together.
      tries: how often a picture is read before its record counts as failed.
      retry_failed: whether pictures that could not be read are tried again.

    Raises:
      MmjaxError: damaged files.
    """
    rows = Rows(generated)

    def size(row: int) -> int:
        tasks = triplets_of(rows.record(row))
        return max((len(task.question) + len(task.precise) for task in tasks), default=0)

    def do(batch: Sequence[int]) -> list[Outcome]:
        records = [rows.record(row) for row in batch]
        each = [triplets_of(one) for one in records]

        def ask(shown: list[Image.Image]) -> list[Outcome]:
            images = [image for image, tasks in zip(shown, each, strict=True) for _ in tasks]
            asked = [task for some in each for task in some]
            flat = look(looker, asked, images, batch_size=batch_size)
            names = [_digest(some, one.images) for some, one in zip(each, records, strict=True)]
            return _by_record(_LOOKED, flat.tolist(), each, names)

        return seeing(records, tries, ask)

    sizes = np.array([size(row) for row in range(len(rows))], np.int64)
    parts.work(plan_batches(sizes, batch_size), do, "looking at pictures", retry_failed)


def carried(
    generated: Path, earlier: Iterable[Path], seen: bool = False
) -> Iterator[tuple[int, Outcome]]:
    """Yields (row, scores) of the records whose very tasks the same judge scored before.

    Args:
      generated: records with tasks.
      earlier: folders of `Parts` in which `judge_tasks` or `look_at_tasks` kept scores of another
        such file.
      seen: whether the scores are of pictures too, so that these must be the same.

    Raises:
      MmjaxError: damaged files.
    """
    outcomes: dict[str, Any] = {}
    for outcome in itertools.chain.from_iterable(map(outcomes_in, earlier)):
        if isinstance(of := outcome.get(_TASKS), str):  # older ones do not say whose they are
            outcomes[of] = outcome
    for row, record in enumerate(read_records(generated) if outcomes else ()):
        name = _digest(triplets_of(record), record.images if seen else ())
        if (outcome := outcomes.get(name)) is not None:
            yield row, outcome


def _by_record(
    name: str, flat: Sequence[Any], each: Sequence[Sequence[Triplet]], digests: Sequence[str]
) -> list[Outcome]:
    """What was found of each task, record by record."""
    ends = np.cumsum([len(some) for some in each])
    return [
        {name: list(flat[end - len(some) : end]), _TASKS: digest}
        for some, end, digest in zip(each, ends, digests, strict=True)
    ]


def _digest(tasks: Sequence[Triplet], images: Sequence[str] = ()) -> str:
    """Stands for what the judge reads of a record, and for the pictures that are looked at."""
    contents = [task.as_object() for task in tasks]
    return digest_of([contents, list(images)] if images else contents)[:32]


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
    looked: Parts | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each task, in the order of records and tasks.

    Args:
      generated: records with tasks.
      parts: has the scores of all of them.
      choice: which are kept.
      looked: has the margins of those who saw the pictures; None where nobody looked.

    Yields:
      {"id", "number", "image", "caption", "question", "precise", "informative", "scores",
      "margin", "label", "keep", "why"}, and "looked" where somebody did.

    Raises:
      MmjaxError: scores lack, or are of another file.
    """
    table = [_array(scores) for _, outcome in parts.merged() for scores in _scores_in(outcome)]
    seen = None if looked is None else np.array(list(_seen(parts, looked)), np.float64)
    all_margins = margins(np.stack(table)) if table else np.zeros(0)
    judged = decide(all_margins, choice.threshold, choice.keep_rate)
    kept = decide(all_margins, choice.threshold, choice.keep_rate, seen)
    at = -1
    for at, row in enumerate(_rows(generated)):
        if at == len(table):
            raise DataError(f"{generated} has more tasks than were judged; judge them again")
        verdict = scored(table[at])
        why = "kept" if kept[at] else choice.why(verdict["label"])
        if seen is not None:
            verdict = {**verdict, "looked": float(seen[at]) if np.isfinite(seen[at]) else None}
            if judged[at] and not kept[at]:
                unread = verdict["looked"] is None
                why = "its picture cannot be read" if unread else "the picture says no"
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


def _scores_in(outcome: Outcome) -> Sequence[Sequence[float] | None]:
    return () if isinstance(outcome, Failure) else outcome[_SCORES]


def _seen(judged: Parts, looked: Parts) -> Iterator[float]:
    """Margins of who saw the pictures, one a task; NaN for those of a picture that failed."""
    for (_, scores), (_, outcome) in zip(judged.merged(), looked.merged(), strict=True):
        count = len(_scores_in(scores))
        values = [np.nan] * count if isinstance(outcome, Failure) else outcome[_LOOKED]
        if len(values) != count:
            raise DataError("pictures were looked at for other tasks than were judged")
        yield from values


def _array(scores: Sequence[float] | None) -> Float[np.ndarray, " 3"]:
    return np.full(len(LABELS), np.nan) if scores is None else np.array(scores)
