"""What the trunk may ask of `prompts`."""

from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh

from mmjax.data.labels import LeftOut
from mmjax.data.library import Library
from mmjax.errors import setting
from mmjax.report.page import Report, Table
from mmjax.report.results import Results
from mmjax.specs.recipe import Recipe
from mmjax.tasks import reporting
from mmjax.tasks.adapting import INSIDE, announce, log, tower_of
from mmjax.tasks.base import Task
from mmjax.tasks.defaults import Defaults
from mmjax.tasks.dual_encoder.eval_sets import check_labels
from mmjax.tasks.dual_encoder.stacking import base_name, outside_base
from mmjax.tasks.planned import Planned
from mmjax.tasks.prompts import chain, checks, classes, data, results, shapes, tables
from mmjax.tasks.prompts.adapted import Classifier, load_classifier
from mmjax.tasks.prompts.data import ShotsData
from mmjax.tasks.prompts.joint import joint_on
from mmjax.tasks.prompts.tables import ShotsGrid
from mmjax.tasks.prompts.task import PromptsTask
from mmjax.tasks.run import Assembly, Run


class Prompts(Defaults):
    """See `mmjax.tasks.definition.Definition`."""

    def check(self, run: Run, library: Library) -> None:
        """Reads the records: enough pictures of enough classes."""
        stage = run.stage
        pictures = stage.train.batch_size * len(stage.pairs.views)
        announce(stage, {"image": pictures})
        if stage.prompts.couples:
            log.warning(INSIDE, setting("prompts.method"), stage.prompts.method, "image", pictures)
        super().check(run, library)
        checks.check_classes(run.stage, run.seed, library)

    def check_asked(self, recipe: Recipe, library: Library) -> None:
        """Every class has a name in the language in which it is asked for."""
        check_labels(recipe, library)

    def task(self, run: Run, base: Task | None, library: Library) -> Task:
        """The dual encoder below; names and context are what its text tower can read."""
        joint = joint_on(run.stage, base, {}, None, library)
        checks.check_names(run, library)
        for role in run.stage.adapters:
            tower_of(run.stage, role, library, None)  # an adapter has to fit
        return joint.task

    def base_of(self, recipe: Recipe, seed: int) -> Run:
        """The finished dual encoder below."""
        return outside_base(recipe, seed)

    def assemble(self, run: Run, library: Library) -> Assembly[PromptsTask, ShotsData]:
        """Puts the run together."""
        return data.assemble_prompts(run, library)

    def planned(self, run: Run, base: Planned | None, library: Library) -> Planned:
        """What the run's programs are made for; see `mmjax.tasks.planned`."""
        return shapes.planned(run, base, library)

    def left_out(self, recipe: Recipe, library: Library) -> Sequence[LeftOut]:
        """Classes without enough families."""
        return classes.left_out(recipe.main, library.corpus(recipe.main.pairs))

    def measure(self, runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
        """Accuracy of every method."""
        return results.measure_prompts(runs, recipe, library)

    def tables(self, results: Results) -> list[Table]:
        """Accuracy by shots, without parts, on new classes; of a chain its links first."""
        found = chain.chain_tables(results.systems, results.labels)
        return [*found, *tables.fewshot_tables(grid_of(results), results.counts)]

    def headline(self, results: Results) -> list[tuple[str, str]]:
        """What few shots are worth."""
        links = chain.chain_headline(results.systems)
        return [*links, *tables.fewshot_headline(grid_of(results))]

    def report(
        self, results: Results, runs: Sequence[Run], recipe: Recipe, library: Library
    ) -> Report:
        """Tables, accuracy over shots, classes."""
        main, grid = reporting.main_run(runs), grid_of(results)
        notes = [*reporting.notes_on_images(recipe), *reporting.notes_on_texts(library)]
        return reporting.make_report(
            results,
            main,
            library,
            summary="A frozen dual encoder learns classes from few pictures each. Prompts in its "
            "text tower, or over its cached texts, stand beside what they are usually compared "
            "with.",
            headline=self.headline(results),
            tables=self.tables(results),
            curves=tables.fewshot_curves(grid),
            notes=(*notes, *tables.fewshot_notes(grid)),
            base=base_name(main),
        )

    def load(self, folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> Classifier:
        """The dual encoder with its classes."""
        return load_classifier(folder, allow_other_encoder, mesh)


def grid_of(results: Results) -> ShotsGrid:
    """Figures by method and shots."""
    found = {k: v for k, v in results.systems.items() if not k.startswith(chain.LINK)}
    return ShotsGrid(found, results.labels, results.protocol)


PROMPTS = Prompts()
