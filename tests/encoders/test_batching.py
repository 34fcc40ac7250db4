"""`Encoder.outputs`: order, shapes, padding, few compilations."""

import logging
import weakref
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mmjax.encoders import batching, load_encoder
from mmjax.errors import MmjaxError


@pytest.fixture
def bert(folder):
    return load_encoder(folder("bert_tiny"))


@pytest.fixture
def dinov2(folder):
    return load_encoder(folder("dinov2_tiny"))


def texts(n: int) -> list[str]:
    """Texts of mixed lengths, all different."""
    return [" ".join(f"w{4 + (3 * i + 5 * j) % 46}" for j in range(i % 3 * 4)) for i in range(n)]


@pytest.mark.parametrize("want", ["pooled", "tokens", "tokens_deep", "cls"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_texts_come_in_order_and_equal_one_at_a_time(want, batch_size, bert, monkeypatch, encode):
    monkeypatch.setattr(batching, "_WINDOW", 3)
    items = texts(30)
    results = list(bert.outputs(items, want, batch_size=batch_size))
    assert len(results) == 30
    for text, result in zip(items, results, strict=True):
        batch = bert.preprocess([text], pad_to=[16])
        output = encode(bert, input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        real = int(batch.attention_mask.sum())
        inner = output.hidden_states[0, 0, :real]  # of two layers, half and five sixths are one
        expected = {
            "pooled": output.pooled[0],
            "tokens": output.tokens[0, :real],
            "tokens_deep": np.concatenate([output.tokens[0, :real], inner, inner], axis=-1),
            "cls": output.tokens[0, 0],
        }[want]
        assert result.shape == expected.shape
        assert_allclose(result, expected, atol=1e-5)


def _compilations() -> int:
    compute: Any = batching._compute
    return compute._cache_size()


def test_few_compilations(bert):
    list(bert.outputs(texts(64), "tokens", batch_size=4))
    before = _compilations()
    list(bert.outputs(texts(64)[::-1], "tokens", batch_size=4))
    list(bert.outputs(texts(61), "tokens", batch_size=4))
    assert _compilations() == before


def test_parameters_are_arguments_not_constants(bert):
    batch = bert.preprocess(["w4 w5"])
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    lowered = batching._compute.lower(
        bert.params, inputs, bert.module, bert.pooling, "pooled", None
    )
    text = lowered.as_text()
    # The table of words, 50 x 32, enters as an argument and is nowhere a constant.
    lines = [line for line in text.splitlines() if "tensor<50x32xf32>" in line]
    assert any("func.func public @main" in line for line in lines)
    assert not any("stablehlo.constant" in line for line in lines)


def test_a_long_text_is_cut_and_reported(bert, caplog):
    with caplog.at_level(logging.WARNING):
        (vector,) = bert.embed_texts(["w4 " * 90])
    assert vector.shape == (32,)
    assert "1 of 1 texts are longer than 16 tokens and were cut" in caplog.text


def test_no_items(bert, dinov2):
    assert bert.embed_texts([]).shape == (0, 32)
    assert dinov2.embed_images([]).shape == (0, 32)


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("want", ["pooled", "tokens", "cls", "cls_mean"])
def test_pictures(want, batch_size, dinov2, encode):
    images = list(np.random.default_rng(1).integers(0, 255, (7, 24, 30, 3), np.uint8))
    results = np.stack(list(dinov2.outputs(images, want, batch_size=batch_size)))
    pixels = dinov2.preprocess(images)
    tokens = np.asarray(encode(dinov2, pixel_values=pixels).tokens)
    cls = tokens[:, 0]
    expected = {"pooled": cls, "cls": cls, "tokens": tokens}
    expected["cls_mean"] = np.concatenate([cls, tokens[:, 1:].mean(1)], axis=-1)
    assert_allclose(results, expected[want], atol=1e-5)


def test_a_bad_picture_is_named_by_its_number(dinov2):
    images = [np.zeros((9, 9, 3), np.uint8)] * 7 + [b"x"]
    with pytest.raises(MmjaxError, match="picture 7 cannot be read"):
        dinov2.embed_images(images, batch_size=2)


class Opened:
    """Pictures that are decoded when asked for, and how many of them live at once."""

    def __init__(self) -> None:
        self.given: list[weakref.ref[Image.Image]] = []
        self.most = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int, /) -> Image.Image:
        picture = Image.new("RGB", (40, 30), (i, i, i))
        self.given.append(weakref.ref(picture))
        self.most = max(self.most, sum(one() is not None for one in self.given))
        return picture


def test_pictures_are_not_kept_longer_than_needed(dinov2):
    """A batch of sixteen large photographs is several gigabytes."""
    items = Opened()
    assert len(list(dinov2.outputs(items, "pooled", batch_size=12))) == 12
    assert items.most <= 2


def test_misuse_is_explained(bert, dinov2):
    with pytest.raises(MmjaxError, match="unknown encoder output 'x'; known: pooled"):
        list(bert.outputs(["w4"], "x"))
    with pytest.raises(MmjaxError, match="no 'cls_mean'"):
        list(bert.outputs(["w4"], "cls_mean"))
    with pytest.raises(MmjaxError, match="no 'tokens_deep'"):
        list(dinov2.outputs([np.zeros((9, 9, 3), np.uint8)], "tokens_deep"))
    with pytest.raises(MmjaxError, match="batch_size 0"):
        list(bert.outputs(["w4"], batch_size=0))
    with pytest.raises(MmjaxError, match="reads images; use embed_images"):
        dinov2.embed_texts(["w4"])
    with pytest.raises(MmjaxError, match="reads texts; use embed_texts"):
        bert.embed_images([b""])
    with pytest.raises(MmjaxError, match="put a single one into a list"):
        bert.embed_texts("w4")


def test_outputs_fingerprint_follows_all_that_matters(folder):
    plain = load_encoder(folder("bert_tiny"))
    others = [
        load_encoder(folder("bert_tiny"), dtype="bfloat16"),
        load_encoder(folder("bert_tiny"), pooling="cls"),
        load_encoder(folder("bert_tiny", config={"layer_norm_eps": 1e-5})),
    ]
    assert {e.fingerprint for e in others} == {plain.fingerprint}
    assert len({e.outputs_fingerprint for e in [plain, *others]}) == 4
    assert load_encoder(folder("bert_tiny")).outputs_fingerprint == plain.outputs_fingerprint


def test_outputs_are_a_pytree(bert):
    inputs = {"input_ids": np.ones((2, 4), np.int32), "attention_mask": np.ones((2, 4), np.int32)}
    output = jax.jit(bert.apply)(bert.params, inputs)
    assert_array_equal(output.mask, inputs["attention_mask"])
    shapes = jax.eval_shape(bert.apply, bert.params, inputs)
    assert shapes.pooled.shape == (2, 32)
