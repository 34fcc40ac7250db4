"""Temperature, top-k and top-p against their definitions, one row at a time in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.generation.sampling import Sampling, choose, restrict


def twin(logits, sampling):
    """Probabilities by the definition."""
    scaled = logits.astype(np.float64) / sampling.temperature
    p = np.exp(scaled - scaled.max())
    order = np.argsort(-p)
    if sampling.top_k:
        p[order[sampling.top_k :]] = 0
    p /= p.sum()
    total = 0.0
    for i in order:
        if total >= sampling.top_p:
            p[i] = 0
        total += p[i]
    return p / p.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [0, 1, 4, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
def test_restrict_equals_the_definition(temperature, top_k, top_p):
    sampling = Sampling(temperature, top_k, top_p)
    logits = np.random.default_rng(0).standard_normal((3, 11)).astype(np.float32) * 2
    probabilities = jax.nn.softmax(jax.jit(restrict)(jnp.asarray(logits), sampling), axis=-1)
    expected = np.stack([twin(row, sampling) for row in logits])
    assert_allclose(probabilities, expected, atol=1e-6)


def test_draws_have_the_right_frequencies():
    sampling = Sampling(1.5, top_k=3)
    row = np.array([2.0, 1.0, 0.0, -1.0, 1.5], np.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    tokens, log_probs = jax.jit(choose)(jnp.tile(row, (4000, 1)), sampling, keys)
    counts = np.bincount(tokens, minlength=5) / 4000
    assert_allclose(counts, twin(row, sampling), atol=0.03)
    # The log-probability is the model's, not that of the restricted draw.
    assert_allclose(log_probs, np.asarray(jax.nn.log_softmax(row))[tokens], atol=1e-6)


def test_greedy_takes_the_likeliest():
    logits = np.random.default_rng(1).standard_normal((4, 9)).astype(np.float32)
    tokens, _ = choose(jnp.asarray(logits), None, jax.random.split(jax.random.key(0), 4))
    assert tokens.tolist() == logits.argmax(1).tolist()
