"""What the trunk knows of a run: its folder, what it reads, the task with all that is frozen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from mmjax import sharding
from mmjax.data.pipeline import Batches, Phase, examples, train_batches
from mmjax.data.records import Corpus
from mmjax.data.splits import Split
from mmjax.encoders.output import Tower
from mmjax.evals.base import Evaluator
from mmjax.rng import seed_for
from mmjax.runs import finished
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.runs.finished import ADAPTER, DONE
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage, read_stage
from mmjax.tasks.base import Task
from mmjax.tasks.published import Published
from mmjax.trees import PyTree


@dataclass(frozen=True)
class Run:
    """A stage with one seed: where it lives and what it stands on.

    Attributes:
      recipe: languages, mesh, switches.
      stage: what is trained.
      seed: draws split, initial values, order of the data.
      folder: of this run.
      base: the finished run that it builds on, if any.
    """

    recipe: Recipe
    stage: Stage
    seed: int
    folder: Path
    base: "Run | None" = None

    @property
    def adapter(self) -> Path:
        """Folder of the finished adapter."""
        return self.folder / ADAPTER

    @property
    def data_seed(self) -> int:
        """Draws the order of the data."""
        return seed_for(self.seed, self.stage.name, "data")

    @property
    def is_main(self) -> bool:
        """Whether it is of the stage that the recipe is about."""
        return self.stage.name == self.recipe.main.name

    @property
    def is_done(self) -> bool:
        """Whether the run has ended, and all that it left is as it was written."""
        return (self.folder / DONE).is_file() and self.damage is None

    @property
    def damage(self) -> str | None:
        """What is wrong with a run that had ended; None of one that has not, or is whole."""
        return finished.problem(self.folder) if (self.folder / DONE).is_file() else None

    def trained(self, mesh: Mesh) -> PyTree:
        """The finished adapter's parameters, on the mesh."""
        params, _ = load_adapter_params(self.adapter)
        return sharding.place(params, mesh)


# What evaluators get: name of a published function -> function of what the task's data holds.
AnyFunctions = Mapping[str, Callable[..., np.ndarray]]


@runtime_checkable
class Measured(Protocol):
    """Something that a system is asked."""

    def run(self, evaluators: Sequence[Evaluator], functions: AnyFunctions) -> dict[str, float]:
        """Returns {metric: value}."""
        ...


@runtime_checkable
class Publisher(Protocol):
    """A task's published functions, compiled once for all evaluations of a run."""

    def bind(self, trainable: PyTree, frozen: PyTree) -> AnyFunctions:
        """The functions with their weights."""
        ...


@runtime_checkable
class NamedData(Protocol):
    """What a card says of data."""

    @property
    def name(self) -> str:
        """Of the data set."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of all that it holds."""
        ...


@runtime_checkable
class Data(Protocol):
    """What the trainer asks of a stage's data."""

    @property
    def val(self) -> Measured | None:
        """What the best step is chosen by; None where nothing is trained."""
        ...

    @property
    def corpus(self) -> NamedData:
        """Names the data."""
        ...

    def example(self, batch_size: int, seed: int, mesh: Mesh | None = None) -> dict[str, Any]:
        """A batch for initial values; with a mesh this process's rows of it."""
        ...

    def batches(self, steps: int, batch_size: int, seed: int, mesh: Mesh | None = None) -> Batches:
        """A checkpointable iterator of batches; with a mesh of this process's rows of them."""
        ...

    def publish(self, task: Task, mesh: Mesh) -> Publisher:
        """The task's functions, fed with this data."""
        ...


@dataclass(frozen=True)
class StageData:
    """Data that is read from tables, phase by phase: what most tasks' data is made of.

    Attributes:
      towers: role -> frozen tower.
      phases: what is trained on, in turn.
      val: what the best step is chosen by; None where nothing is trained.
      items: {"train", "val", "test"} -> indices of the corpus's items.
      corpus: the items.
    """

    towers: Mapping[str, Tower]
    phases: tuple[Phase, ...]
    val: Measured | None
    items: Split
    corpus: Corpus

    def example(self, batch_size: int, seed: int, mesh: Mesh | None = None) -> dict[str, Any]:
        """A batch for data-dependent initial values; with a mesh this process's rows of it."""
        return examples(self.phases[0], batch_size, seed, mesh)

    def batches(self, steps: int, batch_size: int, seed: int, mesh: Mesh | None = None) -> Batches:
        """A checkpointable iterator of batches; with a mesh of this process's rows of them."""
        return train_batches(self.phases, steps, batch_size, seed, mesh)

    def publish(self, task: Task, mesh: Mesh) -> Published:
        """The task's functions, compiled once for all evaluations."""
        return Published(task, mesh)


TaskT = TypeVar("TaskT", bound=Task, covariant=True)
DataT = TypeVar("DataT", bound=Data, covariant=True)


@dataclass(frozen=True)
class Assembly(Generic[TaskT, DataT]):
    """A run's task with its data and everything frozen under it.

    Attributes:
      task: what is trained.
      data: what it reads.
      frozen: encoders' weights and the base's parameters, on the mesh.
      base: card of the base.
      evaluators: what is measured on `data.val` while training.
      prior: for elastic weight consolidation: what the base was trained on.
      on_card: what the adapter's card says beside what all cards say.
      initial: key -> what training begins with, on the mesh; None is the task's own `init`, whole
        on every device.
    """

    task: TaskT
    data: DataT
    frozen: dict[str, PyTree]
    base: Mapping[str, Any] | None = None
    evaluators: Sequence[Evaluator] = ()
    prior: Phase | None = None
    on_card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    initial: Callable[[Key[Array, ""]], PyTree] | None = None


def stage_of(card: Mapping[str, Any]) -> Stage:
    """The stage that a card describes."""
    stage = dict(card["stage"])
    # Prompts that were trained before they could end in words end in none.
    stage["prompts"] = {"ending": "", **stage.get("prompts", {})}
    return read_stage(stage)
