"""What is in the folder of a synthesis, counted row by row in memory of bounded size."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmjax.data.files import read_data_json, read_jsonl
from mmjax.progress import track
from mmjax.synthesis.judged import Judged, Tasks
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.variety import Draw, digest, kind_of

PAIRS, GENERATED, AUDIT = "pairs.jsonl", "generated.jsonl", "audit.jsonl"
COMPOSED, FAILED, SUMMARY = "composed.jsonl", "failed.jsonl", "summary.json"
SHOWN, FEW = 12, 6  # examples of each verdict; of what could not be read, and of failures
QUESTIONS = 5_000  # whose words are compared
MOST_KINDS = 10_000  # of questions, of labels, of templates: what comes later is "other"
OTHER = "other"

Row = Mapping[str, Any]


@dataclass
class Kind:
    """Tasks of one kind: all, those kept, those with a known truth, those that are right."""

    tasks: int = 0
    kept: int = 0
    known: int = 0
    right: int = 0


@dataclass
class Quality:
    """What the files of a run folder hold.

    Attributes:
      missing: files that are not there.
      counts: what is counted -> how many, in the order of the steps.
      failed: step -> items that failed.
      labels: label of the filter -> tasks.
      kinds: kind of question -> its tasks.
      dropped: why tasks were dropped -> how many were.
      captions: where the caption's turn stands -> records.
      branches: how answers were joined -> template -> tasks.
      lengths: part of a triplet -> its letters, task by task.
      judged: the tasks of the audit.
      questions: some of them.
      different: how many different questions there are.
      samples: verdict -> rows to show.
      summary: of the run.
    """

    missing: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    failed: Counter[str] = field(default_factory=Counter[str])
    labels: Counter[str] = field(default_factory=Counter[str])
    kinds: dict[str, Kind] = field(default_factory=dict[str, Kind])
    dropped: Counter[str] = field(default_factory=Counter[str])
    captions: Counter[str] = field(default_factory=Counter[str])
    branches: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    lengths: dict[str, Int[np.ndarray, " n"]] = field(default_factory=dict[str, np.ndarray])
    judged: Judged = field(default_factory=lambda: Tasks().judged())
    questions: list[str] = field(default_factory=list[str])
    different: int = 0
    samples: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    summary: Row = field(default_factory=dict[str, Any])


def read_quality(folder: Path, seed: int = 0) -> Quality:
    """Reads the files of a run folder, each once.

    Args:
      folder: of a run, finished or not; files that are missing are named.
      seed: of the examples.

    Returns:
      The counts.

    Raises:
      DataError: a file that cannot be read, by row.
    """
    quality = Quality()
    readers = {
        PAIRS: _pairs,
        GENERATED: _generated,
        AUDIT: _audit,
        COMPOSED: _composed,
        FAILED: _failed,
    }
    for name, reader in readers.items():
        if (folder / name).exists():
            rows = (row for _, row in read_jsonl(folder / name))
            reader(quality, track(rows, f"reading {name}"), seed)
        elif name != FAILED:  # is there only where something failed
            quality.missing.append(name)
    if (folder / SUMMARY).exists():
        content = read_data_json(folder / SUMMARY)
        quality.summary = content if isinstance(content, dict) else {}
    else:
        quality.missing.append(SUMMARY)
    return quality


def _pairs(quality: Quality, rows: Iterator[Row], seed: int) -> None:
    quality.counts["pairs"] = sum(1 for _ in rows)


def _generated(quality: Quality, rows: Iterator[Row], seed: int) -> None:
    counts, unread = quality.counts, Draw[Row](FEW, seed)
    for row in rows:
        meta = _object(row.get("meta"))
        triplets = meta.get("triplets")
        tasks = len(triplets) if isinstance(triplets, list) else 0
        counts["generated"] += 1
        counts["parsed"] += tasks > 0
        counts["triplets"] += tasks
        counts["unfinished"] += meta.get("finished") is False
        if not tasks:
            unread.add(str(row.get("id")), row)
    quality.samples["unparsed"] = unread.items()


def _audit(quality: Quality, rows: Iterator[Row], seed: int) -> None:
    tasks, questions = Tasks(), Draw[str](QUESTIONS, seed)
    kept, dropped = Draw[Row](SHOWN, seed), Draw[Row](SHOWN, seed)
    lengths = {part: array("I") for part in Triplet.__annotations__}
    seen = array("Q")
    for row in rows:
        tasks.add(row)
        key, question = f"{row.get('id')}/{row.get('number')}", str(row.get("question") or "")
        is_kept, right = row.get("keep") is True, row.get("right")
        (kept if is_kept else dropped).add(key, row)
        questions.add(key, question)
        seen.append(digest(" ".join(question.casefold().split())))
        for part, letters in lengths.items():
            letters.append(len(str(row.get(part) or "")))
        quality.labels[_known(quality.labels, str(row.get("label") or ""))] += 1
        if not is_kept:
            why = str(row.get("why") or "").partition("duplicate of ")
            quality.dropped[_known(quality.dropped, "".join(why[:2]).removesuffix(" of "))] += 1
        kind = quality.kinds.setdefault(_known(quality.kinds, kind_of(question)), Kind())
        kind.tasks += 1
        kind.kept += is_kept
        kind.known += isinstance(right, bool)
        kind.right += right is True
    quality.counts["audited"], quality.counts["kept"] = kept.seen + dropped.seen, kept.seen
    quality.samples["kept"], quality.samples["dropped"] = kept.items(), dropped.items()
    quality.lengths = {part: np.array(letters) for part, letters in lengths.items()}
    quality.judged, quality.questions = tasks.judged(), questions.items()
    quality.different = len(np.unique(np.array(seen)))


def _composed(quality: Quality, rows: Iterator[Row], seed: int) -> None:
    for row in rows:
        how = _object(_object(row.get("meta")).get("composed"))
        quality.counts["composed"] += 1
        quality.captions[_known(quality.captions, str(how.get("caption") or ""))] += 1
        tasks = how.get("tasks")
        for task in map(_object, tasks if isinstance(tasks, list) else ()):
            branch = str(task.get("branch") or "")
            mix = quality.branches.setdefault(_known(quality.branches, branch), Counter())
            mix[_known(mix, str(task.get("template", "")))] += 1


def _failed(quality: Quality, rows: Iterator[Row], seed: int) -> None:
    drawn = Draw[Row](FEW, seed)
    for row in rows:
        step = str(row.get("step") or "")
        quality.failed[_known(quality.failed, step)] += 1
        drawn.add(f"{row.get('id')}/{step}", row)
    quality.samples["failed"] = drawn.items()


def _known(names: Mapping[str, object], name: str) -> str:
    """A name, or "other" where there are too many of them already."""
    return name if name in names or len(names) < MOST_KINDS else OTHER


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
