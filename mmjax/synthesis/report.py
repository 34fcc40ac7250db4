"""The quality report of a synthesis: synthesis.html and synthesis.md."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.data.turn_records import BLANK
from mmjax.encoders.image_preprocess import open_image
from mmjax.errors import MmjaxError
from mmjax.report import page, plots
from mmjax.report.page import Report, Table
from mmjax.report.plots import Figure
from mmjax.report.samples import Sample, Samples, shorten, thumbnail
from mmjax.synthesis import quality
from mmjax.synthesis.judged import Judged, keep, margin_of, precision_table, threshold_table
from mmjax.synthesis.quality import Quality, Row
from mmjax.synthesis.variety import distinct, even_kinds

NAME = "synthesis"  # of both pages
_SIDE = 160  # pixels of a picture
_ROWS, _NAME = 15, 80  # of the longest table; letters of the longest name of a row
_POINTS = 200  # of a curve
_CAPTIONS = {
    "first": "caption, then tasks",
    "last": "tasks, then caption",
    "none": "tasks alone",
    "alone": "caption alone",
}
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def write_report(
    folder: Path, *, images: Path | None = None, command: str = "", seed: int = 0
) -> tuple[Path, Path]:
    """Writes synthesis.html and synthesis.md of a run folder, finished or not.

    Args:
      folder: of the run; files that it lacks are named on the page.
      images: where relative paths of pictures begin; None is the folder itself.
      command: what the user typed; "" is what summary.json has.
      seed: of the examples that are shown.

    Returns:
      Paths of the HTML page and of the Markdown page.

    Raises:
      MmjaxError: a file of the folder is damaged, or a page cannot be written.
    """
    contents = quality.read_quality(folder, seed)
    seconds, settings = _summary(contents.summary)
    rates = threshold_table([contents.judged])
    truth = precision_table([contents.judged])
    report = Report(
        title=f"Synthesis: {folder.resolve().name.replace('_', ' ')}",
        summary="Tasks were generated from pictures and their captions, filtered by whether both "
        "answers to a question agree, and composed into conversations to train on.",
        headline=tuple(_headline(contents)),
        tables=tuple(
            table for table in (_steps(contents), rates, truth, *_tables(contents)) if table
        ),
        figures=tuple(_figures(contents)),
        samples=tuple(_samples(contents, images or folder)),
        notes=tuple(_notes(contents)),
        timings=seconds,
        environment=settings,
        command=command or _text(contents.summary.get("command")),
    )
    return page.write_report(folder, report, NAME)


def _headline(contents: Quality) -> Iterator[tuple[str, str]]:
    counts = contents.counts
    yield "records", f"{counts['pairs'] or counts['generated']:,}"
    yield "tasks generated", f"{counts['triplets'] or counts['audited']:,}"
    if counts["audited"]:
        yield "keep rate", f"{counts['kept'] / counts['audited']:.1%}"
    known = np.isfinite(contents.judged.right)
    if known.any():
        yield "right, of all", f"{contents.judged.right[known].mean():.1%}"
        if (kept := known & contents.judged.kept).any():
            yield "right, of the kept", f"{contents.judged.right[kept].mean():.1%}"
    if contents.failed:
        yield "failed", f"{contents.failed.total():,}"


def _steps(contents: Quality) -> Table:
    """What each step made of what it was given."""
    counts = contents.counts
    generated, audited, composed = counts["generated"], counts["audited"], counts["composed"]
    whole = counts["pairs"] or generated
    rows: list[tuple[str, int, int]] = [("records read", counts["pairs"], 0)]
    if generated:
        rows += [
            ("generated: records with tasks", counts["parsed"], generated),
            ("generated: records without, not parsed", generated - counts["parsed"], generated),
            ("generated: texts that were cut off", counts["unfinished"], generated),
            ("generated: tasks", counts["triplets"], 0),
        ]
    if audited:
        rows += [("filtered: tasks kept", counts["kept"], audited)]
        rows += [
            (f"filtered: tasks labelled {label or 'nothing'}", number, audited)
            for label, number in contents.labels.most_common(_ROWS)
        ]
        rows += [
            (f"filtered: dropped, {why or 'no reason given'}", number, audited)
            for why, number in contents.dropped.most_common(_ROWS)
        ]
    rows += [
        (f"composed: {_CAPTIONS.get(place, place or 'not told how')}", number, composed)
        for place, number in contents.captions.most_common(_ROWS)
    ]
    rows += [(f"failed: {step}", n, whole) for step, n in contents.failed.most_common(_ROWS)]
    return Table(
        "Step by step",
        ("number", "share"),
        tuple((_name(label), ((float(n),), (n / of,) if of else ())) for label, n, of in rows),
        "Shares of records or of tasks, as the row says.",
        (",.0f", ".1%"),
    )


def _tables(contents: Quality) -> Iterator[Table]:
    if contents.kinds:
        yield _kinds(contents)
    if contents.questions:
        yield _variety(contents)
    if contents.branches:
        yield _branches(contents)


def _kinds(contents: Quality) -> Table:
    most = sorted(contents.kinds.items(), key=lambda item: (-item[1].tasks, item[0]))
    whole = contents.counts["audited"]
    rest = len(most) - _ROWS
    return Table(
        "Kinds of questions",
        ("tasks", "share", "kept", "keep rate", "right"),
        tuple(
            (
                _name(name) or "without words",
                (
                    (float(kind.tasks),),
                    (kind.tasks / whole,),
                    (float(kind.kept),),
                    (kind.kept / kind.tasks,),
                    (kind.right / kind.known,) if kind.known else (),
                ),
            )
            for name, kind in most[:_ROWS]
        ),
        "By the words that a question begins with."
        + (f" {rest:,} rarer kinds are not shown." if rest > 0 else ""),
        (",.0f", ".1%", ",.0f", ".1%", ".1%"),
    )


def _variety(contents: Quality) -> Table:
    """How varied the questions are, in one row."""
    whole = contents.counts["audited"]
    figures = (
        contents.different / whole,
        distinct(contents.questions, 1),
        distinct(contents.questions, 2),
        float(len(contents.kinds)),
        even_kinds({name: kind.tasks for name, kind in contents.kinds.items()}),
    )
    return Table(
        "Diversity of questions",
        ("different questions", "distinct-1", "distinct-2", "kinds", "effective kinds"),
        (("all tasks", tuple((figure,) for figure in figures)),),
        f"Distinct-n is the share of different runs of n words, over {len(contents.questions):,} "
        "questions; effective kinds are as many equally frequent ones as have the same entropy.",
        (".1%", ".3f", ".3f", ",.0f", ".1f"),
    )


def _branches(contents: Quality) -> Table:
    sums = {name: mix.total() for name, mix in contents.branches.items()}
    whole = sum(sums.values())
    return Table(
        "How answers were joined",
        ("tasks", "share", "templates", "most frequent"),
        tuple(
            (
                _name(name),
                (
                    (float(number),),
                    (number / whole,),
                    (float(sum(template != "" for template in contents.branches[name])),),
                    (max(contents.branches[name].values()) / number,),
                ),
            )
            for name, number in sorted(sums.items(), key=lambda item: -item[1])[:_ROWS]
        ),
        "Chain: the reasons, then a conclusion by template; joined: the precise answer concludes; "
        "alone: the informative one does; inverted: the question is asked for. The last column is "
        "the share that the most frequent template has.",
        (",.0f", ".1%", ",.0f", ".1%"),
    )


def _figures(contents: Quality) -> Iterator[Figure]:
    judged = contents.judged
    margins = np.sort(judged.margins[np.isfinite(judged.margins)])
    if len(margins):
        at = np.unique(np.linspace(0, len(margins) - 1, _POINTS).round().astype(int))
        rates = 100 * (1 - at / len(margins))
        yield Figure(
            "Keep rate, %, by threshold of the margin",
            plots.lines("threshold", {"": (margins[at], rates)}, judged.threshold),
        )
        yield Figure("Tasks by margin and label", plots.histogram("margin", _by_label(judged)))
    with_truth = judged.with_truth()
    if len(with_truth.margins):
        rates, precision = _precision(with_truth)
        threshold = judged.threshold
        used = None if threshold is None else 100 * keep(with_truth, [threshold])[0].rate
        yield Figure(
            "Precision, %, by keep rate",
            plots.lines("keep rate, %", {"": (rates, precision)}, used),
        )
    if contents.counts["audited"]:
        longest = max(float(np.percentile(lengths, 99)) for lengths in contents.lengths.values())
        cut = {name: np.minimum(lengths, longest) for name, lengths in contents.lengths.items()}
        yield Figure("Lengths of questions and answers", plots.histogram("letters", cut))


def _by_label(judged: Judged) -> dict[str, Float[np.ndarray, " n"]]:
    """The margins of the most frequent labels; what a legend cannot print is one of them."""
    scored = np.isfinite(judged.margins)
    labels = np.array([_legible(label) for label in judged.labels])
    names, counts = np.unique(labels[scored], return_counts=True)
    most = sorted(zip(-counts, names, strict=True))[: len(plots.COLOURS)]
    return {str(name): judged.margins[scored & (labels == name)] for _, name in most}


def _legible(label: str) -> str:
    return label if re.fullmatch("[a-zA-Z][ -~]{0,19}", label) else quality.OTHER


def _precision(known: Judged) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """(keep rates, share of right ones among the kept), both in percent."""
    order = np.argsort(-known.margins, kind="stable")
    margins, right = known.margins[order], np.cumsum(known.right[order])
    # Only where the next margin is lower is there a threshold that keeps just these.
    ends = np.flatnonzero(np.append(np.diff(margins) < 0, True)) + 1
    # The first few say little: one wrong task would draw a curve of its own.
    ends = ends[ends >= min(10, len(margins))]
    at = ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).round().astype(int))]
    return 100 * at / len(margins), 100 * right[at - 1] / at


def _samples(contents: Quality, images: Path) -> Iterator[Samples]:
    for verdict, title, caption in (
        ("kept", "Kept", "Drawn at random from the tasks that the filter kept."),
        ("dropped", "Dropped", "Drawn at random from those that it did not."),
    ):
        rows = contents.samples.get(verdict)
        if rows:
            yield Samples(title, tuple(_task(row, images) for row in rows), caption)
    unread = contents.samples.get("unparsed")
    if unread:
        rows = tuple(_unparsed(row, images) for row in unread)
        yield Samples("Not parsed", rows, "Texts in which no whole task was found.")
    failed = contents.samples.get("failed")
    if failed:
        rows = tuple(_failure(row) for row in failed)
        yield Samples("Failed", rows, "Some of failed.jsonl; --retry-failed tries them again.")


def _task(row: Row, images: Path) -> Sample:
    kept, right = row.get("keep") is True, row.get("right")
    margin, scores = margin_of(row), row.get("scores")
    remarks = [str(row.get("label") or "")]
    if isinstance(scores, dict):
        log_probs = {k: min(v, 0) for k, v in scores.items() if isinstance(v, int | float)}
        order = sorted(log_probs, key=lambda name: -log_probs[name])
        remarks = [f"{name} {math.exp(log_probs[name]):.1%}" for name in order]
    remarks += [f"margin {margin:.2f}"] if math.isfinite(margin) else []
    remarks += [] if kept else [str(row.get("why") or "")]
    lines = [(part, row.get(part)) for part in ("precise", "informative", "caption")]
    lines += [("filter", ", ".join(filter(None, remarks))), ("id", row.get("id"))]
    badge, good = "kept" if kept else "dropped", kept
    if isinstance(right, bool):  # what is wrong and dropped was decided well
        badge, good = f"{badge}, {'right' if right else 'wrong'}", kept == right
    png, missing = _picture(row.get("image"), images)
    return Sample(_text(row.get("question")), badge, good, _lines(lines), png, missing)


def _unparsed(row: Row, images: Path) -> Sample:
    meta, shown = row.get("meta"), row.get("images")
    meta = meta if isinstance(meta, dict) else {}
    first = shown[0] if isinstance(shown, list) and shown else shown
    png, missing = _picture(first, images)
    badge = "cut off" if meta.get("finished") is False else "not parsed"
    turns = row.get("turns")
    caption = turns[1] if isinstance(turns, list) and len(turns) > 1 else None
    text = caption.get("text") if isinstance(caption, dict) else None
    lines = _lines([("written", meta.get("raw")), ("caption", text)])
    return Sample(_text(row.get("id")), badge, False, lines, png, missing)


def _failure(row: Row) -> Sample:
    lines = [("error", row.get("error")), ("tries", row.get("tries"))]
    return Sample(_text(row.get("id")), _text(row.get("step")), False, _lines(lines))


def _lines(lines: Sequence[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, _text(value)) for name, value in lines if value not in (None, ""))


def _name(label: str) -> str:
    return shorten(label, _NAME)


def _text(value: object) -> str:
    return shorten(str(value)) if value is not None else ""


def _picture(name: object, images: Path) -> tuple[bytes | None, str]:
    """(a small picture, or None, and why there is none)."""
    if not isinstance(name, str) or not name:
        return None, "no picture"
    if name.startswith(BLANK):
        return None, "a blank picture"
    if _URL.match(name):  # a report that calls home is none
        return None, "not fetched: " + shorten(name)
    try:
        return thumbnail(open_image(images / name), _SIDE), ""
    except MmjaxError as error:
        return None, shorten(str(error).removeprefix("picture 0 "))


def _notes(contents: Quality) -> Iterator[str]:
    counts = contents.counts
    for name in contents.missing:
        yield f"{name} is not there: its step has not run, or has not ended."
    if counts["generated"] and not counts["triplets"]:
        yield "No text held a whole task: every record keeps its caption alone."
    if counts["audited"] and not counts["kept"]:
        yield "The filter kept no task: every record keeps its caption alone; lower its threshold."
    if quality.GENERATED not in contents.missing and not counts["generated"]:
        yield "generated.jsonl has no records."
    if counts["audited"]:
        unscored = int((~np.isfinite(contents.judged.margins)).sum())
        if unscored:
            yield f"{unscored:,} tasks have no margin: the curves and thresholds leave them out."
        known = int(np.isfinite(contents.judged.right).sum())
        if known:
            yield f"The truth of {known:,} of {counts['audited']:,} tasks is known from metadata."
        else:
            yield "No metadata says which answers are right: how many are is not known."
        yield "Lengths above the 99th percentile are drawn at it."


def _summary(summary: Row) -> tuple[dict[str, float], dict[str, str]]:
    """(step -> seconds, setting -> value), wherever summary.json has them."""
    seconds, settings = dict[str, float](), dict[str, str]()
    for path, value in _leaves(summary, ()):
        if "seconds" in path and isinstance(value, int | float) and math.isfinite(value):
            seconds[" ".join(part for part in path if part != "seconds") or "in all"] = value
        elif "settings" in path or "environment" in path:
            name = ".".join(part for part in path if part not in ("settings", "environment"))
            settings[shorten(name)] = _text(value)
    return seconds, settings


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value
