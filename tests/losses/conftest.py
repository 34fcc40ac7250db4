"""Batches of pairs that no model has solved: relative errors of gradients mean something there."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array


@pytest.fixture
def make_pairs() -> Callable[..., tuple[Array, Array]]:
    """Returns `make_pairs(n, d=16, seed=0)`: unit vectors of images and of texts."""

    def make(n: int, d: int = 16, seed: int = 0) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        image, noise = rng.normal(size=(2, n, d))
        text = 0.3 * image + noise
        return tuple(
            jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)
            for x in (image, text)
        )  # type: ignore[return-value]

    return make
