"""What encoder tests share: compiled calls, and the assets' real weights."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax.encoders import base


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module, pooling, params, inputs):
    return base.apply(module, pooling, params, inputs)


@pytest.fixture(scope="session")
def encode() -> Callable[..., base.EncoderOutput]:
    """Returns `encode(encoder, **inputs)`: `apply`, compiled once for all encoders of a size."""

    def run(encoder: base.Encoder, **inputs: np.ndarray) -> base.EncoderOutput:
        return _apply(encoder.module, encoder.pooling, encoder.params, inputs)

    return run


@pytest.fixture(scope="session")
def asset() -> Callable[[str], Path]:
    """Returns `asset(name)`: the folder of an asset, fetched where it lacks."""
    from mmjax import assets

    return assets.path
