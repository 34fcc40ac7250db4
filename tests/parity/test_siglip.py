"""SigLIP and SigLIP 2, fixed and NaFlex, beside Hugging Face's torch classes."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from mmjax import MmjaxError
from mmjax.encoders import load_encoder
from tests.parity.small import (
    PIXELS,
    TEXT,
    TOLERANCE,
    VISION,
    differences,
    randomize,
    save,
    torch_outputs,
)

pytestmark = pytest.mark.parity

ACT = {"hidden_act": "gelu_pytorch_tanh"}
SIZES = [(1, 1), (7, 90), (33, 35), (64, 48)]  # height, width


@pytest.fixture(scope="module")
def fixed(tmp_path_factory, write_tokenizer):
    """(torch SigLIP, its folder)."""
    import transformers

    config = transformers.SiglipConfig(
        text_config=TEXT | ACT | {"projection_size": 48, "pad_token_id": 1},
        vision_config=VISION | ACT,
    )
    model = randomize(transformers.SiglipModel(config))
    model.logit_scale.data.fill_(2.0)
    model.logit_bias.data.fill_(-7.0)
    folder = save(model, tmp_path_factory.mktemp("siglip"), write_tokenizer)
    constants = {
        "size": {"height": 20, "width": 20},
        "image_processor_type": "SiglipImageProcessor",
    }
    constants |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(constants))
    return model, folder


@pytest.fixture(scope="module")
def naflex(tmp_path_factory, write_tokenizer):
    """(torch SigLIP 2, its folder, transformers' picture processor)."""
    import transformers
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    vision = {k: v for k, v in VISION.items() if k != "image_size"}
    config = transformers.Siglip2Config(
        text_config=TEXT | ACT | {"projection_size": 48, "pad_token_id": 0},
        vision_config=vision | ACT | {"num_patches": 25},
    )
    model = randomize(transformers.Siglip2Model(config))
    folder = save(model, tmp_path_factory.mktemp("siglip2"), write_tokenizer)
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=18)
    processor.save_pretrained(folder)
    return model, folder, processor


def texts_of(model, pad):
    """What SigLIP is given: texts padded to the longest that it reads, and no mask."""
    lengths = np.array([9, 4, 16, 1])
    real = np.arange(16)[None] < lengths[:, None]
    ids = np.where(real, np.random.default_rng(1).integers(4, 48, (4, 16)), pad)
    hidden, pooled = torch_outputs(model, "get_text_features", input_ids=ids)
    return ids, real.astype(np.int64), hidden, pooled


@pytest.mark.parametrize("kind", ["fixed", "naflex"])
def test_texts_are_read_with_their_padding(kind, request):
    model, folder, *_ = request.getfixturevalue(kind)
    encoder = load_encoder(folder, tower="text")
    ids, mask, hidden, pooled = texts_of(model, pad=1 if kind == "fixed" else 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    assert max(differences(encoder, hidden, pooled, inputs)) <= TOLERANCE
    # However short the batch, and whatever stands behind the texts.
    short = {"input_ids": np.where(mask, ids, 33)[:2, :9], "attention_mask": mask[:2, :9]}
    assert max(differences(encoder, hidden[:2, :9], pooled[:2], short)) <= TOLERANCE
    assert encoder.embed_dim == 48


def test_pictures_of_the_trained_size(fixed):
    model, folder = fixed
    encoder = load_encoder(folder, tower="image")
    hidden, pooled = torch_outputs(model, "get_image_features", pixel_values=PIXELS)
    assert max(differences(encoder, hidden, pooled, {"pixel_values": PIXELS})) <= TOLERANCE
    assert encoder.logit_scale == 2.0
    assert encoder.logit_bias == -7.0
    assert encoder.config.hidden_act == "gelu_pytorch_tanh"
    with pytest.raises(MmjaxError, match="has no class token"):
        list(encoder.outputs([PIXELS[0].astype(np.uint8)], "cls"))


def test_what_is_left_of_pictures_behind_the_last_patch_is_not_read(tmp_path, write_tokenizer):
    """So400m cuts 384 pixels into 27 patches of 14: six columns and rows are left."""
    import transformers

    vision = VISION | ACT | {"image_size": 22}
    config = transformers.SiglipConfig(text_config=TEXT | ACT, vision_config=vision)
    model = randomize(transformers.SiglipModel(config))
    folder = save(model, tmp_path / "siglip", write_tokenizer, 22)
    encoder = load_encoder(folder, tower="image")
    pixels = np.random.default_rng(0).standard_normal((3, 22, 22, 3), np.float32)
    hidden, pooled = torch_outputs(model, "get_image_features", pixel_values=pixels)
    assert hidden.shape[1] == 25
    assert max(differences(encoder, hidden, pooled, {"pixel_values": pixels})) <= TOLERANCE
    pixels[:, 20:], pixels[:, :, 20:] = 9, 9
    assert max(differences(encoder, hidden, pooled, {"pixel_values": pixels})) <= TOLERANCE
    with pytest.raises(MmjaxError, match="image_size 26 is not a multiple"):
        load_encoder(folder, tower="image", image_size=26)


def test_pictures_of_another_size_and_gradients(fixed):
    import torch

    model, folder = fixed
    encoder = load_encoder(folder, tower="image", image_size=28)
    pixels = np.random.default_rng(2).standard_normal((2, 28, 28, 3), np.float32)
    nchw = torch.tensor(pixels.transpose(0, 3, 1, 2), requires_grad=True)
    found = model.get_image_features(nchw, interpolate_pos_encoding=True).pooler_output
    found.square().mean().backward()

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        return jnp.square(encoder.apply(encoder.params, {"pixel_values": x}).pooled).mean()

    value, gradient = loss(pixels)
    assert abs(float(value) - float(found.detach().square().mean())) <= TOLERANCE
    assert nchw.grad is not None
    theirs = nchw.grad.numpy().transpose(0, 2, 3, 1)
    assert np.abs(theirs).max() > 1e-4
    assert np.abs(gradient - theirs).max() <= TOLERANCE


def test_towers_that_stand_alone(fixed, tmp_path, write_tokenizer):
    model, folder = fixed
    encoder = load_encoder(folder, tower="image")
    for name, part in (("text", model.text_model), ("image", model.vision_model)):
        alone = save(part, tmp_path / name, write_tokenizer)
        tensors = load_file(alone / "model.safetensors")
        assert not any(key.startswith(f"{name}_model") for key in tensors)
        if name == "image":
            again = load_encoder(alone)
            assert again.family == "siglip"
            for a, b in zip(*map(jax.tree.leaves, (again.params, encoder.params)), strict=True):
                np.testing.assert_array_equal(a, b)
            kept = {k: v for k, v in tensors.items() if not k.startswith("head.")}
            save_file(kept, alone / "model.safetensors")
            with pytest.raises(MmjaxError, match="nothing feeds head/"):
                load_encoder(alone)


def test_naflex_pictures_equal_their_processor_and_model(naflex):
    """Of any proportions, in one batch."""
    import torch

    model, folder, processor = naflex
    encoder = load_encoder(folder, tower="image")
    random = np.random.default_rng(3)
    pictures = [Image.fromarray(random.integers(0, 255, (*s, 3), np.uint8)) for s in SIZES]
    pictures += [Image.new("L", (50, 20), 77)]
    theirs: Any = processor([p.convert("RGB") for p in pictures], return_tensors="np")
    patches = encoder.preprocess(pictures)
    np.testing.assert_allclose(patches[..., :48], theirs["pixel_values"], atol=1e-6)
    np.testing.assert_array_equal(patches[:, 0, -2:], theirs["spatial_shapes"])
    mask = np.asarray(theirs["pixel_attention_mask"])
    np.testing.assert_array_equal(patches[..., -2] > 0, mask == 1)
    with torch.no_grad():
        found = model.get_image_features(**{k: torch.tensor(v) for k, v in theirs.items()})
    hidden, pooled = found.last_hidden_state.numpy(), found.pooler_output.numpy()
    assert max(differences(encoder, hidden, pooled, {"pixel_values": patches})) <= TOLERANCE
    tokens = list(encoder.outputs(pictures, "tokens"))
    assert len({len(own) for own in tokens}) > 2
    for own, whole, real in zip(tokens, hidden, mask, strict=True):  # without padding
        np.testing.assert_allclose(own, whole[real == 1], atol=1e-5)
    np.testing.assert_allclose(encoder.embed_images(pictures), pooled, atol=1e-5)


def test_fixed_pictures_equal_their_processor(fixed):
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    encoder = load_encoder(fixed[1], tower="image")
    processor = SiglipImageProcessorPil(size={"height": 20, "width": 20}, image_mean=[0.5] * 3)
    for size in SIZES:
        picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        theirs = np.asarray(processor(Image.fromarray(picture))["pixel_values"])
        np.testing.assert_allclose(
            encoder.preprocess([picture])[0], theirs[0].transpose(1, 2, 0), atol=1e-6
        )
