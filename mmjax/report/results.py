"""What a finished recipe shows: its systems measured on the test items, and the report on them."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmjax import trees
from mmjax.checks.foreign import parse_json
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.files import digest_of, write_json
from mmjax.report.class_tables import class_report
from mmjax.report.page import ClassReport, Component, Curve, Report, Table, numbers
from mmjax.runs.adapter_files import read_card
from mmjax.specs.recipe import Recipe
from mmjax.tasks.class_figures import ClassFigures
from mmjax.tasks.dual_encoder.domain_results import domain_tables
from mmjax.tasks.dual_encoder.galleries import galleries, hard_samples
from mmjax.tasks.instruct.results import answer_tables, headline, router_curves
from mmjax.tasks.projection.tables import projection_headline, projection_tables
from mmjax.tasks.prompts.tables import (
    Grid,
    fewshot_curves,
    fewshot_headline,
    fewshot_notes,
    fewshot_tables,
)
from mmjax.train import Run
from mmjax.writer import METRICS_FILE, read_metrics, series

RECALLS = ("R@1", "R@5", "R@10", "mR")
VALIDATION = ("val/mR", "val/t2t_mR", "val/general_mR", "val/knn_acc")
ANSWERS = ("val/vqa_acc", "val/vqa_yes_no", "val/vqa_other", "val/token_log_prob")


def several(pictures: Sequence[int], queries: Sequence[int]) -> str:
    """What a reader must know of retrieval with several captions a picture."""
    return (
        f"{numbers(pictures)} pictures and {numbers(queries)} queries, all of them in the "
        "galleries; a hit at k where any right answer is among the first k."
    )


@dataclass(frozen=True)
class Results:
    """Figures of every system, one value a seed.

    Attributes:
      recipe: its name.
      systems: system -> metric -> values in the order of `seeds`.
      labels: system -> how a table calls it.
      seeds: as run.
      counts: {"train", "val", "test"} -> items, one number a seed.
      timings: phase -> seconds.
      peak_memory_bytes: of the process that measured.
      command: what the user typed.
      environment: versions and devices.
      shares: system -> share of the domain's training pairs that it read; for `domain` alone.
      probes: whether the metrics are those of probes; for `projection` alone.
      protocol: system -> shots and half of the classes that it read; for `prompts` alone.
      routing: [seed][layer][modality] weight of the first expert; for `instruct` with a router.
      classes: how each class fared, where items are told apart by class.
      learned: {"rows", "seen", "visits"} -> rows to learn from, how many of them were, and how
        often all together, one number a seed; for `instruct` alone.
    """

    recipe: str
    systems: Mapping[str, Mapping[str, Sequence[float]]]
    labels: Mapping[str, str]
    seeds: Sequence[int]
    counts: Mapping[str, Sequence[int]]
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    probes: bool = False
    protocol: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    routing: Sequence[Sequence[Sequence[float]]] = ()
    classes: ClassFigures | None = None
    learned: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Figures by method and shots, for `prompts`."""
        return Grid(self.systems, self.labels, self.protocol)

    @property
    def answers(self) -> bool:
        """Whether questions were answered, not pictures found."""
        return "questions" in self.counts

    @property
    def tables(self) -> list[Table]:
        """Retrieval in both directions, and classification where it was measured."""
        if self.probes:
            return projection_tables(self.systems, self.labels, self.counts)
        if self.protocol:
            return fewshot_tables(self.grid, self.counts)
        if self.answers:
            return answer_tables(self.systems, self.labels, self.counts, self.routing, self.learned)
        if self.shares:
            return domain_tables(self.systems, self.labels, self.shares, self.counts)
        tested = sorted(set(self.counts["test"]))
        if "queries" in self.counts:
            held_out = several(tested, self.counts["queries"])
        else:
            chance = statistics.fmean(k / n for n in tested for k in (1, 5, 10))
            held_out = f"{numbers(tested)} held-out items, all of them in the gallery. "
            held_out += f"Chance mR {chance:.3f}."
        tables = self._retrieval("", held_out)
        if any("zeroshot_acc" in metrics for metrics in self.systems.values()):
            tables.append(
                self._table(
                    "Zero-shot classification of the pictures by group names",
                    ["zeroshot_acc", "zeroshot_class_acc"],
                    ["accuracy", "mean over classes"],
                    "No group name was seen in training.",
                )
            )
        return tables + self._benchmarks()

    def _retrieval(self, name: str, caption: str) -> list[Table]:
        """Both directions, of the recipe's own items or of a benchmark."""
        prefix, title = (f"{name}/", f"{name}: ") if name else ("", "")
        found = []
        for direction, what in (("t2i", "text to image"), ("i2t", "image to text")):
            heading = f"{title}{what}"
            found.append(
                self._table(
                    heading[0].upper() + heading[1:],
                    [f"{prefix}{direction}_{r}" for r in RECALLS]
                    + [f"{prefix}recovery_{direction}_mR"],
                    [*RECALLS, "recovery"],
                    caption if direction == "t2i" else "The same items, picture to text.",
                )
            )
        return found

    def _benchmarks(self) -> list[Table]:
        """Two tables for each further retrieval set, one for all classification sets."""
        tables: list[Table] = []
        sets = {key.partition("/")[0]: None for key in self.counts if "/" in key}
        classified = [name for name in sets if f"{name}/classes" in self.counts]
        for name in (name for name in sets if name not in classified):
            pictures, queries = (self.counts[f"{name}/{what}"] for what in ("pictures", "queries"))
            tables += self._retrieval(name, several(pictures, queries))
        if classified:
            sizes = [
                f"{name}: {numbers(self.counts[f'{name}/pictures'])} pictures of "
                f"{numbers(self.counts[f'{name}/classes'])} classes"
                for name in classified
            ]
            metrics = [f"{name}/{m}" for name in classified for m in ("acc", "class_acc")]
            columns = [f"{name}{m}" for name in classified for m in ("", ", mean over classes")]
            metrics = [metric.replace("/", "/zeroshot_") for metric in metrics]
            title = "Zero-shot classification by names and templates: accuracy"
            tables.append(self._table(title, metrics, columns, f"{'; '.join(sizes)}."))
        return tables

    def _table(
        self, title: str, metrics: Sequence[str], columns: Sequence[str], caption: str
    ) -> Table:
        used = [
            (metric, column)
            for metric, column in zip(metrics, columns, strict=True)
            if any(metric in values for values in self.systems.values())
        ]
        rows = tuple(
            (self.labels[name], tuple(tuple(values.get(metric, ())) for metric, _ in used))
            for name, values in self.systems.items()
        )
        formats = tuple(".1%" if column == "recovery" else ".3f" for _, column in used)
        columns = tuple(column for _, column in used)
        shown = self.labels.get("adapted", "")
        return Table(title, columns, rows, caption, formats, highlight=(shown,))

    def headline(self) -> list[tuple[str, str]]:
        """The few figures to see first."""
        if self.probes:
            return projection_headline(self.systems)
        if self.protocol:
            return fewshot_headline(self.grid)
        if self.answers:
            return headline(self.systems)
        adapted = self.systems["adapted"]
        lines = []
        if self.shares:
            for name, metric in (("domain", "mR"), ("general", "general_mR")):
                before, after = (
                    statistics.fmean(self.systems[system][metric]) for system in ("base", "adapted")
                )
                lines.append((f"{name} mR, before and after", f"{before:.3f} → {after:.3f}"))
            return lines
        if "recovery_t2i_mR" in adapted:
            values = adapted["recovery_t2i_mR"]
            lines.append(("recovery ratio (text to image mR)", f"{statistics.fmean(values):.1%}"))
        lines.append(("R@1, text to image", f"{statistics.fmean(adapted['t2i_R@1']):.3f}"))
        lines.append(("R@10, text to image", f"{statistics.fmean(adapted['t2i_R@10']):.3f}"))
        return lines

    def headline_lines(self) -> Iterator[str]:
        """The same as lines of text."""
        for name, value in self.headline():
            yield f"{name}: {value}"

    def save(self, path: Path) -> None:
        """Writes all figures as JSON, with their digest."""
        figures = dataclasses.asdict(self)
        write_json(path, {**figures, "digest": digest_of(figures)})

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads what `save` wrote.

        Raises:
          MmjaxError: the file is damaged.
        """
        try:
            figures = parse_json(path, path.read_bytes())
            digest = figures.pop("digest", None)  # earlier versions wrote none
            if digest not in (None, digest_of(figures)):
                raise MmjaxError("its figures are not those that were written")
            classes = figures.get("classes")
            found = ClassFigures.of_json(classes) if classes else None
            return cls(**{**figures, "classes": found})
        except (OSError, AttributeError, KeyError, TypeError, ValueError, MmjaxError) as error:
            raise MmjaxError(
                f"{path} is damaged ({error}); make it again with --mode evaluate"
            ) from error


def make_report(results: Results, runs: Sequence[Run], recipe: Recipe, library: Library) -> Report:
    """Puts figures, curves, pictures and counts together.

    Args:
      results: as measured.
      runs: finished runs of all stages and seeds.
      recipe: languages.
      library: encoders and tables.

    Returns:
      The report, ready to write.
    """
    main = next(r for r in runs if r.stage.name == recipe.main.name)
    notes = notes_on_data(recipe, library)
    mean = {n: statistics.fmean(s["t2i_mR"]) for n, s in results.systems.items() if "t2i_mR" in s}
    others = {name: value for name, value in mean.items() if name in ("linear", "mlp")}
    if others:
        shown = ", ".join(f"{value:.3f} for {results.labels[n]}" for n, value in others.items())
        notes.append(
            f"Is the transformer worth it? Text-to-image mR {mean['adapted']:.3f} with it; without "
            f"it, on the same text: {shown}."
        )
    drawn = (*curves(_of_main_share(runs, recipe)), *router_curves(results.routing))
    if results.protocol:
        notes += fewshot_notes(results.grid)
        drawn = tuple(fewshot_curves(results.grid))
    return Report(
        title=recipe.name.replace("_", " "),
        summary=_summary(results, recipe),
        headline=tuple(results.headline()),
        tables=tuple(results.tables),
        curves=drawn,
        galleries=() if results.answers else tuple(galleries(main, recipe, library)),
        hard_samples=None if results.answers else hard_samples(main, recipe, library),
        classes=classes_part(results, recipe, library),
        components=tuple(components(main, library)),
        timings=results.timings,
        peak_memory_bytes=results.peak_memory_bytes,
        command=results.command,
        environment=results.environment,
        notes=tuple(notes),
    )


def classes_part(results: Results, recipe: Recipe, library: Library) -> ClassReport | None:
    """How each class fared, where items are told apart by class."""
    if results.classes is None:
        return None
    return class_report(results.classes, library.corpus(recipe.main.pairs))


def notes_on_data(recipe: Recipe, library: Library) -> list[str]:
    """Whose pictures these are, and which texts were cut."""
    notes = []
    if recipe.main.pairs.source == "emoji" and recipe.main.task != "instruct":
        notes.append("Emoji pictures: OpenMoji (openmoji.org), CC BY-SA 4.0; names: Unicode CLDR.")
    for role, (cut, total, kept) in library.truncated.items():
        if cut:
            notes.append(
                f"{cut} of {total} {role} texts were longer than {kept} tokens and were cut."
            )
    return notes


def _summary(results: Results, recipe: Recipe) -> str:
    source, target = recipe.languages
    if results.protocol:
        return (
            "A frozen dual encoder learns classes from few pictures each. Prompts in its text "
            "tower, or over its cached texts, stand beside what they are usually compared with."
        )
    if results.answers:
        return (
            "A frozen language model answers questions about what a frozen vision transformer "
            "sees, through small trained adapters."
        )
    if results.shares:
        return (
            "A frozen dual encoder learns a domain that it was trained without. What it "
            "gains there stands beside what it loses on the rest, both on items that no stage has "
            "trained on."
        )
    if "floor" not in results.systems:
        joined = recipe.main.task == "contrastive"
        how = " joined into one space by small trained heads" if joined else ", as they are"
        return f"Two frozen towers{how}."
    if "ceiling" not in results.systems:
        return (
            f"A frozen {source} text encoder and a small adapter take the place of the {target} "
            f"text encoder of a frozen dual encoder. The pictures have no {target} captions, so "
            "there is no ceiling to compare with."
        )
    return (
        f"A frozen {source} text encoder and a small adapter take the place of the {target} text "
        "encoder of a frozen dual encoder. The recovery ratio is (adapted - floor) / "
        f"(ceiling - floor): the share of the way from {source} text in the {target} encoder to "
        f"{target} text that the adapter covers."
    )


def _of_main_share(runs: Sequence[Run], recipe: Recipe) -> list[Run]:
    """Runs on as many of a domain's pairs as the main one: a plot of all could not be read."""
    share = recipe.main.pairs.domain.fraction
    return [run for run in runs if run.stage.pairs.domain.fraction == share]


def curves(runs: Sequence[Run]) -> Iterator[Curve]:
    """Losses and validation values of runs, step by step."""
    for run in (r for r in runs if r.stage.task != "pretrained"):
        records = read_metrics(run.folder / METRICS_FILE)
        # Answers about pictures and plain text lose on scales of their own.
        losses = ("picture_loss", "text_loss") if run.stage.task == "instruct" else ("loss",)
        for metric in (*losses, *VALIDATION, *ANSWERS):
            steps, values = series(records, metric)
            if steps:
                xlabel = "step"
                if run.stage.task == "instruct":
                    steps = tuple(step * run.stage.train.batch_size for step in steps)
                    xlabel = "samples seen"
                yield Curve(f"{run.stage.name}/seed {run.seed}", metric, steps, values, xlabel)


def components(run: Run, library: Library) -> Iterator[Component]:
    """Parameters of a run's encoders, of its base, and of what it trained."""
    for role, spec in run.stage.encoders.items():
        params = library.encoder(spec).params
        name = f"{role} encoder: {spec.source}"
        yield Component(name, 0, trees.count(params), spec.dtype, trees.nbytes(params))
    if run.base is not None:
        count = read_card(run.base.adapter)["trainable"]["count"]
        name = "base temperature" if run.base.stage.task == "pretrained" else "base heads"
        yield Component(name, 0, count, "float32", 4 * count)
    count = read_card(run.adapter)["trainable"]["count"]
    yield Component(f"adapter: {run.stage.name}", count, 0, "float32", 4 * count)
