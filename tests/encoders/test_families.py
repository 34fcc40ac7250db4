"""Younger families beside goldens of torch models: whole, in int8, split, adapted."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.adapters.lora import Lora
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import embed, extend, logits
from mmjax.encoders.qwen_vl_images import QwenImages
from mmjax.generation.prompts import prepare

CONSTANTS = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
SQUARE = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 20, "width": 20}}
PIXELS = {
    "siglip_tiny": SQUARE,
    "siglip2_tiny": {"patch_size": 4, "max_num_patches": 21},
    "qwen2_5_vl_tiny": {"patch_size": 4, "size": {"shortest_edge": 200, "longest_edge": 1000}},
    "mllama_tiny": {"size": {"height": 8, "width": 8}, "max_image_tiles": 4},
    "gemma3_tiny": {"size": {"height": 24, "width": 24}},
}
DECODERS = ["qwen2_tiny", "qwen3_tiny", "gemma3_text_tiny"]
PICTURES = ["siglip_tiny", "siglip2_tiny", "dinov3_tiny", "dinov2_registers_tiny"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_folder):
    """Returns `place(name)`: the folder of a golden, made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = write_folder(tmp_path_factory.mktemp("families") / name, name)
            if name in PIXELS:
                path = made[name] / "preprocessor_config.json"
                path.write_text(json.dumps(CONSTANTS | PIXELS[name]))
        return made[name]

    return make


def tower(name):
    return "image" if name.startswith("siglip") else None


def inputs_of(arrays, name):
    """Pixels as the encoder takes them; a NaFlex's patches carry their places."""
    pixels = arrays["pixel_values"]
    if name != "siglip2_tiny":
        return pixels
    shapes = arrays["spatial_shapes"]
    places = np.zeros((*pixels.shape[:2], 4), np.float32)
    for row, (rows, columns) in enumerate(shapes):
        n = rows * columns
        places[row, :n, :2] = np.stack(np.divmod(np.arange(n), columns), axis=-1)
        places[row, :n, 2:] = rows, columns
    return np.concatenate([pixels, places], axis=-1).astype(np.float32)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name, place, golden, encode, mesh):
    arrays = golden(name)
    encoder = load_encoder(place(name), tower=tower(name))
    pixels, expected = inputs_of(arrays, name), arrays["image_embeds"]
    assert np.abs(expected).max() > 0.05
    assert_allclose(encode(encoder, pixel_values=pixels).pooled, expected, atol=1e-5)
    small = load_encoder(place(name), tower=tower(name), quantize="int8")
    off = np.abs(np.asarray(encode(small, pixel_values=pixels).pooled) - expected).max()
    assert 1e-5 < off < 0.1 * np.abs(expected).max()
    split = load_encoder(place(name), tower=tower(name), mesh=mesh(2, 2))
    kernel = split.params["layers"]["attention"]["query"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 8)
    images = list(np.random.default_rng(0).integers(0, 255, (3, 30, 44, 3), np.uint8))
    assert_allclose(split.embed_images(images), encoder.embed_images(images), atol=1e-5)


@pytest.mark.parametrize("name", PICTURES)
def test_adapters_of_pictures(name, place, golden):
    """An adapter changes nothing at step 0, and every layer's place is there."""
    encoder = load_encoder(place(name), tower=tower(name))
    pixels = inputs_of(golden(name), name)
    hook = Lora(rank=2, targets=("query", "value", "fc1", "fc2"))
    adapters = hook.init(jax.random.key(0), encoder.frozen_layers())
    run = jax.jit(encoder.with_hook(hook).apply)
    inputs = {"pixel_values": pixels}
    plain = golden(name)["image_embeds"]
    assert_allclose(run(encoder.params, inputs, adapters).pooled, plain, atol=1e-5)
    for place_ in hook.targets:
        up = adapters[place_]["up"]["kernel"]
        noise = jax.random.normal(jax.random.key(1), up.shape)  # which no norm takes away
        moved = adapters | {place_: adapters[place_] | {"up": {"kernel": up + noise}}}
        off = np.asarray(run(encoder.params, inputs, moved).pooled) - plain
        assert np.abs(off).max() > 1e-4, place_


@pytest.mark.parametrize("name", PICTURES)
def test_keys_of_a_prefix_are_read_in_every_layer(name, place, golden):
    encoder = load_encoder(place(name), tower=tower(name))
    hook = PrefixTuning(tokens=2, std=1.0)
    adapters = hook.init(jax.random.key(0), encoder.frozen_layers())
    run = jax.jit(encoder.with_hook(hook).apply)
    inputs = {"pixel_values": inputs_of(golden(name), name)}
    said = np.asarray(run(encoder.params, inputs, adapters).pooled)
    for layer in range(len(adapters["keys"])):
        moved = adapters | {"values": adapters["values"].at[layer].add(1.0)}
        assert np.abs(run(encoder.params, inputs, moved).pooled - said).max() > 1e-4, layer


@pytest.mark.parametrize("name", ["siglip_tiny", "siglip2_tiny"])
def test_texts_of_siglip(name, place, golden, encode):
    arrays = golden(name)
    encoder = load_encoder(place(name), tower="text")
    mask, ids = arrays["attention_mask"], arrays["input_ids"]
    found = encode(encoder, input_ids=np.where(mask, ids, 7), attention_mask=mask)
    assert_allclose(found.pooled, arrays["text_embeds"], atol=1e-5)
    assert (encoder.logit_scale, encoder.logit_bias) == (2.0, -7.0)
    rows = [["w5 w6"], ["w5 w6", "w7 w8 w9 w10 w11"]]  # padded to other lengths
    one, two = (encoder.embed_texts(texts) for texts in rows)
    assert_allclose(one[0], two[0], atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name, place, golden, mesh):
    arrays = golden(name)
    inputs = {key: arrays[key] for key in ("input_ids", "attention_mask")}
    real = arrays["attention_mask"] == 1
    model = load_encoder(place(name))
    assert isinstance(model, LanguageModel)
    found = np.asarray(jax.jit(model.logits)(model.params, inputs))
    assert np.abs(found - arrays["logits"])[real].max() < 1e-5
    split = load_encoder(place(name), mesh=mesh(2, 4))
    attention = split.params["layers"]["attention"]
    key, query = (attention[part]["kernel"] for part in ("key", "query"))
    assert key.sharding.shard_shape(key.shape) == key.shape  # its one head is not cut
    assert query.sharding.shard_shape(query.shape)[-1] == query.shape[-1] // 4
    assert isinstance(split, LanguageModel)
    found = np.asarray(jax.jit(split.logits)(split.params, inputs))
    assert np.abs(found - arrays["logits"])[real].max() < 1e-5


def test_qwen_vl_with_two_pictures(place, golden):
    arrays = golden("qwen2_5_vl_tiny")
    model = load_encoder(place("qwen2_5_vl_tiny"))
    assert isinstance(model, LanguageModel)
    pictures = [arrays["picture_0"], arrays["picture_1"]]
    assert isinstance(model.images, QwenImages)
    mixed = model.images.mix([arrays["prompt"].tolist()], [pictures])
    assert mixed.positions is not None

    @jax.jit
    def run(params, ids, tiles, places, positions):
        mixed: Any = model.module.apply({"params": params}, ids, tiles, places, method="mix")
        mask = jax.numpy.ones(ids.shape, np.int32)
        hidden, _ = extend(model.module, params, None, mixed, mask, None, positions)
        return logits(model.module, params, hidden)

    rows = (x[0][None] for x in (mixed.ids, mixed.places, mixed.positions))
    ids, places, positions = rows
    found = np.asarray(run(model.params, ids, mixed.tiles, places, positions))[0]
    assert np.abs(found - arrays["logits"]).max() < 1e-5
    assert embed(model.module, model.params, jax.numpy.asarray(ids)).shape == (*ids.shape, 16)
    assert len(ids[0]) == 4 + sum(model.images.count(*p.shape[:2]) for p in pictures)


@pytest.mark.parametrize("name", ["mllama_tiny", "gemma3_tiny"])
def test_two_pictures_of_a_prompt(name, place, golden):
    arrays = golden(name)
    model = load_encoder(place(name))
    assert isinstance(model, LanguageModel)
    pictures = [arrays["picture_0"], arrays["picture_1"]]
    prompt = arrays["prompt"].tolist()
    prepared, _ = prepare(model, [prompt], 1, [pictures])

    @jax.jit
    def run(params, prepared):
        hidden, _ = extend(
            model.module, params, None, prepared.embeddings, prepared.mask,
            pictures=prepared.pictures, together=prepared.together,
        )  # fmt: skip
        return logits(model.module, params, hidden)

    found = np.asarray(run(model.params, prepared))[0, -len(arrays["logits"]) :]
    assert np.abs(found - arrays["logits"]).max() < 1e-5
