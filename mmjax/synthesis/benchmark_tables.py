"""Tables of benchmarks in their papers' layout, published rows above ours."""

import csv
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mmjax.data.questions.general import COGNITION, PERCEPTION
from mmjax.evals.benchmarks import BENCHMARKS, BIOMEDICINE, FOOD, LAVIN, REMOTE
from mmjax.evals.measures import Both
from mmjax.report.page import Table
from mmjax.synthesis.evaluate import Row

Cells: TypeAlias = tuple[tuple[float, ...], ...]
_LEGACY: Literal["legacy"] = "legacy"
_STRICT: Literal["strict"] = "strict"
_WAYS = (_LEGACY, _STRICT)


@dataclass(frozen=True)
class _Domain:
    """How one table is headed.

    Attributes:
      title: of the table.
      source: of the published rows.
      mean: whether the mean of the columns says anything.
    """

    title: str
    source: str
    mean: bool = True


_ADAMLLM = "Published rows: Cheng et al. 2025 (AdaMLLM, arXiv 2411.19930), table {}; "
_COUNTED = "set `legacy` against them, which counts in the same way, not `strict`."
_DOMAINS = {
    BIOMEDICINE: _Domain("Biomedicine, zero-shot", _ADAMLLM.format(2) + _COUNTED),
    FOOD: _Domain("Food, zero-shot", _ADAMLLM.format(3) + _COUNTED),
    REMOTE: _Domain(
        "Remote sensing, zero-shot",
        _ADAMLLM.format(3) + "how they count is not published. `legacy` looks for the letters of "
        "the right answer, as they do with closed questions elsewhere.",
    ),
    LAVIN: _Domain(
        "Further evaluations of LaVIN",
        "Published rows: Luo et al. 2023 (LaVIN, arXiv 2305.15023). Its 47.9 on TruthfulQA (LLaMA: "
        "38.7) does not say which of MC1 and MC2 it is.",
        mean=False,
    ),
}


def published(domain: str) -> list[tuple[str, dict[str, float]]]:
    """Published figures of a domain.

    Args:
      domain: one of `mmjax.evals.benchmarks`.

    Returns:
      (system, figures by "BENCHMARK.NAME"), in the paper's order; what is not published lacks.
    """
    file = importlib.resources.files("mmjax.evals") / f"published_{domain}.tsv"
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines(), delimiter="\t")
    return [
        (row.pop("system"), {name: float(value) for name, value in row.items() if value})
        for row in rows
    ]


def tables(systems: Sequence[tuple[str, Sequence[Row]]]) -> tuple[Table, ...]:
    """Tables for a report.

    Args:
      systems: (name, what `evaluate` returned), ours, in the order in which they are shown.

    Returns:
      A table a domain that was measured, with the published rows, and what the papers do not
      count: F1 beside recall, MME by subtask.
    """
    by_domain: list[Table] = []
    for domain in _DOMAINS:
        measured = {row.name for _, rows in systems for row in rows}
        if any(
            benchmark.domain == domain and name in measured
            for name, benchmark in BENCHMARKS.items()
        ):
            by_domain.append(_domain(domain, systems))
    return (*by_domain, *_beside(systems), *_subtasks(systems))


def _domain(domain: str, systems: Sequence[tuple[str, Sequence[Row]]]) -> Table:
    about = _DOMAINS[domain]
    columns = {
        f"{name}.{key}": column.heading
        for name, benchmark in BENCHMARKS.items()
        if benchmark.domain == domain
        for key, column in benchmark.columns.items()
    }
    rows = [(system, values) for system, values in published(domain)]
    ours: list[str] = []
    notes: list[str] = []
    for system, measured in systems:
        figures = _figures(measured)
        if not set(figures) & set(columns):
            continue
        for way in _WAYS:
            ours.append(f"{system} ({way})")
            rows.append((ours[-1], {name: getattr(both, way) for name, both in figures.items()}))
        notes += [_note(system, row) for row in measured if BENCHMARKS[row.name].domain == domain]

    def cells(values: dict[str, float]) -> Cells:
        numbers = [values[name] for name in columns if name in values]
        mean = (sum(numbers) / len(numbers),) if len(numbers) == len(columns) else ()
        single = tuple((values[name],) if name in values else () for name in columns)
        return (*single, mean) if about.mean else single

    headings = (*columns.values(), "mean") if about.mean else tuple(columns.values())
    return Table(
        about.title,
        headings,
        tuple((label, cells(values)) for label, values in rows),
        " ".join([about.source, *notes]),
        (".1f",) * len(headings),
        tuple(ours),
    )


def _figures(rows: Sequence[Row]) -> dict[str, Both]:
    return {f"{row.name}.{key}": both for row in rows for key, both in row.figures.items()}


def _note(system: str, row: Row) -> str:
    """How many questions stand behind a row, where they are not the paper's, all answered."""
    count = sum(column.count for column in BENCHMARKS[row.name].columns.values())
    parts = [f"{row.asked:,} of {row.total:,} questions"] if row.asked < row.total else []
    parts += [f"the paper asks {count:,}"] if count not in (0, row.asked) else []
    parts += [f"{row.missing:,} without an answer"] if row.missing else []
    return f"{system}, {BENCHMARKS[row.name].title}: {', '.join(parts)}." if parts else ""


def _beside(systems: Sequence[tuple[str, Sequence[Row]]]) -> list[Table]:
    """Figures that the papers do not have, strict ones alone."""
    columns = {
        f"{name}.{key}": f"{benchmark.title}: {heading}"
        for name, benchmark in BENCHMARKS.items()
        for key, heading in benchmark.beside.items()
        if any(key in row.figures for _, rows in systems for row in rows if row.name == name)
    }
    if not columns:
        return []
    rows: list[tuple[str, Cells]] = []
    for system, measured in systems:
        figures = _figures(measured)
        own = tuple((figures[name].strict,) if name in figures else () for name in columns)
        rows.append((system, own))
    caption = "Recall alone rewards long answers; F1 does not."
    headings = tuple(columns.values())
    return [Table("Beside recall", headings, tuple(rows), caption, (".1f",) * len(headings))]


def _subtasks(systems: Sequence[tuple[str, Sequence[Row]]]) -> list[Table]:
    """MME's accuracies, a table a system."""
    by_system: list[Table] = []
    for system, measured in systems:
        figures = next((row.figures for row in measured if row.name == "mme"), {})
        subtasks = [name for name in (*PERCEPTION, *COGNITION) if f"{name}_acc" in figures]
        if not subtasks:
            continue
        rows = tuple(
            (
                name.replace("_", " "),
                tuple(
                    (getattr(figures[f"{name}_{key}"], way),)
                    for way in _WAYS
                    for key in ("acc", "acc_plus")
                ),
            )
            for name in subtasks
        )
        headings = tuple(f"{key} ({way})" for way in _WAYS for key in ("accuracy", "accuracy+"))
        caption = "accuracy+: share of pictures of which both questions are answered rightly."
        by_system.append(Table(f"MME by subtask: {system}", headings, rows, caption, (".1f",) * 4))
    return by_system
