"""Training steps of a recipe's first stage, with settings changed: a side of a comparison."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.apart import Side
from benchmarks.harness import Options
from mmjax import optim, sharding
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.rng import key_for
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import Recipe, merged, resolve_recipe
from mmjax.state import create
from mmjax.step import TrainStep, make_train_step
from mmjax.tasks.catalog import assemble
from mmjax.tasks.run import Run

STEPS = 1 + 4 * 4  # the first, and four a round: beside itself, beside others, and both again


class Training:
    """One way to train. A call is a step."""

    def __init__(self, config: str, changes: Mapping[str, Any], steps: int) -> None:
        """Builds; the first call compiles.

        Args:
          config: a recipe, whose first stage is trained.
          changes: of its settings, nested as there.
          steps: steps that will be asked for.
        """
        recipe = read(config, changes)
        stage = recipe.stages[0]
        spec, library = stage.train, Library(sharding.make_mesh(), recipe.languages)
        assembly = assemble(Run(recipe, stage, 0, Path("unused")), library)
        key, self._mesh = key_for(0, "bench"), library.mesh
        self._batch = sharding.place_batch(assembly.data.example(spec.batch_size, 0), self._mesh)
        trainable = jax.jit(assembly.task.init)(key, assembly.frozen, self._batch)
        tx, _ = optim.make_optimizer(stage.optim, trainable, steps)
        self._state = sharding.place(create(trainable, tx, key), self._mesh)
        self._frozen = assembly.frozen
        self._batches = assembly.data.batches(steps, spec.batch_size, 0)
        shards = self._mesh.shape["data"]
        self._step: TrainStep = make_train_step(assembly.task, tx, spec.accumulate, shards)

    def __call__(self) -> float:
        """One step from drawing the batch to the new state; returns the loss."""
        batch = sharding.place_batch(next(self._batches), self._mesh)
        self._state, metrics = self._step(self._state, self._frozen, batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"].total)

    def num_trained(self) -> int:
        """Parameters that learn."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._state.trainable))

    def temporary(self) -> int:
        """Bytes that the compiled step needs beside what it is given and what it returns."""
        compiled = self._step.lower(self._state, self._frozen, self._batch).compile()
        needs = compiled.memory_analysis()
        assert needs is not None, "a CPU, a GPU and a TPU all tell"
        return int(needs.temp_size_in_bytes)


def read(config: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that a recipe's first stage is, with settings changed.

    Raises:
      MmjaxError: there is no such file.
    """
    spec = importlib.util.spec_from_file_location("recipe", config)
    if spec is None or spec.loader is None or not Path(config).is_file():
        raise MmjaxError(f"no recipe {config}; say --config")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = as_dict(module.get_config())
    while isinstance(values.get("base"), dict):
        values = values["base"]
    return resolve_recipe(merged(values, changes or {}))


def side(name: str, options: Options, changes: Mapping[str, Any], config: str = "") -> Side:
    """Steps of a recipe, as a side.

    Args:
      name: shown.
      options: how many rounds there will be.
      changes: of the recipe's settings.
      config: the recipe; empty takes that of the options.
    """
    # The first run, and four a round; beside itself, beside the other, rounds measured again.
    steps = 1 + 4 * 4 * options.num_rounds
    path = str(Path(config or options.config).resolve())
    arguments = {"config": path, "changes": changes, "steps": steps}
    return Side(name, "benchmarks.training:told", arguments)


def told(config: str, changes: Mapping[str, Any], steps: int) -> tuple[Training, dict[str, int]]:
    """A side, and what it says of itself: how many parameters learn."""
    training = Training(config, changes, steps)
    return training, {"trained": training.num_trained()}
