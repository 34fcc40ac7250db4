"""Micro-batches: the gradient of the whole batch, whatever each part of it weighs."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from mmjax import sharding
from mmjax.metrics import Mean
from mmjax.state import create
from mmjax.step import make_train_step

B, A, D = 8, 3, 5


@dataclass(frozen=True)
class WeightedSquares:
    """The mean of squares over tokens that count."""

    def init(self, key: Any, frozen: Any, batch: Any) -> Any:
        return {"w": jnp.zeros(D)}

    def functions(self) -> Any:
        return {}

    def loss(self, trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        inputs = batch["text"]
        error = inputs["x"] @ trainable["w"] - frozen["offset"] - inputs["y"]
        loss = Mean((inputs["weights"] * error**2).sum(), inputs["weights"].sum())
        return loss.total / loss.examples, {"token_loss": loss}

    def weight(self, batch: Any) -> Any:
        return batch["text"]["weights"].sum()


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_step_is_that_of_the_whole_batch(accumulate):
    random = np.random.default_rng(0)
    x, y = random.standard_normal((B, A, D)), random.standard_normal((B, A))
    weights = (random.random((B, A)) < 0.5).astype(np.float64)
    weights[:2] = 1
    weights[4:6] = 0  # cut into four, one part is padding alone, whose mean is 0 / 0
    w, offset = random.standard_normal(D), 0.5
    error = x @ w - offset - y
    gradient = 2 * np.einsum("ba,bad->d", weights * error, x) / weights.sum()
    batch = {"text": {"x": x, "y": y, "weights": weights}}
    batch, start = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), (batch, {"w": w}))
    tx = optax.sgd(1.0)
    step = make_train_step(WeightedSquares(), tx, accumulate)
    state, metrics = step(create(start, tx, jax.random.key(0)), {"offset": offset}, batch)
    assert_allclose(state.trainable["w"], w - gradient, atol=1e-5)
    mean = (weights * error**2).sum() / weights.sum()
    assert_allclose(metrics["loss"].total, mean, rtol=1e-5)
    assert_allclose(metrics["grad_norm"].total, np.linalg.norm(gradient), rtol=1e-5)
    found = metrics["token_loss"]
    assert_allclose(found.total / found.examples, mean, rtol=1e-5)
    assert float(found.examples) == weights.sum()


def test_every_device_works_on_every_micro_batch_with_rows_of_its_own():
    mesh = sharding.make_mesh(4, 2)
    batch = {"x": np.ones((B, A, D)), "y": np.ones((B, A)), "weights": np.ones((B, A))}
    batch, start = {"text": sharding.place_batch(batch, mesh)}, {"w": jnp.zeros(D)}
    state = sharding.place(create(start, optax.sgd(1.0), jax.random.key(0)), mesh)

    def moves(shards):
        step = make_train_step(WeightedSquares(), optax.sgd(1.0), 2, shards)
        text = step.lower(state, {"offset": 0.5}, batch).compile().as_text() or ""
        return [name for name in ("all-to-all", "all-gather", "permute") if f" {name}" in text]

    assert moves(4) == []
    assert moves(1)  # each half of the rows lies on half of the devices
