"""BERT and XLM-R against what Hugging Face's torch models say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import load_encoder
from mmjax.errors import MmjaxError

TOLERANCE = 1e-4


def error(encode, encoder, arrays) -> float:
    """Largest difference to the golden at real tokens."""
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    tokens = np.asarray(encode(encoder, **inputs).tokens, np.float32)
    real = arrays["attention_mask"].astype(bool)
    return float(np.abs(tokens - arrays["hidden"])[real].max())


@pytest.mark.parametrize("name", ["bert_tiny", "xlmr_tiny"])
def test_hidden_states_equal_torch_with_padding(name, folder, golden, encode):
    assert error(encode, load_encoder(folder(name)), golden(name)) < 1e-5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert_tiny", {"layer_norm_eps": 1e-5}),
        ("bert_tiny", {"hidden_act": "gelu_new"}),
        ("bert_tiny", {"num_attention_heads": 8}),
        ("xlmr_tiny", {"layer_norm_eps": 1e-12}),
        ("xlmr_tiny", {"model_type": "bert"}),  # positions from 0 instead of from 2
    ],
)
def test_parity_notices_a_wrong_constant(name, change, folder, golden, encode):
    assert error(encode, load_encoder(folder(name, config=change)), golden(name)) > TOLERANCE


def test_padding_changes_nothing(folder, encode):
    encoder = load_encoder(folder("xlmr_tiny"))
    ids = np.array([[5, 6, 7]], np.int32)
    short = encode(encoder, input_ids=ids, attention_mask=np.ones_like(ids))
    padded = np.pad(ids, ((0, 0), (0, 5)), constant_values=1)
    mask = (np.arange(8) < 3).astype(np.int32)[None]
    long = encode(encoder, input_ids=padded, attention_mask=mask)
    # Other lengths are other programs, which sum in other orders.
    assert_allclose(long.tokens[:, :3], short.tokens, atol=3e-6)
    assert_allclose(long.pooled, short.pooled, atol=3e-6)
    assert long.mask.sum() == 3


def test_a_row_of_padding_only_stays_finite(folder, encode):
    encoder = load_encoder(folder("bert_tiny"))
    zeros = np.zeros((1, 4), np.int32)
    output = encode(encoder, input_ids=zeros, attention_mask=zeros)
    assert np.isfinite(output.tokens).all()
    assert np.isfinite(output.pooled).all()


def test_bfloat16_is_close_and_is_bfloat16(folder, golden, encode):
    encoder = load_encoder(folder("bert_tiny"), dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(encoder.params)} == {jnp.dtype(jnp.bfloat16)}
    assert 1e-4 < error(encode, encoder, golden("bert_tiny")) < 0.15


def test_xlmr_takes_fewer_tokens_than_positions(folder):
    # 18 positions, of which the first pad_token_id + 1 are never used by a real token.
    assert load_encoder(folder("xlmr_tiny")).preprocess.max_length == 16
    assert load_encoder(folder("bert_tiny")).preprocess.max_length == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 5}, "32 is not a multiple of num_attention_heads 5"),
        ({"hidden_act": "swish9"}, "unknown activation 'swish9'; known: gelu"),
        ({"is_decoder": True}, "is_decoder"),
        ({"model_type": "gpt9"}, "model_type 'gpt9' is not supported; known: bert"),
    ],
)
def test_configs_that_are_not_supported(change, message, folder):
    with pytest.raises(MmjaxError, match=message):
        load_encoder(folder("bert_tiny", config=change))
