"""Elastic weight consolidation against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.losses.consolidation import Prior, fisher_diagonal, penalty

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5)).astype(np.float32)
Y = (RNG.random(24) < 0.5).astype(np.float32)
W = RNG.normal(size=5).astype(np.float32)


def losses(params, frozen, batch):
    """-log p of logistic regression."""
    logits = batch["x"] @ params["w"] * frozen
    return jax.nn.softplus(logits) - batch["y"] * logits


def test_the_fisher_diagonal_is_the_mean_of_squared_gradients_of_single_examples():
    batches = [{"x": jnp.asarray(X[i : i + 8]), "y": jnp.asarray(Y[i : i + 8])} for i in (0, 8, 16)]
    found = fisher_diagonal(losses, {"w": jnp.asarray(W)}, jnp.float32(2.0), batches)
    logits = 2.0 * X.astype(np.float64) @ W
    gradients = (1 / (1 + np.exp(-logits)) - Y)[:, None] * 2.0 * X
    np.testing.assert_allclose(found["w"], (gradients**2).mean(axis=0), rtol=1e-5)


def test_the_penalty_is_quadratic_around_the_anchor():
    rng = np.random.default_rng(1)
    params, anchor, fisher = (
        {"a": rng.random((3, 2)).astype(np.float32), "b": rng.random(4).astype(np.float32)}
        for _ in range(3)
    )
    prior = Prior(*jax.tree.map(jnp.asarray, (anchor, fisher)))
    expected = sum((fisher[k] * (params[k] - anchor[k]) ** 2).sum() for k in params) / 2
    np.testing.assert_allclose(penalty(params, prior), expected, rtol=1e-6)
    gradient = jax.grad(penalty)(params, prior)
    for k in params:
        np.testing.assert_allclose(gradient[k], fisher[k] * (params[k] - anchor[k]), rtol=1e-5)
    assert float(penalty(prior.anchor, prior)) == 0
