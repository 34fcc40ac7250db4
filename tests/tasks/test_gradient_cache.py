"""Large contrastive batches in parts: the same loss, the same step, memory for a part alone."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from mmjax import sharding
from mmjax.encoders.output import Tower
from mmjax.specs.dual_encoder import (
    ContinualSpec,
    HeadSpec,
    LossSpec,
    ResidualSpec,
    WeightingSpec,
)
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.base import GENERAL
from mmjax.tasks.dual_encoder.contrastive import ContrastiveTask
from mmjax.tasks.dual_encoder.domain import DomainTask
from mmjax.tasks.gradient_cache import cut, joined

B, D = 16, 6
HEAD = HeadSpec(hidden=(8,), out_dim=5, members=2)


def encode(params: Any, inputs: Any) -> Any:
    """A frozen encoder that runs in the step."""
    return {"features": jnp.tanh(inputs["pixel_values"] @ params)}


def towers(width: int = D) -> tuple[Tower, Tower]:
    return Tower("image", width, encode), Tower("text", D)


def joined_task() -> ContrastiveTask:
    return ContrastiveTask(*towers(), HEAD, HEAD, LossSpec(label_smoothing=0.1))


def batch_of(rows: int = B) -> Any:
    random = np.random.default_rng(0)
    values = jnp.asarray(random.standard_normal((2, rows, D)), jnp.float32)
    texts = jnp.arange(rows, dtype=jnp.int32).at[3].set(2)  # two pairs of one text
    pairs = {
        "image": {"pixel_values": values[0], "row": jnp.arange(rows, dtype=jnp.int32)},
        "text": {"features": values[1], "row": texts},
    }
    general = {f"{GENERAL}{role}": jax.tree.map(lambda x: x[::-1], pairs[role]) for role in pairs}
    return {**pairs, **general}


WEIGHTINGS = {
    "focal": WeightingSpec("focal", gamma=2.0),
    "loss_softmax": WeightingSpec("loss_softmax", temperature=0.5),
    "hard negatives": WeightingSpec(beta=0.5, tau_plus=0.1),
    "distill": WeightingSpec(),
}
FROZEN = {"image": jnp.eye(D)}


def domain_task(weighting: str) -> tuple[DomainTask, Any]:
    base = joined_task()
    frozen = {**FROZEN, "base": jax.jit(base.init)(jax.random.key(1), FROZEN, batch_of())}
    spec = ResidualSpec(bottleneck=8)
    continual = ContinualSpec("distill" if weighting == "distill" else "none")
    task = DomainTask(base, spec, WEIGHTINGS[weighting], continual, LossSpec())
    return task, frozen


@pytest.mark.parametrize(
    ("name", "count", "devices"),
    [
        ("contrastive", 2, 4),
        ("loss_softmax", 4, 1),
        ("hard negatives", 4, 1),
        ("focal", 2, 8),
        ("distill", 4, 1),
    ],
)
def test_the_step_in_parts_is_the_step(name, count, devices, mesh):
    if name == "contrastive":
        task, frozen = joined_task(), FROZEN
    else:
        task, frozen = domain_task(name)
    where = mesh(devices)
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch_of())
    random = np.random.default_rng(1)  # an adapter's second map begins at zero
    trainable = jax.tree.map(
        lambda x: x + jnp.asarray(random.normal(0, 0.1, x.shape), x.dtype), trainable
    )
    tx = optax.sgd(0.1)
    batch = sharding.place_batch(jax.device_get(batch_of()), where, B)
    frozen = sharding.place(frozen, where)
    found = []
    for accumulate in (1, count):
        step = make_train_step(task, tx, accumulate, where.shape["data"])
        copy = sharding.place(jax.tree.map(jnp.copy, trainable), where)
        state = sharding.settle(create(copy, tx, jax.random.key(3)), where)
        state, metrics = step(state, frozen, batch)
        found.append((state.trainable, metrics))
    (plain, told), (cached, same) = found
    chex.assert_trees_all_close(plain, cached, atol=1e-5, rtol=1e-7)
    chex.assert_trees_all_close(told, same, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), trainable, jax.device_get(cached))
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_general_items_too_are_embedded_in_parts():
    task, frozen = domain_task("distill")
    trainable = jax.jit(task.init)(jax.random.key(0), frozen, batch_of())
    found = jax.jit(task.embedded)(trainable, frozen, batch_of(), jax.random.key(1))
    # What is left for the whole batch needs no encoder.
    without = {name: part for name, part in frozen.items() if name != "image"}
    loss, _ = jax.jit(task.compare)(found, trainable, without, batch_of())
    expected, _ = jax.jit(task.loss)(trainable, frozen, batch_of(), jax.random.key(1))
    assert_allclose(loss, expected, rtol=1e-6)


def test_parts_are_put_together_as_they_were_cut():
    x = jnp.arange(48).reshape(24, 2)
    for count, shards in ((1, 1), (4, 1), (3, 4), (2, 4)):
        np.testing.assert_array_equal(joined(cut(x, count, shards), shards), x)


def test_memory_is_that_of_a_part():
    """Four times the batch in four times the parts: what a part needs in between stays."""
    wide = 8192

    def temporary(rows: int, accumulate: int) -> int:
        # An encoder with wide inner values, all of which a plain step keeps for going back.
        def encode(params: Any, inputs: Any) -> Any:
            return {"features": jnp.sin(jnp.tanh(inputs["pixel_values"] @ params)) @ params.T}

        task = ContrastiveTask(Tower("image", D, encode), Tower("text", D), HEAD, HEAD, LossSpec())
        frozen = {"image": jnp.zeros((D, wide))}
        batch = batch_of(rows)
        trainable = jax.eval_shape(task.init, jax.random.key(0), frozen, batch)
        # What learns stands in front of the encoder: its inner values are needed going back.
        tx = optax.sgd(0.1)

        def shift(t: Any, f: Any, b: Any, k: Any) -> Any:
            moved = b["image"]["pixel_values"] + t["shift"][None]
            return task.embedded(t, f, {**b, "image": {**b["image"], "pixel_values": moved}}, k)

        class Shifted:
            embedded = staticmethod(shift)
            compare = staticmethod(task.compare)
            init, functions = task.init, task.functions

            def loss(self, t: Any, f: Any, b: Any, k: Any) -> Any:
                return task.compare(shift(t, f, b, k), t, f, b)

        learns = {**trainable, "shift": jnp.zeros(D)}
        state = jax.eval_shape(lambda t: create(t, tx, jax.random.key(0)), learns)
        shifted: Any = Shifted()
        step = make_train_step(shifted, tx, accumulate)
        sizes: Any = step.lower(state, frozen, batch).compile().memory_analysis()
        return sizes.temp_size_in_bytes

    small, large, plain = temporary(32, 4), temporary(128, 16), temporary(128, 1)
    assert large < 2 * small
    assert 5 * large < plain
