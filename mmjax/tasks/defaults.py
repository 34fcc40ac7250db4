"""What a task's definition need not say itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np

from mmjax.data.labels import LeftOut
from mmjax.data.library import Library
from mmjax.data.transforms import check_view
from mmjax.errors import MmjaxError
from mmjax.progress import track
from mmjax.report.figures import Figures
from mmjax.report.page import Report, Table
from mmjax.report.results import Results
from mmjax.sharding import check_batch
from mmjax.specs.recipe import Recipe
from mmjax.tasks import reporting
from mmjax.tasks.base import Task
from mmjax.tasks.run import Assembly, Data, Measured, Run

AssemblyT = TypeVar("AssemblyT", bound=Assembly[Task, Data])


def check_sizes(run: Run, library: Library, trains: bool = True) -> None:
    """Refuses a batch that the mesh cannot split, and views that there are none of.

    Args:
      run: a stage with a seed.
      library: knows the mesh.
      trains: whether it reads batches.

    Raises:
      MmjaxError: names the setting.
    """
    if trains:
        check_batch(run.stage.train.batch_size, library.mesh)
    for name in run.stage.pairs.views:
        check_view(name)


class Defaults:
    """What a `mmjax.tasks.definition.Definition` may leave out, as of one on frozen encoders alone.

    Attributes:
      answers: whether what `load` returns answers questions.
    """

    answers: ClassVar[bool] = False

    def check(self, run: Run, library: Library) -> None:
        """Holds the sizes against the mesh."""
        check_sizes(run, library)

    def check_asked(self, recipe: Recipe, library: Library) -> None:
        """Needs nothing that could lack."""

    def base_of(self, recipe: Recipe, seed: int) -> Run:
        """It stands on nothing that was trained."""
        raise MmjaxError(f"config.base is {recipe.base!r}; expected None for this task")

    def left_out(self, recipe: Recipe, library: Library) -> Sequence[LeftOut]:
        """Classes of the pairs' source that a setting of the recipe leaves out."""
        return library.corpus(recipe.main.pairs).left_out


class OneTable(Defaults, ABC, Generic[AssemblyT]):
    """The same, and what it shows: every stage is one system, all metrics stand in one table.

    Attributes:
      title: of the table.
      summary: what a recipe does, for a reader who sees the report alone.
      curves: metrics whose curves the report draws.
    """

    title: ClassVar[str] = "Test items"
    summary: ClassVar[str] = ""
    curves: ClassVar[tuple[str, ...]] = ("loss",)

    @abstractmethod
    def assemble(self, run: Run, library: Library) -> AssemblyT:
        """The task, its data, its frozen tree."""

    @abstractmethod
    def asked(self, run: Run, assembly: AssemblyT, library: Library) -> Measured:
        """What a stage is asked at the end."""

    def measure(self, runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
        """Asks every stage of every seed."""
        figures = Figures()
        for run in track(runs, "evaluating"):
            figures.trained(run.stage.name, run.folder)
            assembly = self.assemble(run, library)
            trainable = run.trained(library.mesh)
            published = assembly.data.publish(assembly.task, library.mesh)
            functions = published.bind(trainable, assembly.frozen)
            test_set = self.asked(run, assembly, library)
            figures.add({run.stage.name: test_set.run(assembly.evaluators, functions)})
        return figures.results(recipe, figures.systems, {})

    def tables(self, results: Results) -> list[Table]:
        """One row a stage, one column a metric."""
        columns = list(dict.fromkeys(m for metrics in results.systems.values() for m in metrics))
        rows = tuple(
            (results.labels[name], tuple(tuple(metrics.get(m, ())) for m in columns))
            for name, metrics in results.systems.items()
        )
        return [Table(self.title, tuple(columns), rows)]

    def headline(self, results: Results) -> list[tuple[str, str]]:
        """The means of the main stage."""
        main = list(results.systems.values())[-1]
        return [(name, f"{np.mean(values):.3f}") for name, values in main.items()]

    def report(
        self, results: Results, runs: Sequence[Run], recipe: Recipe, library: Library
    ) -> Report:
        """The table and the curves."""
        return reporting.make_report(
            results,
            reporting.main_run(runs),
            library,
            summary=self.summary,
            headline=self.headline(results),
            tables=self.tables(results),
            curves=reporting.curves(runs, self.curves),
            notes=[*reporting.notes_on_images(recipe), *reporting.notes_on_texts(library)],
        )
