"""How much quicker is a step that reads the feature cache than one that runs the encoders?

Both sides train the recipe's base with the same batch size, batch by batch in turn; the ratio of an
epoch is the ratio of a step, since both have the same number of steps.
"""

import dataclasses
import importlib.util
from pathlib import Path

import jax

from benchmarks.harness import Options, Report, check_equal, compare
from mmjax import optim, sharding
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.rng import key_for
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import Recipe, resolve
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.catalog import assemble
from mmjax.tasks.run import Run


class Side:
    """One way to train: with or without the cache."""

    def __init__(self, recipe: Recipe, library: Library, cached: bool, steps: int) -> None:
        """Builds, compiles and warms up.

        Args:
          recipe: its first stage is trained.
          library: encoders and tables.
          cached: whether features come from the cache.
          steps: steps that will be asked for, the warm-up included.
        """
        stage = recipe.stages[0]
        timed = dataclasses.replace(stage.train, cache_features=cached, steps=steps)
        stage = dataclasses.replace(stage, train=timed)
        assembly = assemble(Run(recipe, stage, 0, Path("unused")), library)
        key, self._mesh = key_for(0, "bench"), library.mesh
        batch = sharding.place_batch(assembly.data.example(timed.batch_size, 0), self._mesh)
        trainable = jax.jit(assembly.task.init)(key, assembly.frozen, batch)
        tx, _ = optim.make_optimizer(stage.optim, trainable, steps)
        self._state = sharding.place(create(trainable, tx, key), self._mesh)
        self._frozen = assembly.frozen
        self._batches = assembly.data.batches(steps, timed.batch_size, 0)
        self._step = make_train_step(assembly.task, tx)
        self.loss = self.run()

    def run(self) -> float:
        """One step from drawing the batch to the new state; returns the loss."""
        batch = sharding.place_batch(next(self._batches), self._mesh)
        self._state, metrics = self._step(self._state, self._frozen, batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"].total)


def run(options: Options) -> Report:
    """Times a cached and an uncached step in turn.

    Args:
      options: the recipe, which must have a base, and rounds.

    Returns:
      Seconds of both; the first losses must agree.

    Raises:
      MmjaxError: no such recipe.
    """
    if not Path(options.config).is_file():
        raise MmjaxError(f"adapter-cached: no recipe {options.config}; say --config")
    found = importlib.util.spec_from_file_location("recipe", options.config)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    recipe = resolve(as_dict(module.get_config()))
    library = Library(sharding.make_mesh(), recipe.languages)
    # Warm-ups, and four runs a round of the side that also runs against itself.
    steps = 4 * options.num_rounds + 2
    sides = {
        name: Side(recipe, library, cached, steps)
        for name, cached in (("cached", True), ("uncached", False))
    }
    check_equal({name: side.loss for name, side in sides.items()}, 1e-3)
    timed = compare({name: side.run for name, side in sides.items()}, options.num_rounds)
    return Report([timed.grid(f"A step of {options.config}")], timed.samples())
