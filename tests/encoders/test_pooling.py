"""Pooling, and what sentence-transformers' files say about it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import Pooling, load_encoder
from mmjax.encoders.pooling import load_pooling
from mmjax.errors import MmjaxError

TOKENS = jnp.array([[[1.0, -8.0], [3.0, 2.0], [90.0, 90.0]]])
MASK = jnp.array([[1, 1, 0]])


@pytest.mark.parametrize(
    ("name", "expected"), [("mean", [2, -3]), ("cls", [1, -8]), ("max", [3, 2])]
)
def test_padding_is_left_out(name, expected):
    assert_allclose(Pooling(name)(TOKENS, MASK), [expected])


def test_normalised_has_length_one_and_zero_stays_zero():
    assert_allclose(jnp.linalg.norm(Pooling("mean", True)(TOKENS, MASK)), 1, rtol=1e-6)
    assert_allclose(Pooling("mean", True)(TOKENS * 0, MASK), [[0, 0]])


def modules(path, kinds, pooling=None):
    listed = [{"type": f"sentence_transformers.models.{k}", "path": f"{k}"} for k in kinds]
    (path / "modules.json").write_text(json.dumps(listed))
    (path / "Pooling").mkdir(exist_ok=True)
    (path / "Pooling" / "config.json").write_text(json.dumps(pooling or {}))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_files_are_read(config, expected, tmp_path):
    modules(tmp_path, ["Transformer", "Pooling"], config)
    assert load_pooling(tmp_path) == Pooling(expected, normalize=False)
    modules(tmp_path, ["Transformer", "Pooling", "Normalize"], config)
    assert load_pooling(tmp_path) == Pooling(expected, normalize=True)
    assert load_pooling(tmp_path, "max") == Pooling("max", normalize=True)


def test_a_plain_folder_is_pooled_by_mean_unless_told(folder):
    path = folder("bert_tiny")
    assert load_encoder(path).pooling == Pooling("mean")
    encoder = load_encoder(path, pooling="cls")
    (tokens,) = encoder.outputs(["w4 w5"], "tokens")
    assert_allclose(encoder.embed_texts(["w4 w5"])[0], tokens[0], atol=1e-6)
    assert np.abs(load_encoder(path).embed_texts(["w4 w5"])[0] - tokens[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("kinds", "config", "message"),
    [
        (["Transformer", "LSTM"], {}, "module 'LSTM' is not supported"),
        (["Normalize", "Pooling"], {"pooling_mode": "mean"}, "modules in the order"),
        (["Pooling", "Dense", "Dense"], {"pooling_mode": "mean"}, "2 Dense modules"),
        (["Pooling"], {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        (["Pooling"], {}, "exactly one .* got none"),
        (["Pooling"], {"pooling_mode": "lasttoken"}, "unknown pooling 'lasttoken'"),
        (["Pooling"], {"pooling_mode": "mean", "include_prompt": False}, "include_prompt"),
    ],
)
def test_what_is_not_supported_is_said(kinds, config, message, tmp_path):
    modules(tmp_path, kinds, config)
    with pytest.raises(MmjaxError, match=message):
        load_pooling(tmp_path)
