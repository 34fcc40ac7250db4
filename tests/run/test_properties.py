"""What holds of every run: cached steps, meshes, checkpoints without anything frozen."""

import json
import re

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax import optim, sharding, study
from mmjax.data.library import Library
from mmjax.specs.recipe import resolve_recipe
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.catalog import assemble
from mmjax.trees import named_leaves


def values(workdir, toy, stage):
    return np.array([loss for _, loss in toy.losses(workdir, stage)])


@pytest.mark.parametrize("stage", ["base", "linear", "language"])
def test_eight_devices_and_one_give_the_same_curve(stage, finished, straight, toy):
    environments = [json.loads((w / "env.json").read_text()) for w in (finished, straight)]
    assert [e["devices"].split()[0] for e in environments] == ["8", "1"]
    assert_allclose(values(finished, toy, stage), values(straight, toy, stage), rtol=1e-5)


def lowered(toy, workdir, changes):
    """(text of the base's train step, paths and shapes of the frozen tree)."""
    recipe = resolve_recipe(toy.change(changes))
    mesh = sharding.make_mesh()
    run = study.plan(recipe, workdir)[0]
    assembly = assemble(run, Library(mesh, recipe.languages))
    key = jax.random.key(0)
    batch = sharding.place_batch(assembly.data.example(8, 0), mesh)
    trainable = jax.jit(assembly.task.init)(key, assembly.frozen, batch)
    tx, _ = optim.make_optimizer(run.stage.optim, trainable, 10)
    step = make_train_step(assembly.task, tx)
    return step.lower(create(trainable, tx, key), assembly.frozen, batch).as_text(debug_info=True)


def encoder_ops(text):
    """Names of linen's encoder modules, and tensors with the words' or the patches' shape."""
    names = set(
        re.findall(r"BertModule|Dinov2Module|BertEncoder|word_embeddings|patch_embed", text)
    )
    return names | set(re.findall(r"tensor<50x32xf32>|tensor<\d+x26x32xf32>", text))


def test_the_cached_step_holds_no_encoder(toy, tmp_path, cached):
    text = lowered(toy, tmp_path, {})
    assert encoder_ops(text) == set()
    assert "stablehlo.dot_general" in text  # the heads are there
    raw = lowered(toy, tmp_path, {"base.train.cache_features": False})
    assert {"tensor<50x32xf32>", "tensor<8x26x32xf32>"} <= encoder_ops(raw)
    assert raw.count("stablehlo.dot_general") > text.count("stablehlo.dot_general")


def test_without_the_cache_the_losses_are_the_same(toy, start, finished, tmp_path):
    changes = {"variants": {}}
    changes |= {f"{where}train.cache_features": False for where in ("", "base.")}
    start(toy, tmp_path, changes)
    for stage in ("base", "language"):
        assert_allclose(values(tmp_path, toy, stage), values(finished, toy, stage), rtol=1e-4)


@pytest.mark.parametrize("stage", ["base", "linear", "language"])
def test_a_checkpoint_holds_three_trainables_and_nothing_frozen(stage, finished, toy):
    from orbax.checkpoint import v1 as ocp

    folder = finished / "seed_0" / stage / "checkpoints"
    steps = sorted(int(p.name) for p in folder.iterdir())
    assert steps == [9, 12]
    metadata = ocp.checkpointables_metadata(str((folder / "12").absolute())).metadata
    arrays = dict(named_leaves(metadata["state"]))
    bytes_ = sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in arrays.values())
    trainable = 4 * toy.card(finished, stage)["trainable"]["count"]
    # The optimizer's two moments, and a few scalars: steps and the key.
    assert 3 * trainable < bytes_ < 3 * trainable + 64
    shapes = {tuple(x.shape) for x in arrays.values()}
    assert not shapes & {(50, 32), (16, 32), (1, 26, 32), (26, 32), (2, 32, 32), (2, 32, 64)}
    size = sum(p.stat().st_size for p in (folder / "12").rglob("*") if p.is_file())
    # Orbax's own files: on the disk two copies of small arrays and some kilobytes of metadata.
    assert size < 3 * bytes_ + 80_000
