"""Weights that learn, split over the data axis too: the same training, a part of the memory."""

from typing import Any

import chex
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from mmjax import sharding, trees
from mmjax.runs.adapter_files import load_adapter_params
from mmjax.tasks.instruct.assembly import assemble_instruct
from mmjax.training import train
from tests.tasks.instruct.llava_world import config, library_of, runs_of, write_world
from tests.tasks.instruct.test_llava import losses


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_folder) -> Any:
    return write_world(tmp_path_factory.mktemp("world"), write_folder)


def test_large_leaves_are_split_along_their_longest_free_axis(mesh):
    made = mesh(2, 4)

    def lies(*axes):
        return NamedSharding(made, PartitionSpec(*axes))

    shapes = {
        "stack": jax.ShapeDtypeStruct((4, 256, 512), np.float32),
        "split": jax.ShapeDtypeStruct((4, 256, 512), np.float32),
        "table": jax.ShapeDtypeStruct((999, 512), np.float32),
        "odd": jax.ShapeDtypeStruct((333, 333), np.float32),
        "small": jax.ShapeDtypeStruct((64,), np.float32),
    }
    where = {name: lies() for name in shapes} | {"split": lies(None, None, "model")}
    found = sharding.spread(where, shapes, made)
    assert found["stack"].spec == PartitionSpec(None, None, "data"), "not over layers"
    assert found["split"].spec == PartitionSpec(None, "data", "model")
    assert found["table"].spec == PartitionSpec(None, "data")
    assert found["odd"].spec == found["small"].spec == PartitionSpec()
    assert sharding.spread(where, shapes, mesh(1, 8))["stack"].spec == PartitionSpec()


def held(tree):
    return sum(
        shard.data.nbytes for x in jax.tree.leaves(tree) for shard in x.addressable_shards[:1]
    )


@pytest.mark.slow
def test_training_is_the_same_and_holds_less(world, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "_SMALL", 64)  # the weights here are tiny
    found, bytes_held = [], []
    for fsdp in (False, True):
        recipe = config(world, "llava_tiny", train="full", adapter="none")
        recipe |= {"optim": {"name": "sgd", "lr": 0.1}, "mesh": {"fsdp": fsdp}}
        (run,) = runs_of(recipe, tmp_path / str(fsdp))
        library = library_of(mesh(2, 4))
        assembly = assemble_instruct(run, library)
        assert assembly.initial is not None
        trainable = assembly.initial(jax.random.key(0))
        bytes_held.append(held(trainable["weights"]))
        split = [x.sharding.spec for _, x in trees.named_leaves(trainable["weights"])]
        assert any("data" in spec for spec in split) == fsdp
        train(run, library)
        found.append((losses(run), load_adapter_params(run.adapter)[0]))
    assert bytes_held[1] < 0.6 * bytes_held[0]
    assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    chex.assert_trees_all_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-7)
