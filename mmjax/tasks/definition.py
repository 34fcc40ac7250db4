"""The Definition protocol: all that the trunk may ask of a task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from jax.sharding import Mesh

from mmjax.data.labels import LeftOut
from mmjax.data.library import Library
from mmjax.report.page import Report, Table
from mmjax.report.results import Results
from mmjax.specs.recipe import Recipe
from mmjax.tasks.base import Task
from mmjax.tasks.run import Assembly, Data, Run
from mmjax.trees import PyTree

AdaptedT = TypeVar("AdaptedT", covariant=True)


@runtime_checkable
class Definition(Protocol[AdaptedT]):
    """A family of tasks: what `train`, `study`, `predict` and `chat` ask of it.

    Its settings are a `mmjax.specs.family.TaskSettings`: of a task of another package its attribute
    `family`, which is read before anything else of it. `AdaptedT` is what `load_adapter` returns.
    """

    @property
    def answers(self) -> bool:
        """Whether what `load` returns answers questions, so that one can chat with it."""
        ...

    def check(self, run: Run, library: Library) -> None:
        """Refuses what records, splits and sizes alone show to fail; no encoder is loaded.

        Raises:
          MmjaxError: names the setting, or the file and the row.
        """
        ...

    def check_asked(self, recipe: Recipe, library: Library) -> None:
        """Refuses an evaluation that lacks what it needs.

        Raises:
          MmjaxError: an extra that is not installed, a text or a benchmark that cannot be read.
        """
        ...

    def task(self, run: Run, base: Task | None, library: Library) -> Task:
        """The run's task: whether its encoders and its base go together; nothing is computed.

        Args:
          run: a stage with a seed.
          base: the task of the base; None where it has none.
          library: loads encoders.

        Raises:
          MmjaxError: they do not.
        """
        ...

    def base_of(self, recipe: Recipe, seed: int) -> Run:
        """The finished run at `config.base`, for one seed to stand on.

        Raises:
          MmjaxError: there is none, or one that the recipe cannot stand on.
        """
        ...

    def assemble(self, run: Run, library: Library) -> Assembly[Task, Data]:
        """Builds the task, its data and its frozen tree, which lies on the mesh."""
        ...

    def left_out(self, recipe: Recipe, library: Library) -> Sequence[LeftOut]:
        """Classes that the recipe neither learns nor asks about."""
        ...

    def measure(self, runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
        """Runs the recipe's evaluators over every system of finished runs, seed by seed."""
        ...

    def tables(self, results: Results) -> list[Table]:
        """What the results say."""
        ...

    def headline(self, results: Results) -> list[tuple[str, str]]:
        """The few figures to see first: (what, value)."""
        ...

    def report(
        self, results: Results, runs: Sequence[Run], recipe: Recipe, library: Library
    ) -> Report:
        """Puts tables, curves and pictures together."""
        ...

    def load(self, folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> AdaptedT:
        """A trained adapter with the frozen encoders below it, ready to use.

        Raises:
          MmjaxError: it is damaged, or was trained on other encoders.
        """
        ...


@runtime_checkable
class Shares(Protocol):
    """A definition whose adapters other programs read too; not every one has such a form."""

    def share(self, folder: Path, params: PyTree, card: Mapping[str, Any]) -> None:
        """Writes that form beside an exported adapter.

        Args:
          folder: holds the export.
          params: what was trained.
          card: of the adapter.

        Raises:
          MmjaxError: the disk is full.
        """
        ...
