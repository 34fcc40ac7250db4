"""The train step's own promises: what becomes of the state, whatever the task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import sharding
from mmjax.metrics import mean_of
from mmjax.state import create
from mmjax.step import make_train_step


class LowRank:
    """x (W + a b), W frozen: gradients of `b` lie as W does unless somebody says otherwise."""

    def init(self, key, frozen, batch):
        a, b = jax.random.normal(key, (2, 8, 2))
        return {"a": a, "b": b.T}

    def loss(self, trainable, frozen, batch, key):
        kernel = frozen["kernel"] + trainable["a"] @ trainable["b"]
        each = jnp.square(batch["text"]["x"] @ kernel).mean(axis=1)
        return each.mean(), {"error": mean_of(each)}

    def functions(self):
        return {}


@pytest.fixture
def setup(mesh):
    made, task, tx = mesh(2, 4), LowRank(), optax.adam(1e-2)
    columns = NamedSharding(made, PartitionSpec(None, "model"))
    frozen = {"kernel": jax.device_put(np.eye(8, dtype=np.float32), columns)}
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    batch = sharding.place_batch({"text": {"x": x}}, made)
    trainable = task.init(jax.random.key(0), frozen, batch)
    return made, task, tx, create(trainable, tx, jax.random.key(1)), frozen, batch


def test_the_state_comes_back_as_it_lay(setup):
    made, task, tx, state, frozen, batch = setup
    step, state = make_train_step(task, tx), sharding.place(state, made)
    for _ in range(3):
        state, _ = step(state, frozen, batch)
        for leaf in jax.tree.leaves(state):
            assert leaf.sharding == sharding.replicated(made)
    assert step._cache_size() == 1  # of one layout there is one program


def test_a_split_state_stays_split(setup):
    made, task, tx, state, frozen, batch = setup
    rows = ((r".*/a", PartitionSpec("model")), (r".*", PartitionSpec()))
    state = sharding.place(state, made, rows)
    before = [leaf.sharding for leaf in jax.tree.leaves(state)]
    assert len(set(before)) == 2
    state, _ = make_train_step(task, tx)(state, frozen, batch)
    assert [leaf.sharding for leaf in jax.tree.leaves(state)] == before


def test_a_state_that_lies_nowhere_is_stepped_too(setup):
    _, task, tx, state, frozen, batch = setup
    step = make_train_step(task, tx)
    assert "kernel" in step.lower(state, frozen, batch).as_text(debug_info=True)
    after, metrics = step(state, frozen, batch)
    assert int(after.step) == 1
    assert np.isfinite(float(metrics["loss"].total))
