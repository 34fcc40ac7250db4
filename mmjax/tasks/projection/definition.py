"""What the trunk may ask of `projection`."""

from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh

from mmjax.data.library import Library
from mmjax.encoders.output import Tower
from mmjax.evals.probe import check_installed
from mmjax.report.page import Report, Table
from mmjax.report.results import Results
from mmjax.specs.recipe import Recipe
from mmjax.tasks import reporting
from mmjax.tasks.adapting import announce, towers_of
from mmjax.tasks.base import Task
from mmjax.tasks.defaults import Defaults
from mmjax.tasks.planned import Planned
from mmjax.tasks.projection import checks, data, results, shapes, tables
from mmjax.tasks.projection.adapted import Projected, load_projected
from mmjax.tasks.projection.data import LabelledData
from mmjax.tasks.projection.task import ProjectionTask, make_projection
from mmjax.tasks.run import Assembly, Run

CURVES = ("loss", "val/knn_acc")


class Projections(Defaults):
    """See `mmjax.tasks.definition.Definition`."""

    def check(self, run: Run, library: Library) -> None:
        """Reads the records: classes, texts, sizes."""
        announce(run.stage)
        super().check(run, library)
        checks.check_labelled(run.stage, run.recipe, run.seed, library)

    def check_asked(self, recipe: Recipe, library: Library) -> None:
        """Probes need scikit-learn."""
        if "probe" in recipe.evals:
            check_installed()

    def task(self, run: Run, base: Task | None, library: Library) -> ProjectionTask:
        """Projectors over towers of any width, into which adapters have to fit."""
        stage = run.stage
        towers = towers_of(stage, library)
        corpus = library.corpus(run.stage.pairs)
        for name in run.stage.projection.features:
            towers[name] = Tower(name, data.ready_width(corpus, name))
        return make_projection(run.stage, towers, library.mesh)

    def assemble(self, run: Run, library: Library) -> Assembly[ProjectionTask, LabelledData]:
        """Puts the run together."""
        return data.assemble_projection(run, library)

    def planned(self, run: Run, base: Planned | None, library: Library) -> Planned:
        """What the run's programs are made for; see `mmjax.tasks.planned`."""
        return shapes.planned(run, base, library)

    def measure(self, runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
        """F1 of usual classifiers."""
        return results.measure_projection(runs, recipe, library)

    def tables(self, results: Results) -> list[Table]:
        """Raw features beside projected ones."""
        comparison = tables.projection_tables(results.systems, results.labels, results.counts)
        return [
            *comparison,
            *tables.cost_table(results.timings, results.counts, len(results.seeds)),
        ]

    def headline(self, results: Results) -> list[tuple[str, str]]:
        """The best classifier on both."""
        return tables.projection_headline(results.systems)

    def report(
        self, results: Results, runs: Sequence[Run], recipe: Recipe, library: Library
    ) -> Report:
        """Tables, curves, classes."""
        pairs = recipe.main.pairs
        notes = [
            tables.verdict(results.systems),
            *reporting.notes_on_images(recipe),
            *reporting.notes_on_texts(library),
        ]
        if pairs.folds:
            whole = ", families whole" if pairs.keep_families else ""
            notes.append(f"Each seed holds out another of {pairs.folds} folds{whole}.")
        return reporting.make_report(
            results,
            reporting.main_run(runs),
            library,
            summary="Small projectors bend frozen embeddings towards labels (arXiv 2502.02048); "
            "usual classifiers then say what that is worth beside the raw embeddings, their "
            "principal components and their discriminants.",
            headline=self.headline(results),
            tables=self.tables(results),
            curves=reporting.curves(runs, CURVES),
            notes=notes,
        )

    def load(self, folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> Projected:
        """The encoders with their projectors."""
        return load_projected(folder, allow_other_encoder, mesh)


PROJECTIONS = Projections()
