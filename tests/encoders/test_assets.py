"""The assets' real weights against what torch says of them (python -m tools.make_goldens)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import load_encoder


@pytest.mark.parametrize("name", ["minilm-l6", "me5-small"])
def test_texts(name, asset, golden):
    arrays = golden(f"real_{name}")
    asset(name)
    encoder = load_encoder(f"asset:{name}")
    embeddings = encoder.embed_texts([str(text) for text in arrays["texts"]])
    assert_allclose(embeddings, arrays["embeddings"], atol=1e-5)
    assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_minilm_has_its_published_values(asset):
    asset("minilm-l6")
    (vector,) = load_encoder("asset:minilm-l6").embed_texts(["This is an example sentence"])
    assert_allclose(vector[:4], [0.0677, 0.0635, 0.0487, 0.0793], atol=1e-4)


@pytest.mark.parametrize("side", [224, 112])
def test_pictures(side, asset, golden):
    arrays = golden("real_dinov2-small")
    asset("dinov2-small")
    encoder = load_encoder("asset:dinov2-small", image_size=None if side == 224 else side)
    vectors = encoder.embed_images([arrays["image_0"], arrays["image_1"]])
    assert_allclose(vectors, arrays[f"cls_{side}"], atol=1e-4)
