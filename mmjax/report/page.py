"""The run's report: one self-contained HTML page, its Markdown twin, the table on screen."""

import base64
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mmjax.files import write_atomic
from mmjax.report import plots
from mmjax.report.plots import Curve, Figure
from mmjax.report.samples import Samples

_MISSING = "–"


@dataclass(frozen=True)
class GalleryImage:
    """One picture: PNG bytes, the name shown under it, and whether it is the right one."""

    png: bytes
    label: str
    correct: bool


@dataclass(frozen=True)
class GalleryRow:
    """One query with the best pictures found for it and the picture that was wanted.

    Attributes:
      query: as the user typed it.
      gloss: the query in English.
      rank: place of the wanted picture, 1 is best.
      images: the pictures found, best first.
      target: the wanted picture; shown beside the others when it is not among them.
    """

    query: str
    gloss: str
    rank: int
    images: tuple[GalleryImage, ...]
    target: GalleryImage


@dataclass(frozen=True)
class Gallery:
    """Queries and what was found for them; `language` (a BCP 47 tag) picks the right glyphs."""

    title: str
    rows: tuple[GalleryRow, ...]
    caption: str = ""
    language: str = ""


@dataclass(frozen=True)
class HardPair:
    """A training pair: picture as PNG, caption, weight before the first step and in the end."""

    png: bytes
    label: str
    before: float
    after: float


@dataclass(frozen=True)
class HardSamples:
    """Which pairs weigh most.

    Attributes:
      first: heaviest pairs before the first step, heaviest first.
      last: heaviest pairs in the end.
      before: weights of all pairs before the first step.
      after: in the end, in the same order.
      caption: what a reader must know.
    """

    first: tuple[HardPair, ...]
    last: tuple[HardPair, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    caption: str = ""

    @property
    def parts(self) -> tuple[tuple[str, tuple[HardPair, ...]], ...]:
        """Both lists with their titles."""
        return ("Heaviest before the first step", self.first), ("Heaviest in the end", self.last)


@dataclass(frozen=True)
class Table:
    """Figures of several systems, every cell holding one value a seed.

    Attributes:
      title: heading.
      columns: name of each column.
      rows: (label, cells), a cell the values of all seeds; an empty one prints as a dash.
      caption: what a reader must know, beside the number of seeds, which is added.
      formats: a format spec for each column (".3f", ".1%"); empty for ".3f" everywhere.
      highlight: labels of the rows that the run is about.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]
    caption: str = ""
    formats: tuple[str, ...] = ()
    highlight: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses rows and formats that do not fit the columns."""
        if self.formats and len(self.formats) != len(self.columns):
            raise ValueError(
                f"table {self.title!r}: {len(self.columns)} columns, {len(self.formats)} formats"
            )
        for label, cells in self.rows:
            if len(cells) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}, row {label!r}: {len(self.columns)} columns,"
                    f" {len(cells)} cells"
                )

    def cells(self) -> list[tuple[str, list[str], bool]]:
        """Returns (label, printed cells, highlighted) of each row."""
        formats = self.formats or (".3f",) * len(self.columns)
        return [
            (
                label,
                [format_values(cell, spec) for cell, spec in zip(cells, formats, strict=True)],
                label in self.highlight,
            )
            for label, cells in self.rows
        ]

    def note(self) -> str:
        """Returns the caption with the number of seeds that stand behind the figures."""
        counts = sorted({len(cell) for _, cells in self.rows for cell in cells if cell})
        seeds = "" if not counts or counts == [1] else f"{' or '.join(map(str, counts))} seeds"
        spread = f"Mean ± standard deviation over {seeds}." if seeds else ""
        return " ".join(part for part in (self.caption, spread) if part)


@dataclass(frozen=True)
class ClassifiedImage:
    """A picture as PNG, its class, and the class that it was put into."""

    png: bytes
    label: str
    predicted: str


@dataclass(frozen=True)
class ClassReport:
    """How each class fared.

    Attributes:
      table: one row a class.
      left_out: sentences on classes that are neither learnt nor asked about.
      names: of the rows and columns of the matrix.
      matrix: [class][answer] how often; empty where there are too many classes.
      confusions: (class, answer, how often), the most frequent mistakes first.
      examples: right ones and wrong ones.
      caption: what a reader must know of the matrix.
    """

    table: Table
    left_out: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    matrix: tuple[tuple[int, ...], ...] = ()
    confusions: tuple[tuple[str, str, int], ...] = ()
    examples: tuple[ClassifiedImage, ...] = ()
    caption: str = ""

    @property
    def parts(self) -> tuple[tuple[str, tuple[ClassifiedImage, ...]], ...]:
        """The examples with their titles."""
        right = tuple(e for e in self.examples if e.label == e.predicted)
        wrong = tuple(e for e in self.examples if e.label != e.predicted)
        return ("Put into their class", right), ("Put into another", wrong)


@dataclass(frozen=True)
class Component:
    """Parameter counts of one part of the model, and the memory that they take."""

    name: str
    trainable: int
    frozen: int
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Report:
    """All that a report shows; an empty part is left out of the page.

    Attributes:
      title: heading.
      summary: one or two sentences: what was done and what came out.
      headline: (name, value) of the few figures to see first, values already printed.
      timings: name of a phase -> seconds.
      peak_memory_bytes: of the process on the host; 0 when not known.
      command: what to type to get this run again.
      environment: versions, devices, mesh.
      notes: what the reader should know: limits, truncated texts, fallbacks.
    """

    title: str
    summary: str = ""
    headline: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    figures: tuple[Figure, ...] = ()
    samples: tuple[Samples, ...] = ()
    hard_samples: HardSamples | None = None
    classes: ClassReport | None = None
    components: tuple[Component, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def numbers(counts: Sequence[int]) -> str:
    """Different ones of the seeds' counts."""
    return " / ".join(map(str, sorted(set(counts))))


def write_report(workdir: Path, report: Report, name: str = "report") -> tuple[Path, Path]:
    """Writes report.html, which needs no other file and no network, and report.md.

    Args:
      workdir: run directory, made if it is not there.
      report: what to show; every text in it is escaped.
      name: of both files, without what stands behind the dot.

    Returns:
      Paths of the HTML page and of the Markdown page, each written whole or not at all.

    Raises:
      MmjaxError: a page cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmjax.report", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        count=lambda number: f"{number:,}",
        duration=format_duration,
        memory=format_bytes,
        data_uri=_data_uri,
        csv_uri=_csv_uri,
        file_name=lambda name: re.sub(r"[^\w.-]+", "_", name).strip("_") or "curve",
        md=_escape_markdown,
        md_code=_code_block,
    )
    workdir.mkdir(parents=True, exist_ok=True)
    paths = workdir / f"{name}.html", workdir / f"{name}.md"
    groups = plots.groups(report.curves)
    hard = report.hard_samples
    series = {"before the first step": hard.before, "in the end": hard.after} if hard else {}
    for path, template in zip(paths, ("report.html.j2", "report.md.j2"), strict=True):
        page = environment.get_template(template).render(
            report=report,
            html=paths[0].name,
            plots=plots.curves(report.curves, groups) if path.suffix == ".html" else {},
            numbers=plots.as_csv(report.curves),
            histogram=plots.histogram("weight of a pair", series) if series else "",
            ends=_ends(report.curves),
            groups=groups,
        )
        write_atomic(path, page)
    return paths


def _csv_uri(text: str) -> str:
    return f"data:text/csv;base64,{base64.b64encode(text.encode()).decode()}"


def print_timings(timings: Mapping[str, float]) -> None:
    """Prints where a start's time went.

    Args:
      timings: phase -> seconds, in the order in which they are shown.
    """
    total = sum(timings.values()) or 1.0
    shown = RichTable(title=Text(f"Where {total:,.1f} s went"))
    shown.add_column("")
    shown.add_column("seconds", justify="right")
    shown.add_column("share", justify="right")
    for name, seconds in timings.items():
        shown.add_row(Text(name), f"{seconds:,.1f}", f"{seconds / total:.0%}")
    Console().print(shown)


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints a table to standard output, one row a system.

    Args:
      table: what to print.
      console: where to; None makes one, wide enough that a pipe gets whole rows.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=160)
    shown = RichTable(title=Text(table.title), caption=Text(table.note()) if table.note() else None)
    shown.add_column("")
    for column in table.columns:
        shown.add_column(Text(column), justify="right", no_wrap=True)
    for label, cells, highlighted in table.cells():
        shown.add_row(
            Text(label), *(Text(cell) for cell in cells), style="bold" if highlighted else None
        )
    console.print(shown)


def format_values(values: Iterable[float], spec: str = ".3f") -> str:
    """Prints one cell.

    Args:
      values: one a seed; NaN for a seed without a value.
      spec: format spec of one value.

    Returns:
      The value of a single seed; mean ± sample standard deviation of several, over those seeds
      that have a value, saying how many when some have none; a dash for none at all.
    """
    everything = list(values)
    valid = [value for value in everything if not math.isnan(value)]
    if not valid:
        return _MISSING
    if len(valid) == 1:
        text = format(valid[0], spec)
    else:
        spread = format(statistics.stdev(valid), spec.lstrip("+"))
        text = f"{statistics.fmean(valid):{spec}} ± {spread}"
    return text if len(valid) == len(everything) else f"{text} ({len(valid)} of {len(everything)})"


def format_duration(seconds: float) -> str:
    """Prints seconds as "0.42 s", "12.3 s", "4 min 05 s" or "2 h 03 min"."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(number: int) -> str:
    """Prints a number of bytes in binary units, "1.5 GiB"."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _ends(curves: Iterable[Curve]) -> list[tuple[str, str, str, str]]:
    """Returns (run, metric, first, last) of each curve, for the page that has no plots."""
    return [
        (curve.run, curve.metric, f"{curve.values[0]:.4g}", f"{curve.values[-1]:.4g}")
        for curve in curves
        if curve.values
    ]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _escape_markdown(text: str) -> str:
    """Makes any text safe inside a Markdown paragraph or table cell."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def _code_block(text: str) -> str:
    """Indents text as a Markdown code block, which no character inside can end."""
    return "\n".join("    " + line for line in text.splitlines())
