"""What the trunk may ask of dual encoders: `contrastive`, `pretrained`, `language`, `domain`."""

from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh

from mmjax.data.labels import LeftOut
from mmjax.data.library import Library
from mmjax.errors import check
from mmjax.evals.catalog import others
from mmjax.report.page import Report, Table
from mmjax.report.results import Results
from mmjax.specs.family import RETRIEVAL
from mmjax.specs.recipe import Recipe
from mmjax.tasks import reporting
from mmjax.tasks.adapting import announce, towers_of
from mmjax.tasks.base import Task
from mmjax.tasks.defaults import Defaults, check_sizes
from mmjax.tasks.dual_encoder import checks, eval_sets, results, shapes, tables
from mmjax.tasks.dual_encoder.adapted import Adapted
from mmjax.tasks.dual_encoder.assembly import Joined, assemble_dual_encoder
from mmjax.tasks.dual_encoder.galleries import galleries, hard_samples
from mmjax.tasks.dual_encoder.parallel import held_out
from mmjax.tasks.dual_encoder.stacking import (
    Loaded,
    base_name,
    make_task,
    outside_base,
)
from mmjax.tasks.planned import Planned
from mmjax.tasks.run import Run

CURVES = ("loss", "val/mR", "val/t2t_mR", "val/general_mR")


class DualEncoders(Defaults):
    """See `mmjax.tasks.definition.Definition`."""

    def check(self, run: Run, library: Library) -> None:
        """Reads the records, and holds split and sizes against what they are."""
        stage, seed = run.stage, run.seed
        announce(stage)
        library.split(stage.pairs, seed, stage.task == "domain")
        if stage.task == "language":
            held_out(stage, seed, library)
        check_sizes(run, library, trains=stage.task != "pretrained")
        parts = stage.train.accumulate * library.mesh.shape["data"]
        expected = f"a multiple of {parts}: train.accumulate x devices that share a batch"
        good = stage.train.accumulate == 1 or stage.train.batch_size % parts == 0
        check(good, "train.batch_size", stage.train.batch_size, expected)
        if stage.task == "domain":
            assert run.base is not None
            checks.check_domain(stage, run.base.stage, run.recipe, seed, library)
        elif stage.task != "pretrained" or run.is_main:
            checks.check_pairs(stage, run.recipe, seed, library)

    def check_asked(self, recipe: Recipe, library: Library) -> None:
        """Finds other packages' evaluators, and reads the benchmarks."""
        others(recipe.evals, RETRIEVAL)
        eval_sets.check_eval_sets(recipe, library)

    def task(self, run: Run, base: Task | None, library: Library) -> Task:
        """The task, which says whether its encoders and its base go together."""
        stage = run.stage
        towers = towers_of(stage, library)
        return make_task(run.stage, towers, base, library.mesh)

    def base_of(self, recipe: Recipe, seed: int) -> Run:
        """The finished dual encoder below."""
        return outside_base(recipe, seed)

    def assemble(self, run: Run, library: Library) -> Joined:
        """Puts the run together."""
        return assemble_dual_encoder(run, library)

    def planned(self, run: Run, base: Planned | None, library: Library) -> Planned:
        """What the run's programs are made for; see `mmjax.tasks.planned`."""
        return shapes.planned(run, base, library)

    def left_out(self, recipe: Recipe, library: Library) -> Sequence[LeftOut]:
        """Classes without enough families."""
        return results.left_out(recipe, library)

    def measure(self, runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
        """Retrieval, classification, benchmarks."""
        return results.measure_dual_encoder(runs, recipe, library)

    def tables(self, results: Results) -> list[Table]:
        """Retrieval in both directions; of a domain what is gained and lost."""
        return tables.tables(results)

    def headline(self, results: Results) -> list[tuple[str, str]]:
        """Recovery and recalls."""
        return tables.headline(results)

    def report(
        self, results: Results, runs: Sequence[Run], recipe: Recipe, library: Library
    ) -> Report:
        """Tables, curves, queries with what they find, and hard samples of a domain."""
        main = reporting.main_run(runs)
        share = recipe.main.pairs.domain.fraction
        drawn = [run for run in runs if run.stage.pairs.domain.fraction == share]
        notes = [*reporting.notes_on_images(recipe), *reporting.notes_on_texts(library)]
        return reporting.make_report(
            results,
            main,
            library,
            summary=tables.summary(results, recipe),
            headline=self.headline(results),
            tables=self.tables(results),
            # Of a domain those on as many pairs as the main one: a plot of all could not be read.
            curves=reporting.curves(drawn, CURVES),
            notes=(*notes, *tables.notes(results)),
            base=base_name(main),
            galleries=galleries(main, recipe, library),
            hard_samples=hard_samples(main, recipe, library),
        )

    def load(self, folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> Adapted:
        """The dual encoder with its adapter in it."""
        loaded = Loaded.of(folder, allow_other_encoder, mesh)
        task = make_task(loaded.stage, loaded.towers, loaded.base, loaded.library.mesh)
        return Adapted(loaded, loaded.bound(task))


DUAL_ENCODERS = DualEncoders()
