"""Parts of a report that the tasks have in common."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from mmjax import trees
from mmjax.data import own
from mmjax.data.library import Library
from mmjax.evals.base import Functions
from mmjax.progress import track
from mmjax.report.class_tables import class_report
from mmjax.report.figures import Figures
from mmjax.report.page import Component, Gallery, HardSamples, Report, Table
from mmjax.report.plots import Curve
from mmjax.report.results import Results
from mmjax.report.samples import Samples
from mmjax.runs.adapter_files import read_card
from mmjax.specs.recipe import Recipe
from mmjax.tasks.base import Task
from mmjax.tasks.published import Published
from mmjax.tasks.run import Assembly, Data, Run
from mmjax.trees import PyTree
from mmjax.writer import METRICS_FILE, read_metrics, series

AssemblyT = TypeVar("AssemblyT", bound=Assembly[Task, Data])


def make_report(
    results: Results,
    run: Run,
    library: Library,
    *,
    summary: str,
    headline: Iterable[tuple[str, str]],
    tables: Iterable[Table],
    curves: Iterable[Curve],
    notes: Iterable[str],
    base: str = "base heads",
    galleries: Iterable[Gallery] = (),
    hard_samples: HardSamples | None = None,
    samples: Iterable[Samples] = (),
) -> Report:
    """The report: what a task says of its results, with what is the same for all of them.

    Args:
      results: as measured.
      run: of the main stage; its encoders and parameters are listed.
      library: encoders and pictures.
      summary: what the recipe does, for a reader who sees the report alone.
      headline: the few figures to see first.
      tables: of the results.
      curves: of the training.
      notes: in plain words.
      base: what the report calls what the base trained.
      galleries: pictures that were found.
      hard_samples: of a domain.
      samples: pictures beside what was said of them.

    Returns:
      The report, ready to write.
    """
    classes = None
    if results.classes is not None:  # items are told apart by class
        classes = class_report(results.classes, library.corpus(run.recipe.main.pairs))
    return Report(
        title=title_of(run.recipe),
        summary=summary,
        headline=tuple(headline),
        tables=tuple(tables),
        curves=tuple(curves),
        galleries=tuple(galleries),
        hard_samples=hard_samples,
        samples=tuple(samples),
        classes=classes,
        components=tuple(components(run, library, base)),
        timings=results.timings,
        peak_memory_bytes=results.peak_memory_bytes,
        command=results.command,
        environment=results.environment,
        notes=tuple(notes),
    )


def title_of(recipe: Recipe) -> str:
    """A recipe's name, and that of the user's own data where the name does not say it."""
    title, source = recipe.name.replace("_", " "), recipe.main.pairs.source
    data = Path(source.removeprefix(own.FOLDER)).stem.replace("_", " ")
    return f"{title} on {data}" if own.is_own(source) and data not in title else title


def main_run(runs: Sequence[Run]) -> Run:
    """The first seed's run of the stage that the recipe is about."""
    return next(run for run in runs if run.is_main)


def trained_system(
    run: Run, library: Library, assemble: Callable[[Run, Library], AssemblyT]
) -> tuple[AssemblyT, PyTree, Functions]:
    """A finished run as evaluators read it.

    Args:
      run: a stage with a seed.
      library: encoders and tables.
      assemble: puts a run of its task together.

    Returns:
      (the assembly, what was trained, the task's published functions with both).
    """
    assembly, trainable = assemble(run, library), run.trained(library.mesh)
    functions = Published(assembly.task, library.mesh).bind(trainable, assembly.frozen)
    return assembly, trainable, functions


def systems_of(runs: Sequence[Run], recipe: Recipe, seed: int, figures: Figures) -> Iterator[Run]:
    """Yields a seed's runs that are measured themselves, and counts how long each took to train.

    A link of a chain is not: it is seen through what stands on it. Shows how far along it is.
    """
    for run in track([r for r in runs if r.seed == seed], f"seed {seed}: evaluating"):
        figures.trained(run.stage.name, run.folder)
        if run.stage.name not in recipe.links:
            yield run


def notes_on_images(recipe: Recipe) -> list[str]:
    """Whose pictures these are."""
    if recipe.main.pairs.source != "emoji":
        return []
    return ["Emoji pictures: OpenMoji (openmoji.org), CC BY-SA 4.0; names: Unicode CLDR."]


def notes_on_texts(library: Library) -> list[str]:
    """Which texts were cut."""
    return [
        f"{cut} of {total} {role} texts were longer than {kept} tokens and were cut."
        for role, (cut, total, kept) in library.truncated.items()
        if cut
    ]


def curves(runs: Sequence[Run], metrics: Sequence[str], samples: bool = False) -> Iterator[Curve]:
    """Losses and validation values of runs.

    Args:
      runs: finished runs; those for which nothing was trained have no curve.
      metrics: which, in order, where they were measured.
      samples: plotted over samples seen instead of steps.

    Yields:
      One curve a run and metric. Losses of different kinds are metrics of their own: a base's and
      an adapter's say nothing of each other, and on one scale the smaller would be a flat line.
    """
    kinds: dict[object, list[str]] = {}
    for run in runs:
        names = kinds.setdefault(_kind_of_loss(run), [])
        names += [run.stage.name] * (run.stage.name not in names)
    for run in runs:
        own = f" of {', '.join(kinds[_kind_of_loss(run)])}" if len(kinds) > 1 else ""
        path = run.folder / METRICS_FILE
        records = read_metrics(path) if path.is_file() else []
        for metric in metrics:
            steps, values = series(records, metric)
            if steps:
                each = run.stage.train.batch_size if samples else 1
                steps = tuple(step * each for step in steps)
                name = f"{run.stage.name}/seed {run.seed}"
                title = f"{metric}{own}" if metric == "loss" else metric
                yield Curve(name, title, steps, values, "samples seen" if samples else "step")


def _kind_of_loss(run: Run) -> object:
    return run.stage.task, run.stage.loss.kind, run.stage.projection.loss


def components(run: Run, library: Library, base: str) -> Iterator[Component]:
    """Parameters of a run's encoders, of its base, and of what it trained.

    Args:
      run: finished.
      library: encoders.
      base: what the report calls what the base trained.

    Yields:
      The rows of the table.
    """
    for role, spec in run.stage.encoders.items():
        params = library.encoder(spec).params
        name = f"{role} encoder: {spec.source}"
        yield Component(name, 0, trees.count(params), spec.dtype, trees.nbytes(params))
    if run.base is not None:
        count = read_card(run.base.adapter)["trainable"]["count"]
        yield Component(base, 0, count, "float32", 4 * count)
    count = read_card(run.adapter)["trainable"]["count"]
    yield Component(f"adapter: {run.stage.name}", count, 0, "float32", 4 * count)
