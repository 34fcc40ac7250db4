"""Dual encoders against what Hugging Face's torch models say, without torch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

from mmjax import sharding, trees
from mmjax.encoders import catalog, clip, load_encoder
from mmjax.errors import MmjaxError

DUAL = ["clip_tiny", "chinese_clip_tiny", "altclip_tiny"]
MEBIBYTE = 2**20


def text_errors(encode, encoder, arrays) -> tuple[float, float]:
    """Largest differences to the golden: hidden states at real tokens, and embeddings."""
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    output, real = encode(encoder, **inputs), arrays["attention_mask"].astype(bool)
    hidden = np.abs(np.asarray(output.tokens) - arrays["text_hidden"])[real].max()
    return float(hidden), float(np.abs(output.pooled - arrays["text_pooled"]).max())


def image_errors(encode, encoder, arrays) -> tuple[float, float]:
    output = encode(encoder, pixel_values=arrays["pixels"].astype(np.float32))
    hidden = np.abs(np.asarray(output.tokens) - arrays["image_hidden"]).max()
    return float(hidden), float(np.abs(output.pooled - arrays["image_pooled"]).max())


@pytest.mark.parametrize("name", DUAL)
def test_both_towers_equal_torch(name, folder, golden, encode):
    path = folder(name)
    text, image = (load_encoder(path, tower=tower) for tower in ("text", "image"))
    assert max(text_errors(encode, text, golden(name))) < 1e-5
    assert max(image_errors(encode, image, golden(name))) < 1e-5
    assert (text.modality, image.modality) == ("text", "image")
    assert text.embed_dim == image.embed_dim == text.width("pooled") == 20
    assert text.logit_scale == image.logit_scale == pytest.approx(2.6592)
    assert text.fingerprint != image.fingerprint


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_config", {"layer_norm_eps": 1e-3}),
        ("text_config", {"hidden_act": "gelu"}),
        ("text_config", {"eos_token_id": 7}),
        ("vision_config", {"hidden_act": "gelu"}),
        ("vision_config", {"num_attention_heads": 8}),
    ],
)
def test_parity_notices_a_wrong_constant(part, change, folder, golden, encode):
    arrays = golden("clip_tiny")
    config = json.loads(str(arrays["config"]))[part] | change
    path = folder("clip_tiny", config={part: config})
    if part == "text_config":
        found = text_errors(encode, load_encoder(path, tower="text"), arrays)
    else:
        found = image_errors(encode, load_encoder(path, tower="image"), arrays)
    assert max(found) > 1e-4


def test_the_end_of_a_text(folder, golden, encode):
    arrays = golden("clip_tiny")
    part = json.loads(str(arrays["config"]))["text_config"]
    ids = np.array([[5, 40, 30, 45, 30, 30]])
    mask = np.ones_like(ids)

    def pooled_at(eos: int) -> int:
        """Which token's hidden state is projected."""
        path = folder("clip_tiny", config={"text_config": part | {"eos_token_id": eos}})
        encoder = load_encoder(path, tower="text")
        output = encode(encoder, input_ids=ids, attention_mask=mask)
        each = np.asarray(output.tokens[0] @ encoder.params["projection"]["kernel"])
        return int(np.abs(each - output.pooled).max(1).argmin())

    assert pooled_at(30) == 2  # the first one
    assert pooled_at(2) == 3  # published configs' mistake: the largest id
    assert pooled_at(17) == 0  # a text without its end: as in Hugging Face's code


def test_what_the_user_asked_for_in_an_older_file_wins(folder, golden):
    part = json.loads(str(golden("clip_tiny")["config"]))["text_config"]
    config = {"text_config": {}, "text_config_dict": part}
    encoder = load_encoder(folder("clip_tiny", config=config), tower="text")
    assert encoder.config.num_heads == 4
    # A file may leave out what is at Hugging Face's default.
    del part["layer_norm_eps"], part["pad_token_id"]
    encoder = load_encoder(folder("clip_tiny", config={"text_config": part}), tower="text")
    assert (encoder.config.layer_norm_eps, encoder.config.pad_token_id) == (1e-5, 1)


def openai_names(path) -> None:
    """Rewrites a folder's weights with OpenAI's names, fused attention and projections as x @ W."""
    # The longer name of two goes first.
    parts = {"text_model.final_layer_norm": "ln_final", "post_layernorm": "ln_post"}
    parts |= {"text_model.encoder.layers": "transformer.resblocks", "layer_norm": "ln_"}
    parts |= {"vision_model.encoder.layers": "visual.transformer.resblocks", "mlp.fc1": "mlp.c_fc"}
    parts |= {"self_attn": "attn", "mlp.fc2": "mlp.c_proj", "vision_model.": "visual."}
    parts |= {"text_model.embeddings.token_embedding": "token_embedding", "pre_layrnorm": "ln_pre"}
    parts |= {"text_model.embeddings.position_embedding.weight": "positional_embedding"}
    parts |= {"embeddings.class": "class", "embeddings.patch_embedding": "conv1"}
    parts |= {"embeddings.position_embedding.weight": "positional_embedding"}
    tensors = load_file(path / "model.safetensors")
    out = {}
    for key in sorted(tensors):
        if "_projection" in key:
            name = "text_projection" if "text" in key else "visual.proj"
            out[name] = tensors[key].T.copy()
            continue
        if ".k_proj." in key or ".v_proj." in key:
            continue
        value, new = tensors[key], key
        if ".q_proj." in key:
            each = [tensors[key.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            value, new = np.concatenate(each), key.replace("q_proj.", "in_proj_")
        for ours, theirs in parts.items():
            new = new.replace(ours, theirs)
        out[new] = value
    (path / "model.safetensors").unlink()
    save_file(out, path / "open_clip_model.safetensors")


def test_openai_names_load_to_the_same_outputs(folder, golden, encode):
    path = folder("clip_tiny")
    openai_names(path)
    text, image = (load_encoder(path, tower=tower) for tower in ("text", "image"))
    assert max(text_errors(encode, text, golden("clip_tiny"))) < 1e-5
    assert max(image_errors(encode, image, golden("clip_tiny"))) < 1e-5


def test_all_misfits_of_a_tower_are_listed_and_the_other_tower_is_none(folder):
    path = folder(
        "clip_tiny",
        tensors={"vision_model.mystery": np.zeros(3, np.float32), "text_model.x": np.zeros(1)},
        drop=("text_projection.weight", "vision_model.pre_layrnorm.bias"),
    )
    with pytest.raises(MmjaxError) as raised:
        load_encoder(path, tower="text")
    assert "(2 problems)" in str(raised.value)
    assert "unexpected text_model.x" in str(raised.value)
    assert "nothing feeds projection/kernel" in str(raised.value)
    with pytest.raises(MmjaxError, match=r"unexpected vision_model\.mystery.*pre_norm/bias"):
        load_encoder(path, tower="image")


def test_towers(folder):
    path = folder("clip_tiny")
    with pytest.raises(MmjaxError, match="two towers; say tower='text' or tower='image'"):
        load_encoder(path)
    with pytest.raises(MmjaxError, match="has an embedding of its own"):
        load_encoder(path, tower="text", pooling="mean")
    with pytest.raises(MmjaxError, match="'bert' has no 'image' tower, only text"):
        load_encoder(folder("bert_tiny"), tower="image")
    assert load_encoder(folder("bert_tiny"), tower="text").modality == "text"


@pytest.mark.parametrize("name", ["roberta_tiny", "taiyi_tiny"])
def test_other_berts(name, folder, golden, encode):
    arrays = golden(name)
    encoder = load_encoder(folder(name), pooling="classifier" if "taiyi" in name else None)
    inputs = {key: arrays[key] for key in ("input_ids", "attention_mask")}
    output, real = encode(encoder, **inputs), arrays["attention_mask"].astype(bool)
    assert np.abs(np.asarray(output.tokens) - arrays["hidden"])[real].max() < 1e-5
    if "taiyi" in name:
        assert_allclose(output.pooled, arrays["pooled"], atol=1e-5)


@pytest.mark.parametrize("side", [20, 32])
def test_vit(side, folder, golden, encode):
    arrays, path = golden("vit_tiny"), folder("vit_tiny")
    encoder = load_encoder(path, image_size=side)
    output = encode(encoder, pixel_values=arrays[f"pixels_{side}"].astype(np.float32))
    assert_allclose(output.tokens, arrays[f"hidden_{side}"], atol=1e-5)
    constants = json.loads((path / "preprocessor_config.json").read_text())
    larger = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (path / "preprocessor_config.json").write_text(json.dumps(constants | larger))
    with pytest.raises(MmjaxError, match="trained for 20; say image_size="):
        load_encoder(path)


@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_mesh_splits_a_tower_by_its_family_and_changes_nothing(tower, folder, mesh):
    path = folder("clip_tiny")
    one, many = (load_encoder(path, mesh=m, tower=tower) for m in (None, mesh(2, 4)))
    kernel = many.params["layers"]["fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] * 4 == kernel.shape[-1]
    if tower == "text":
        texts = [" ".join(["w7"] * n) for n in (1, 3, 9, 2, 5)]
        assert_allclose(many.embed_texts(texts), one.embed_texts(texts), atol=1e-5)
    else:
        images = list(np.random.default_rng(0).integers(0, 255, (5, 24, 30, 3), np.uint8))
        assert_allclose(many.embed_images(images), one.embed_images(images), atol=1e-5)


def test_widths_that_do_not_divide_stay_whole_unless_they_are_asked_for(folder, mesh):
    place = {"mesh": mesh(1, 5), "tower": "text"}
    kernel = load_encoder(folder("clip_tiny"), **place).params["layers"]["attention"]["query"]
    assert kernel["kernel"].sharding.is_fully_replicated
    with pytest.raises(MmjaxError, match=r"cannot be split by .* over the mesh .*'model': 5"):
        load_encoder(folder("clip_tiny"), **place, rules=clip.TEXT_SHARDING)


# openai/clip-vit-large-patch14 as its config.json has it.
LARGE = {
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {
        **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        **{"num_hidden_layers": 12, "eos_token_id": 2},
    },
    "vision_config": {
        **{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
        **{"num_hidden_layers": 24, "patch_size": 14},
    },
}


@pytest.mark.parametrize("shape", [(1, 8), (32, 8)], ids=["8 devices", "256 devices"])
@pytest.mark.parametrize("tower", ["text", "image"])
def test_clip_large_ahead_of_time(tower, shape, capsys):
    """Nothing large is left whole on every device, and the forward pass lowers for a TPU."""
    mesh = AbstractMesh(shape, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    family = catalog.find_family(LARGE, "config.json", tower)
    config = family.config(LARGE)
    module = family.module(config)
    inputs = {"pixel_values": jax.ShapeDtypeStruct((64, 224, 224, 3), jnp.float32)}
    if tower == "text":
        ids = jax.ShapeDtypeStruct((64, 77), jnp.int32)
        inputs = {"input_ids": ids, "attention_mask": ids}
    params = jax.eval_shape(lambda x: module.init(jax.random.key(0), **x), inputs)["params"]
    assert trees.count(params) == {"text": 123_650_304, "image": 303_966_208}[tower]

    rules = family.sharding(config)
    leaves, held = dict(trees.named_leaves(params)), 0
    for path, shard in sharding.shard_shapes(params, mesh, rules).items():
        whole, part = (4 * int(np.prod(s)) for s in (leaves[path].shape, shard))
        assert part < whole or whole <= 64 * MEBIBYTE, f"{path} is on every device"
        held += part
    with capsys.disabled():
        print(f"\nCLIP L/14 {tower}, mesh {shape}: {held / MEBIBYTE:.1f} MiB of f32 a device")
    assert held < trees.nbytes(params) / 6

    def placed(tree, placements):
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, placements
        )

    rows = NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = placed(params, sharding.shardings(params, mesh, rules))
    inputs = placed(inputs, jax.tree.map(lambda _: rows, inputs))
    traced = jax.jit(lambda p, x: module.apply({"params": p}, **x)).trace(params, inputs)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "sharding" in text
