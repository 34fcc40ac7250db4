"""The residual adapter: nothing at first, CLIP-Adapter's mixture later."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.adapters.residual import ResidualAdapter

X = jnp.asarray(np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32) * 7)


@pytest.fixture
def adapter() -> tuple[ResidualAdapter, Any]:
    module = ResidualAdapter(bottleneck=6, ratio=0.3, dropout=0.5)
    return module, module.init(jax.random.key(0), X)["params"]


def test_an_untrained_adapter_changes_no_bit(adapter):
    module, params = adapter
    np.testing.assert_array_equal(module.apply({"params": params}, X), X)
    noisy = module.apply(
        {"params": params}, X, deterministic=False, rngs={"dropout": jax.random.key(1)}
    )
    np.testing.assert_array_equal(noisy, X)


def test_the_first_gradient_is_not_zero(adapter):
    module, params = adapter
    target = jnp.roll(X, 1, axis=0)
    gradient = jax.grad(
        lambda p: jnp.sum(jnp.square(module.apply({"params": p}, X) - target))  # type: ignore[operator]
    )(params)
    assert float(jnp.abs(gradient["up"]["kernel"]).max()) > 1


def test_a_trained_adapter_points_where_clip_adapter_does(adapter):
    module, params = adapter
    kernel = np.random.default_rng(1).normal(size=(6, 12)).astype(np.float32)
    params["up"]["kernel"] = jnp.asarray(kernel)
    found = np.asarray(module.apply({"params": params}, X))
    x = np.asarray(X)
    standard = (x - x.mean(0)) / (x.std(0) + 1e-3)
    down = params["down"]
    mlp = np.maximum(standard @ np.asarray(down["kernel"]) + np.asarray(down["bias"]), 0) @ kernel
    mixed = 0.3 * mlp + 0.7 * x
    np.testing.assert_allclose(found * 0.7, mixed, rtol=1e-4, atol=1e-4)
