"""How much quicker is a step that reads the feature cache than one that runs the encoders?

Both sides train the recipe's base with the same batch size, batch by batch in turn; the ratio of an
epoch is the ratio of a step, since both have the same number of steps.
"""

import dataclasses
import importlib.util
from pathlib import Path

import jax

from benchmarks.apart import Side, compare
from benchmarks.harness import Options, Report, check_equal
from mmjax import optim, sharding
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.rng import key_for
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import Recipe, resolve_recipe
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.catalog import assemble
from mmjax.tasks.run import Run


class Training:
    """One way to train: with or without the cache. A call is a step."""

    def __init__(self, config: str, cached: bool, steps: int) -> None:
        """Builds and compiles.

        Args:
          config: a recipe, whose first stage is trained.
          cached: whether features come from the cache.
          steps: steps that will be asked for.
        """
        recipe = read(config)
        stage = recipe.stages[0]
        timed = dataclasses.replace(stage.train, cache_features=cached, steps=steps)
        stage = dataclasses.replace(stage, train=timed)
        library = Library(sharding.make_mesh(), recipe.languages)
        assembly = assemble(Run(recipe, stage, 0, Path("unused")), library)
        key, self._mesh = key_for(0, "bench"), library.mesh
        batch = sharding.place_batch(assembly.data.example(timed.batch_size, 0), self._mesh)
        trainable = jax.jit(assembly.task.init)(key, assembly.frozen, batch)
        tx, _ = optim.make_optimizer(stage.optim, trainable, steps)
        self._state = sharding.place(create(trainable, tx, key), self._mesh)
        self._frozen = assembly.frozen
        self._batches = assembly.data.batches(steps, timed.batch_size, 0)
        self._step = make_train_step(assembly.task, tx)

    def __call__(self) -> float:
        """One step from drawing the batch to the new state; returns the loss."""
        batch = sharding.place_batch(next(self._batches), self._mesh)
        self._state, metrics = self._step(self._state, self._frozen, batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"].total)


def read(config: str) -> Recipe:
    """A recipe's file.

    Raises:
      MmjaxError: there is none.
    """
    spec = importlib.util.spec_from_file_location("recipe", config)
    if spec is None or spec.loader is None or not Path(config).is_file():
        raise MmjaxError(f"adapter-cached: no recipe {config}; say --config")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return resolve_recipe(as_dict(module.get_config()))


def run(options: Options) -> Report:
    """Times a cached and an uncached step in turn.

    Args:
      options: the recipe, which must have a base, and rounds.

    Returns:
      Seconds of both; the first losses must agree.

    Raises:
      MmjaxError: no such recipe.
    """
    read(options.config)
    # The first run, and four a round; beside itself, beside the other, rounds measured again.
    steps = 1 + 4 * 4 * options.num_rounds
    sides = [
        Side(
            name,
            "benchmarks.adapter_cached:Training",
            {"config": str(Path(options.config).resolve()), "cached": cached, "steps": steps},
        )
        for name, cached in (("cached", True), ("uncached", False))
    ]
    comparison = compare(sides, options, lambda values: check_equal(values, 1e-3))
    work = f"a step of {options.config}, features cached"
    return Report([comparison.grid(work)], comparison.samples(), comparison.lines(work))
