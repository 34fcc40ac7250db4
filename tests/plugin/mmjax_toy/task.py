"""A task: a linear map learns from frozen features how many dots a picture shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.data.library import Library
from mmjax.data.pipeline import Choices, Phase
from mmjax.data.records import Corpus
from mmjax.data.tables import LabelTable, View
from mmjax.encoders.output import Batch, Inputs, Tower
from mmjax.evals.base import Evaluator, Functions
from mmjax.metrics import Metrics, mean_of
from mmjax.specs.bounds import Weight
from mmjax.specs.family import TaskSettings, check_select
from mmjax.tasks.base import Task
from mmjax.tasks.defaults import OneTable
from mmjax.tasks.dual_encoder.stacking import Loaded
from mmjax.tasks.run import Assembly, Run, StageData
from mmjax.trees import PyTree
from mmjax_toy.corpus import NAMES


@dataclass(frozen=True)
class CountSettings:
    """What a recipe says under `config.settings`: how strongly the map is kept small."""

    ridge: Weight = 0.0


@dataclass(frozen=True)
class CountTask:
    """Least squares; see `mmjax.tasks.base.Task`."""

    tower: Tower
    settings: CountSettings

    def init(self, key: jax.Array, frozen: PyTree, batch: Batch) -> PyTree:
        """A map that says nothing."""
        return {"kernel": jnp.zeros((self.tower.width, 1)), "bias": jnp.zeros(1)}

    def count(self, trainable: PyTree, frozen: PyTree, inputs: Inputs) -> jax.Array:
        """[b, 1]."""
        features = self.tower(frozen, inputs)["features"]
        return features @ trainable["kernel"] + trainable["bias"][None]

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Mean squared error."""
        off = self.count(trainable, frozen, batch["image"])[:, 0] - batch["dots"]["label"]
        ridge = self.settings.ridge * jnp.square(trainable["kernel"]).sum()
        return jnp.square(off).mean() + ridge, {"off": mean_of(jnp.abs(off))}

    def functions(self) -> Mapping[str, Callable[[PyTree, PyTree, Inputs], jax.Array]]:
        """`count_images`."""
        return {"count_images": self.count}


def numbers_of(corpus: Corpus) -> np.ndarray:
    """How many dots each picture shows."""
    return np.asarray([NAMES.index(item.label) + 1 for item in corpus.items])


@dataclass(frozen=True)
class Counted:
    """Pictures with their numbers; see `mmjax.tasks.run.Measured`."""

    images: View
    numbers: np.ndarray

    def run(self, evaluators: Sequence[Evaluator], functions: Functions) -> dict[str, float]:
        """The share of numbers that are right when rounded."""
        one = View(self.images.table, self.images.rows[:, 0])  # several views would be averaged
        said = functions["count_images"](one)[:, 0]
        return {"right": float((np.round(said) == self.numbers).mean())}


class Count(OneTable[Assembly[CountTask, StageData]]):
    """See `mmjax.tasks.definition.Definition`."""

    title = "Counting dots"
    summary = "A linear map counts dots."
    curves = ("loss", "val/right")
    family = TaskSettings(
        (frozenset({"image"}),),
        lambda stage: check_select(stage, ("right", "none")),
        settings=CountSettings,
    )

    def task(self, run: Run, base: Task | None, library: Library) -> CountTask:
        """A map on the picture tower."""
        tower = library.tower("image", run.stage.encoders["image"], None)
        return CountTask(tower, run.stage.settings_as(CountSettings))

    def assemble(self, run: Run, library: Library) -> Assembly[CountTask, StageData]:
        """Features and numbers."""
        stage = run.stage
        corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, run.seed)
        bank = library.images(stage.encoders["image"], stage.pairs, cached=True)
        dots = Choices.of(LabelTable(numbers_of(corpus)), [[int(i)] for i in split["train"]])
        phase = Phase(0, {"image": bank.choices(split["train"]), "dots": dots})
        val = Counted(bank.view(split["val"]), numbers_of(corpus)[split["val"]])
        tower = library.tower("image", stage.encoders["image"], bank.table)
        task = CountTask(tower, stage.settings_as(CountSettings))
        return Assembly(task, StageData({"image": tower}, (phase,), val, split, corpus), {})

    def asked(
        self, run: Run, assembly: Assembly[CountTask, StageData], library: Library
    ) -> Counted:
        """The test pictures."""
        stage, items = run.stage, assembly.data.items["test"]
        bank = library.images(stage.encoders["image"], stage.pairs, cached=True)
        return Counted(bank.view(items), numbers_of(assembly.data.corpus)[items])

    def load(
        self, folder: Path, allow_other_encoder: bool, mesh: Mesh | None
    ) -> Callable[[View], np.ndarray]:
        """A function that counts."""
        loaded = Loaded.of(folder, allow_other_encoder, mesh)
        task = CountTask(loaded.towers["image"], loaded.stage.settings_as(CountSettings))
        return loaded.bound(task)["count_images"]


COUNT = Count()
