"""CLIP's ResNets beside what OpenAI's own model says, from its archive and open_clip's folder."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file

from mmjax import MmjaxError
from mmjax.encoders import load_encoder
from mmjax.weights.torch_file import TorchFile

VISION = {"image_size": 64, "layers": [2, 1, 2, 1], "width": 4, "patch_size": None}
TEXT = {"context_length": 12, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
MODEL = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}


@pytest.fixture(scope="module")
def archive(tmp_path_factory, golden, write_tokenizer):
    """OpenAI's archive of the golden, with a tokenizer beside it."""
    folder = tmp_path_factory.mktemp("rn")
    write_tokenizer(folder / "tokenizer.json")
    path = folder / "RN.pt"
    path.write_bytes(golden("clip_resnet_tiny")["archive"].tobytes())
    return path


@pytest.fixture(scope="module")
def open_clip(archive, tmp_path_factory, write_tokenizer):
    """Returns `open_clip(**changes of vision_cfg)`: open_clip's folder of the same weights."""

    def make(**changes):
        folder = tmp_path_factory.mktemp("open_clip")
        write_tokenizer(folder / "tokenizer.json")
        content = {"model_cfg": MODEL | {"vision_cfg": VISION | changes}}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
        file = TorchFile(archive)
        kept = [k for k in file.keys() if file.header(k)[1] or k == "logit_scale"]  # noqa: SIM118
        save_file({k: file.read(k) for k in kept}, folder / "open_clip_model.safetensors")
        return folder

    return make


@pytest.fixture(scope="module")
def image(archive):
    return load_encoder(archive, tower="image")


def test_pictures_and_texts_equal_the_original(image, archive, golden, encode):
    arrays = golden("clip_resnet_tiny")
    output = encode(image, pixel_values=arrays["pixel_values"])
    assert np.abs(arrays["image_embeds"]).max() > 0.05
    assert_allclose(output.pooled, arrays["image_embeds"], atol=1e-5)
    assert output.tokens.shape == (3, 4, 128)
    assert (image.embed_dim, image.hidden_size, image.logit_scale) == (24, 128, 3.0)
    text = load_encoder(archive, tower="text")
    mask = np.ones((3, 12), int)
    output = encode(text, input_ids=arrays["input_ids"], attention_mask=mask)
    assert_allclose(output.pooled, arrays["text_embeds"], atol=1e-5)
    assert text.config.hidden_act == "quick_gelu"


def test_the_same_weights_in_open_clips_folder(image, open_clip, golden):
    other = load_encoder(open_clip(), tower="image")
    assert other.config == image.config
    assert other.fingerprint == image.fingerprint


def test_int8_and_meshes(image, archive, golden, encode, mesh):
    arrays = golden("clip_resnet_tiny")
    small = load_encoder(archive, tower="image", quantize="int8")
    off = np.asarray(encode(small, pixel_values=arrays["pixel_values"]).pooled)
    off = np.abs(off - arrays["image_embeds"]).max() / np.abs(arrays["image_embeds"]).max()
    assert 1e-4 < off < 0.1
    split = load_encoder(archive, tower="image", mesh=mesh(2, 4))
    kernel = split.params["pool"]["query"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (128, 32)
    pictures = list(np.random.default_rng(0).integers(0, 255, (3, 70, 90, 3), np.uint8))
    assert_allclose(split.embed_images(pictures), image.embed_images(pictures), atol=1e-5)


def test_what_cannot_be_asked_of_it(image, archive, open_clip):
    with pytest.raises(MmjaxError, match="image_size 96 is not 64, which alone the pool"):
        load_encoder(archive, tower="image", image_size=96)
    with pytest.raises(MmjaxError, match="has no places for an adapter"):
        image.with_hook(lambda adapter, place, x, y, kernel: y)
    with pytest.raises(MmjaxError, match="has no class token"):
        list(image.outputs([np.zeros((9, 9, 3), np.uint8)], "cls"))
    for change, message in (
        ({"layers": [2, 1, 2]}, "list of 4|expected an even width"),
        ({"layers": [2, 1, 2, 2]}, "nothing feeds stage4_rest"),
        ({"layers": [2, 1, 1, 1]}, "unexpected"),
        ({"image_size": 50}, "no multiple of 32"),
        ({"image_size": 96}, "misshapen visual.attnpool.positional_embedding"),
        ({"width": 3}, "even width"),
        ({"head_width": 7}, "heads of the pool"),
    ):
        with pytest.raises(MmjaxError, match=message):
            load_encoder(open_clip(**change), tower="image")


@pytest.mark.parametrize(
    ("layers", "width", "size", "dim", "parameters"),
    [
        ((3, 4, 6, 3), 64, 224, 1024, 38_316_896),
        ((3, 4, 23, 3), 64, 224, 512, 56_259_936),
        ((4, 6, 10, 6), 80, 288, 640, 87_137_080),
    ],
    ids=["RN50", "RN101", "RN50x4"],
)
def test_published_sizes(layers, width, size, dim, parameters):
    """By shapes alone; the counts are those of OpenAI's image towers."""
    from mmjax.encoders import catalog

    part = {"layers": list(layers), "width": width, "image_size": size}
    config = {"vision_config": part | {"num_attention_heads": width // 2}, "projection_dim": dim}
    config["model_type"] = "clip_resnet"
    family, config = catalog.configure(config, "config.json", "image")
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    made = jax.eval_shape(family.module(config).init, jax.random.key(0), pixels)["params"]
    statistics = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(made)
        if path[-1].key in ("mean", "variance")
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) - statistics == parameters
