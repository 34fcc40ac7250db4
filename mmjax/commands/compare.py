"""`mmjax compare RUN RUN ...`: the figures, curves and settings of several runs on one page."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.errors import MmjaxError
from mmjax.report.page import Report, Table, print_table, write_report
from mmjax.report.plots import Curve
from mmjax.report.results import Results, minus
from mmjax.runs.run_folder import flat, read_recipe
from mmjax.writer import METRICS_FILE, read_metrics, series

NAME = "compare"
_MOST = 40  # settings that are told


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="mmjax compare",
        description="Writes a page with the tables, differences, curves and settings of runs.",
    )
    made.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; the first is compared to"
    )
    made.add_argument("--out", default=".", metavar="FOLDER", help=f"for {NAME}.html and {NAME}.md")
    return made


def main(arguments: Sequence[str]) -> int:
    """Writes the page.

    Args:
      arguments: behind `mmjax compare`.

    Returns:
      0.

    Raises:
      MmjaxError: fewer than two runs, or one that is not measured yet.
    """
    options = parser().parse_args(arguments)
    report = compare([Path(run) for run in options.runs])
    for table in report.tables:
        print_table(table)
    page, _ = write_report(Path(options.out), report, NAME)
    print(f"page: {page.resolve()}")
    return 0


@dataclass(frozen=True)
class _Measured:
    """A run that is measured."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    results: Results
    tables: Sequence[Table]


def compare(folders: Sequence[Path]) -> Report:
    """Puts runs beside each other.

    Args:
      folders: of runs; differences are taken from the first.

    Returns:
      The report.

    Raises:
      MmjaxError: fewer than two runs, or one that is not measured yet.
    """
    if len(folders) < 2:
        raise MmjaxError(f"{len(folders)} run to compare; give two and more run folders")
    runs = [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    first, *others = runs
    tables = [
        Table(
            title,
            columns,
            tuple(
                (f"{run.name}: {label}", cells)
                for run in runs
                for table in run.tables
                if (table.title, table.columns) == (title, columns)
                for label, cells in table.rows
            ),
            *next(
                (t.caption, t.formats)
                for r in runs
                for t in r.tables
                if (t.title, t.columns) == (title, columns)
            ),
        )
        for title, columns in dict.fromkeys((t.title, t.columns) for r in runs for t in r.tables)
    ]
    tables += [table for other in others for table in _differences(first, other)]
    notes = _settings(runs)
    return Report(
        title=" and ".join(run.name for run in runs),
        summary=(
            f"{len(runs)} runs beside each other; differences are those to {first.name}, seed by "
            "seed, and say something only where runs share their splits."
        ),
        tables=tuple(tables),
        curves=tuple(curve for run in runs for curve in _curves(run)),
        notes=tuple([*notes[:_MOST], *([f"{len(notes) - _MOST} more"] if notes[_MOST:] else [])]),
        command=" ".join(["mmjax compare", *map(str, folders)]),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or all of it where two share that."""
    short = [folder.resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else str(folder)
        for name, folder in zip(short, folders, strict=True)
    ]


def _read(folder: Path, name: str) -> _Measured:
    from mmjax.study import RESULTS
    from mmjax.tasks.catalog import definition_of

    settings = read_recipe(folder)
    if not (folder / RESULTS).is_file():
        raise MmjaxError(f"{folder} has no {RESULTS}; finish it first: mmjax evaluate {folder}")
    results = Results.load(folder / RESULTS)
    tables = definition_of(str(settings["task"])).tables(results)
    return _Measured(name, folder, settings, results, tables)


def _differences(first: _Measured, other: _Measured) -> list[Table]:
    """What another run has more than the first, where both have a row and the same seeds."""
    tables = []
    if list(first.results.seeds) != list(other.results.seeds):
        return []
    for table in other.tables:
        twin = next(
            (t for t in first.tables if (t.title, t.columns) == (table.title, table.columns)), None
        )
        if twin is None:
            continue
        there = dict(twin.rows)
        rows = tuple(
            (label, tuple(map(minus, cells, there[label])))
            for label, cells in table.rows
            if label in there
        )
        if rows:
            title = f"{table.title}: {other.name} minus {first.name}"
            formats = tuple(f"+{spec}" for spec in table.formats or (".3f",) * len(table.columns))
            tables.append(Table(title, table.columns, rows, "Seed by seed.", formats))
    return tables


def _curves(run: _Measured) -> list[Curve]:
    """The main stage's curves, one a seed."""
    curves = []
    for seed in run.results.seeds:
        for folder in sorted((run.folder / f"seed_{seed}").glob("*/")):
            if folder.name in ("base", *(run.settings.get("variants") or {})):
                continue
            if not (folder / METRICS_FILE).is_file():
                continue
            records = read_metrics(folder)
            names = dict.fromkeys(
                k for r in records for k, v in r.items() if k != "step" and not isinstance(v, str)
            )
            for metric in names:
                steps, values = series(records, metric)
                curves.append(Curve(f"{run.name}/{seed}", metric, steps, values))
    return curves


def _settings(runs: Sequence[_Measured]) -> list[str]:
    """Settings that are not the same everywhere."""
    dotted = [flat(run.settings) for run in runs]
    names = sorted({name for settings in dotted for name in settings})
    return [
        f"{name}: "
        + ", ".join(
            f"{settings.get(name, '–')!s} in {r.name}"
            for settings, r in zip(dotted, runs, strict=True)
        )
        for name in names
        if len({repr(settings.get(name)) for settings in dotted}) > 1
    ]
