"""What a finished recipe shows: its systems measured on the test items, and the report on them."""

import dataclasses
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mmjax import trees
from mmjax.checkpoint import load_adapter_params, read_card
from mmjax.data.library import Library
from mmjax.encoders.image_preprocess import open_image
from mmjax.errors import MmjaxError
from mmjax.evals import Retrieval, TextRetrieval, ZeroShot, ranks
from mmjax.evals.functions import Published
from mmjax.recipe import Recipe
from mmjax.report import Component, Curve, Gallery, GalleryImage, GalleryRow, Report, Table
from mmjax.sharding import place
from mmjax.train import DONE, Assembly, Run, assemble
from mmjax.writer import METRICS_FILE, read_metrics, series, write_atomic

RECALLS = ("R@1", "R@5", "R@10", "mR")
THUMBNAIL = 96  # pixels


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

    @property
    def tables(self) -> list[Table]:
        """Retrieval in both directions, and classification where it was measured."""
        tested = sorted(set(self.counts["test"]))
        held_out = f"{' / '.join(map(str, tested))} held-out items, all of them in the gallery."
        chance = statistics.fmean(k / n for n in tested for k in (1, 5, 10))
        tables = [
            self._table(
                "Text to image",
                [f"t2i_{name}" for name in RECALLS] + ["recovery_t2i_mR"],
                [*RECALLS, "recovery"],
                f"{held_out} Chance mR {chance:.3f}.",
            ),
            self._table(
                "Image to text",
                [f"i2t_{name}" for name in RECALLS] + ["recovery_i2t_mR"],
                [*RECALLS, "recovery"],
                "The same items, picture to text.",
            ),
        ]
        if any("zeroshot_acc" in metrics for metrics in self.systems.values()):
            tables.append(
                self._table(
                    "Zero-shot classification of the pictures by group names",
                    ["zeroshot_acc", "zeroshot_class_acc"],
                    ["accuracy", "mean over classes"],
                    "No group name was seen in training.",
                )
            )
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
        adapted = self.systems["adapted"]
        lines = []
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
        """Writes all figures as JSON."""
        write_atomic(
            path, json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
        )

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads what `save` wrote.

        Raises:
          MmjaxError: the file is damaged.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, json.JSONDecodeError) as error:
            raise MmjaxError(
                f"{path} is damaged ({error}); make it again with --mode evaluate"
            ) from error


def load_trained(run: Run, library: Library) -> tuple[Assembly, trees.PyTree]:
    """A finished run's task and data, and its adapter on the mesh."""
    assembly = assemble(run, library)
    params, _ = load_adapter_params(run.adapter)
    return assembly, place(params, library.mesh)


def measure(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
    """Runs the recipe's evaluators over every system, seed by seed.

    Args:
      runs: finished runs of all stages and seeds.
      recipe: languages and evaluators.
      library: encoders and tables.

    Returns:
      All figures.
    """
    source, target = recipe.languages
    found: dict[str, dict[str, list[float]]] = {}
    counts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    timings: dict[str, float] = {}
    for seed in recipe.seeds:
        values: dict[str, dict[str, float]] = {}
        for run in (r for r in runs if r.seed == seed):
            done = json.loads((run.folder / DONE).read_text(encoding="utf-8"))
            name = f"training {run.stage.name}, all seeds"
            timings[name] = timings.get(name, 0.0) + done["seconds"]
            main = run.stage.name == recipe.main.name
            if run.stage.name == "base" and not main:
                continue  # seen through the ceiling
            assembly, trainable = load_trained(run, library)
            functions = Published(assembly.task, library.mesh).bind(trainable, assembly.frozen)
            for system, asked in assembly.data.test.items():
                if system != "adapted" and not main:
                    continue  # ceiling and floor are the same for every stage on one base
                label = run.stage.name if system == "adapted" and not main else system
                numbers = Retrieval(asked.text_function).run(functions, asked.data)
                if "zeroshot" in recipe.evals:
                    numbers |= ZeroShot(asked.text_function).run(functions, asked.data)
                if system == "adapted" and "embed_base_texts" in functions:
                    numbers |= TextRetrieval().run(functions, asked.data)
                values[label] = numbers
            if main:
                for side, items in assembly.data.items.items():
                    counts[side].append(len(items))
        _add_recovery(values)
        for system, numbers in values.items():
            for metric, number in numbers.items():
                found.setdefault(system, {}).setdefault(metric, []).append(number)
    order = [s for s in ("ceiling", "floor") if s in found]
    order += [s for s in found if s not in ("ceiling", "floor", "adapted")] + ["adapted"]
    labels = {
        "ceiling": f"ceiling: base, {target} queries",
        "floor": f"floor: base, {source} queries",
        "linear": f"{source} encoder, linear map",
        "mlp": f"{source} encoder, MLP on the mean token",
        "adapted": f"adapted, {source} queries" if "floor" in found else f"base, {target} queries",
    }
    return Results(
        recipe.name,
        {s: found[s] for s in order},
        {s: labels.get(s, s) for s in order},
        list(recipe.seeds),
        counts,
        timings,
    )


def _add_recovery(values: dict[str, dict[str, float]]) -> None:
    """(system - floor) / (ceiling - floor), for every trained system, both directions."""
    if "floor" not in values:
        return
    for system, numbers in values.items():
        if system in ("ceiling", "floor"):
            continue
        for metric in ("t2i_mR", "i2t_mR"):
            low, high = values["floor"][metric], values["ceiling"][metric]
            ratio = (numbers[metric] - low) / (high - low) if high > low else float("nan")
            numbers[f"recovery_{metric}"] = ratio


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
    notes = []
    if recipe.main.pairs.source == "emoji":
        notes.append("Emoji pictures: OpenMoji (openmoji.org), CC BY-SA 4.0; names: Unicode CLDR.")
    for role, (cut, total, kept) in library.truncated.items():
        if cut:
            notes.append(
                f"{cut} of {total} {role} texts were longer than {kept} tokens and were cut."
            )
    mean = {name: statistics.fmean(s["t2i_mR"]) for name, s in results.systems.items()}
    others = {name: value for name, value in mean.items() if name in ("linear", "mlp")}
    if others:
        shown = ", ".join(f"{value:.3f} for {results.labels[n]}" for n, value in others.items())
        notes.append(
            f"Is the transformer worth it? Text-to-image mR {mean['adapted']:.3f} with it; without "
            f"it, on the same text: {shown}."
        )
    return Report(
        title=recipe.name.replace("_", " "),
        summary=_summary(results, recipe),
        headline=tuple(results.headline()),
        tables=tuple(results.tables),
        curves=tuple(_curves(runs)),
        galleries=tuple(_galleries(main, recipe, library)),
        components=tuple(_components(main, library)),
        timings=results.timings,
        peak_memory_bytes=results.peak_memory_bytes,
        command=results.command,
        environment=results.environment,
        notes=tuple(notes),
    )


def _summary(results: Results, recipe: Recipe) -> str:
    source, target = recipe.languages
    if "floor" not in results.systems:
        return "Two frozen towers joined into one space by small trained heads."
    return (
        f"A frozen {source} text encoder and a small adapter take the place of the {target} text "
        "encoder of a frozen dual encoder. The recovery ratio is (adapted - floor) / "
        f"(ceiling - floor): the share of the way from {source} text in the {target} encoder to "
        f"{target} text that the adapter covers."
    )


def _curves(runs: Sequence[Run]) -> Iterator[Curve]:
    for run in runs:
        records = read_metrics(run.folder / METRICS_FILE)
        for metric in ("loss", "val/mR", "val/t2t_mR"):
            steps, values = series(records, metric)
            if steps:
                yield Curve(f"{run.stage.name}/seed {run.seed}", metric, steps, values)


def _components(run: Run, library: Library) -> Iterator[Component]:
    for role, spec in run.stage.encoders.items():
        params = library.encoder(spec).params
        name = f"{role} encoder: {spec.source}"
        yield Component(name, 0, trees.count(params), spec.dtype, trees.nbytes(params))
    if run.base is not None:
        count = read_card(run.base.adapter)["trainable"]["count"]
        yield Component("base heads", 0, count, "float32", 4 * count)
    count = read_card(run.adapter)["trainable"]["count"]
    yield Component(f"adapter: {run.stage.name}", count, 0, "float32", 4 * count)


def _galleries(run: Run, recipe: Recipe, library: Library, count: int = 10) -> Iterator[Gallery]:
    """Ten queries that go right and ten that go wrong, of the first seed."""
    assembly, trainable = load_trained(run, library)
    functions = Published(assembly.task, library.mesh).bind(trainable, assembly.frozen)
    asked, data = assembly.data.test["adapted"], assembly.data
    images = functions["embed_images"](asked.data.images)
    texts = functions[asked.text_function](asked.data.texts)
    rank = ranks(texts, images)
    language = recipe.languages[0] if "floor" in data.test else recipe.languages[1]
    # Spread evenly over the items that went right, and over the worst: neither list is hand-picked.
    right, wrong = np.flatnonzero(rank == 1), np.argsort(-rank, kind="stable")
    wrong = wrong[rank[wrong] > 5]
    shown = {
        "Queries that find their picture first": right[_spread(len(right), count)],
        "Queries furthest from their picture": wrong[:count],
    }
    for title, queries in shown.items():
        rows = [
            _gallery_row(int(q), texts, images, rank, assembly, recipe, language) for q in queries
        ]
        if rows:
            share = (
                f"{len(right)} of {len(rank)} queries rank their picture first (seed {run.seed})."
            )
            yield Gallery(
                title, tuple(rows), share if queries is not wrong[:count] else "", language
            )


def _spread(total: int, count: int) -> Int[np.ndarray, " k"]:
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def _gallery_row(
    query: int,
    texts: Float[np.ndarray, "n d"],
    images: Float[np.ndarray, "n d"],
    rank: Int[np.ndarray, " n"],
    assembly: Assembly,
    recipe: Recipe,
    language: str,
) -> GalleryRow:
    items = [assembly.data.corpus.items[i] for i in assembly.data.items["test"]]
    target = recipe.languages[1]
    best = np.argsort(-(images @ texts[query]), kind="stable")[:5]

    def picture(i: int) -> GalleryImage:
        item = items[i]
        image = open_image(next(iter(item.images.values())), i)
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        return GalleryImage(buffer.getvalue(), item.captions[target][0], i == query)

    captions = items[query].captions
    gloss = captions[target][0] if language != target else ""
    return GalleryRow(
        captions[language][0],
        gloss,
        int(rank[query]),
        tuple(picture(int(i)) for i in best),
        picture(query),
    )
