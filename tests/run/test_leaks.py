"""A process gives back all that a stage took: descriptors and threads stay as many as they were."""

import os
import threading


def held():
    """Open descriptors, and threads of Python's, by name."""
    names = sorted(thread.name for thread in threading.enumerate())
    return len(os.listdir("/proc/self/fd")), names


def alone(toy, seeds, steps):
    """The toy's base as a recipe of its own: a stage a seed."""
    train = {**toy.config["train"], "steps": steps, "eval_every": steps, "save_every": 1}
    kept = ("languages", "mesh", "checkpoint", "writer")
    return {
        **{name: toy.config[name] for name in kept},
        **toy.config["base"],
        **{"name": "alone", "seeds": seeds, "evals": ("retrieval",), "train": train},
    }


def test_stages_give_back_descriptors_and_threads(toy, cached, tmp_path, mesh):
    from mmjax import study
    from mmjax.data.library import Library
    from mmjax.specs.recipe import resolve_recipe
    from mmjax.training import train

    config = alone(toy, (0, 1, 2), 3)
    recipe = resolve_recipe(config)
    library = Library(mesh(1), recipe.languages)
    counts = []
    for run in study.plan(recipe, tmp_path):
        train(run, library)
        counts.append(held())
    assert counts[1:] == counts[:1] * 2
