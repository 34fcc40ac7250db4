"""How features are standardised before they are projected, beside scikit-learn's StandardScaler."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from mmjax.adapters.projection import ProjectionHead, Projector, Standardize

N = 400
rng = np.random.default_rng(0)
COLUMNS: dict[str, Any] = {
    "zero": np.zeros(N),
    "constant": np.full(N, 3.0),
    "no float": np.full(N, 0.1),
    "large": np.full(N, 123456.7),
    "usual": rng.normal(size=N),
    "narrow": 5 + 1e-3 * rng.normal(size=N),
    "tiny": 1e-6 * rng.normal(size=N),
    "rare code": np.arange(N) == 7,
    "wide": 1e4 * rng.normal(size=N),
}
TABLE = np.stack([np.asarray(c, np.float32) for c in COLUMNS.values()], axis=1)


def scales(x, mask=None) -> np.ndarray:
    found: Any = Standardize().init(jax.random.key(0), jnp.asarray(x), mask)
    return np.asarray(found["params"]["scale"])


def test_scales_are_scikit_learns_but_for_a_least_deviation():
    # A code that no training row has was once scaled by 1,000.
    scaler: Any = StandardScaler().fit(TABLE)
    for name, found, theirs in zip(COLUMNS, scales(TABLE), scaler.scale_, strict=True):
        constant = theirs == 1 and name not in ("usual", "wide")
        assert found == pytest.approx(1 if constant else 1 / (theirs + 1e-3), rel=1e-3), name
    assert scales(TABLE).tolist().count(1) == 4


def test_rounding_is_no_deviation():
    noisy = np.full((N, 2), 0.7, np.float32)
    noisy[::2] = np.nextafter(noisy[::2], np.float32(1))
    np.testing.assert_array_equal(scales(noisy), 1)


def test_masked_vectors_do_not_count():
    tokens = np.random.default_rng(1).normal(size=(8, 3, 2)).astype(np.float32)
    mask = np.ones((8, 3), bool)
    mask[:, 2] = False
    tokens[:, :2, 1] = 4.0  # constant wherever there is a token
    found = scales(tokens, jnp.asarray(mask))
    assert found[0] == pytest.approx(1 / (tokens[:, :2, 0].std() + 1e-3), rel=1e-5)
    assert found[1] == 1
    np.testing.assert_array_equal(scales(tokens, jnp.zeros((8, 3), bool)), 1)  # nothing is kept


@pytest.mark.parametrize(
    "module", [ProjectionHead((8,), 4), Projector(8, 4, standardize=True)], ids=lambda m: m.name
)
def test_what_is_new_in_a_constant_feature_is_not_blown_up(module):
    seen = np.random.default_rng(2).normal(size=(64, 6)).astype(np.float32)
    seen[:, 5] = 0
    params = module.init(jax.random.key(0), jnp.asarray(seen))
    new = seen.copy()
    new[:, 5] = 1
    before, after = (np.asarray(module.apply(params, jnp.asarray(x))) for x in (seen, new))
    assert np.linalg.norm(after - before, axis=1).max() < 3 * np.linalg.norm(before, axis=1).max()
