"""How much quicker is a step that reads the feature cache than one that runs the encoders?

  python -m mmjax.bench.adapter_cached [--config configs/base_emoji.py] [--rounds 5]

Both sides train the recipe's base with the same batch size, batch by batch in turn; the ratio of an
epoch is the ratio of a step, since both have the same number of steps.
"""

import argparse
import dataclasses
import importlib.util
import statistics
import time
from pathlib import Path

import jax

from mmjax import optim, sharding
from mmjax.data.library import Library
from mmjax.data.pipeline import examples, train_batches
from mmjax.recipe import Recipe, as_dict, resolve
from mmjax.report import Table, print_table
from mmjax.rng import key_for
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.train import Run, assemble


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
        phase, key, self._mesh = assembly.data.phases[0], key_for(0, "bench"), library.mesh
        batch = sharding.place_batch(examples(phase, timed.batch_size, 0), self._mesh)
        trainable = jax.jit(assembly.task.init)(key, assembly.frozen, batch)
        tx, _ = optim.make_optimizer(stage.optim, trainable, steps)
        self._state = sharding.place(create(trainable, tx, key), self._mesh)
        self._frozen = assembly.frozen
        self._batches = train_batches([phase], steps, timed.batch_size, 0)
        self._step = make_train_step(assembly.task, tx)
        self.loss = self.run()

    def run(self) -> float:
        """One step from drawing the batch to the new state; returns the loss."""
        batch = sharding.place_batch(next(self._batches), self._mesh)
        self._state, metrics = self._step(self._state, self._frozen, batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"].total)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--config", default="configs/base_emoji.py", help="recipe with a base")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each side, in turn")
    args = parser.parse_args()
    found = importlib.util.spec_from_file_location("recipe", args.config)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    recipe = resolve(as_dict(module.get_config()))
    library = Library(sharding.make_mesh(), recipe.languages)
    sides = {cached: Side(recipe, library, cached, args.rounds + 1) for cached in (True, False)}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(args.rounds):
        for cached, side in sides.items():
            began = time.perf_counter()
            side.run()
            seconds[cached].append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(seconds[True], seconds[False], strict=True)]
    rows = (
        ("cached", (tuple(seconds[True]), (sides[True].loss,))),
        ("uncached", (tuple(seconds[False]), (sides[False].loss,))),
    )
    print_table(Table("Seconds a step", ("seconds", "first loss"), rows))
    print(f"uncached / cached, median of {args.rounds} rounds: {statistics.median(ratios):.1f}x")


if __name__ == "__main__":
    main()
