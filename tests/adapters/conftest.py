"""A tiny LLaMA with plain rotary positions, a tiny CLIP tower, and adapters away from zero."""

from typing import Any

import jax
import numpy as np
import pytest

from mmjax.encoders import Encoder, LanguageModel, load_encoder
from tests.adapters.numpy_mma import PLAIN_ROPE


@pytest.fixture(scope="session")
def language(tmp_path_factory, write_folder) -> LanguageModel:
    path = write_folder(tmp_path_factory.mktemp("llama"), "llama_tiny", config=PLAIN_ROPE)
    model = load_encoder(path)
    assert isinstance(model, LanguageModel)
    return model


@pytest.fixture(scope="session")
def vision(tmp_path_factory, write_folder) -> Encoder:
    return load_encoder(write_folder(tmp_path_factory.mktemp("clip"), "clip_tiny"), tower="image")


@pytest.fixture(scope="session")
def trained():
    """Returns `trained(tree)`: the same tree with random values in every leaf."""

    def make(tree: Any, std: float = 0.3, seed: int = 0) -> Any:
        random = np.random.default_rng(seed)
        return jax.tree.map(
            lambda x: jax.numpy.asarray(random.standard_normal(x.shape) * std, np.float32), tree
        )

    return make
