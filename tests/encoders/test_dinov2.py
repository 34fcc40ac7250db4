"""DINOv2 against what Hugging Face's torch model says, at three sizes of pictures."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import load_encoder
from mmjax.encoders.vision import resize_positions
from mmjax.errors import MmjaxError

SIDES = [20, 32, 12]  # the trained size, larger, smaller


def error(encode, encoder, arrays, side) -> float:
    """Largest difference to the golden."""
    pixels = arrays[f"pixels_{side}"].astype(np.float32)
    output = encode(encoder, pixel_values=pixels)
    return float(np.abs(np.asarray(output.tokens) - arrays[f"hidden_{side}"]).max())


@pytest.mark.parametrize("side", SIDES)
def test_hidden_states_equal_torch(side, folder, golden, encode):
    encoder = load_encoder(folder("dinov2_tiny"), image_size=side)
    assert encoder.params["position_embeddings"].shape == (1 + (side // 4) ** 2, 32)
    assert error(encode, encoder, golden("dinov2_tiny"), side) < 1e-5


@pytest.mark.parametrize(
    "change",
    [{"layer_norm_eps": 1e-3}, {"hidden_act": "gelu_new"}, {"num_attention_heads": 8}],
)
def test_parity_notices_a_wrong_constant(change, folder, golden, encode):
    encoder = load_encoder(folder("dinov2_tiny", config=change), image_size=20)
    assert error(encode, encoder, golden("dinov2_tiny"), 20) > 1e-4


def test_pooled_is_the_class_token_and_all_tokens_are_real(folder, golden, encode):
    encoder = load_encoder(folder("dinov2_tiny"), image_size=20)
    pixels = golden("dinov2_tiny")["pixels_20"].astype(np.float32)
    output = encode(encoder, pixel_values=pixels)
    assert_allclose(output.pooled, output.tokens[:, 0])
    assert output.mask.shape == (2, 26)
    assert output.mask.all()


def five_x(key: str) -> str:
    """The names that transformers 5.x has in memory."""
    for part in ("query", "key", "value"):
        key = key.replace(f"attention.attention.{part}.", f"attention.{part[0]}_proj.")
    return key.replace("attention.output.dense.", "attention.o_proj.")


def four_x(key: str) -> str:
    """The names that 4.x has, and that are on disk."""
    for part in ("query", "key", "value"):
        key = key.replace(f".attention.{part[0]}_proj.", f".attention.attention.{part}.")
    return key.replace("attention.o_proj.", "attention.output.dense.")


@pytest.mark.parametrize(
    "rename", [four_x, lambda k: five_x(four_x(k)), lambda k: "dinov2." + four_x(k)]
)
def test_both_layouts_of_names_load_to_the_same_encoder(rename, folder, golden, encode):
    encoder = load_encoder(folder("dinov2_tiny", rename=rename), image_size=20)
    assert error(encode, encoder, golden("dinov2_tiny"), 20) < 1e-5
    assert encoder.fingerprint == load_encoder(folder("dinov2_tiny"), image_size=32).fingerprint


def test_position_resize_keeps_constants_and_the_class_token():
    table = np.concatenate([np.full((1, 3), 9.0), np.full((25, 3), 2.0)]).astype(np.float32)
    resized = resize_positions(table, 8)
    assert resized.shape == (65, 3)
    assert resized.dtype == np.float32
    assert_allclose(resized[0], 9)
    assert_allclose(resized[1:], 2, rtol=1e-6)
    assert_allclose(resize_positions(table, 5), table)


def test_swiglu_is_refused(folder):
    with pytest.raises(MmjaxError, match="use_swiglu_ffn is set"):
        load_encoder(folder("dinov2_tiny", config={"use_swiglu_ffn": True}))


def test_image_size_must_be_whole_patches(folder):
    with pytest.raises(MmjaxError, match=r"image_size 30 is not .* 4; the nearest is 32"):
        load_encoder(folder("dinov2_tiny"), image_size=30)


def test_pixels_of_another_size_are_refused(folder):
    encoder = load_encoder(folder("dinov2_tiny"), image_size=20)
    with pytest.raises(MmjaxError, match="pass image_size="):
        encoder.apply(encoder.params, {"pixel_values": np.zeros((1, 24, 24, 3), np.float32)})
