"""Qwen2-VL and Qwen2.5-VL beside Hugging Face's torch classes: pictures of any size, packed."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax import MmjaxError
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import extend, logits, mix, read_tiles
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.qwen_vl_images import QwenImages
from mmjax.generation import generate, score
from mmjax.generation.prompts import prepare
from tests.parity.small import randomize, word_tokenizer

pytestmark = pytest.mark.parity

TEXT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"intermediate_size": 48, "vocab_size": 60, "num_key_value_heads": 2}
TEXT |= {"max_position_embeddings": 512, "eos_token_id": 2, "bos_token_id": 1}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2, 1]}
VISION: dict[str, Any] = {"depth": 3, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
KINDS: dict[str, dict[str, Any]] = {
    "Qwen2VL": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    "Qwen2_5_VL": {
        **{"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24},
        **{"window_size": 16, "fullatt_block_indexes": [1]},
    },
}
IMAGE = 50
SIZES = [(30, 21), (9, 60), (44, 44), (8, 8)]  # height, width
ROWS = [[5, IMAGE, 6, 7, IMAGE, 8], [9, IMAGE], [10, 11, 12], [IMAGE, 13, 14, 15]]
OWNED = [[0, 3], [1], [], [2]]


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)) for size in SIZES]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Returns `models(kind)`: (torch model, ours, transformers' picture processor), made once."""
    return functools.cache(lambda kind: make(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(params=KINDS)
def pair(request, models) -> tuple[Any, LanguageModel, Any]:
    return models(request.param)


def make(kind, folder):
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    config = getattr(transformers, f"{kind}Config")(
        text_config=TEXT | {"rope_parameters": ROPE},
        vision_config=VISION | KINDS[kind],
        image_token_id=IMAGE,
        tie_word_embeddings=kind == "Qwen2VL",
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    randomize(model).save_pretrained(folder)
    size = {"shortest_edge": 200, "longest_edge": 1600}
    processor = Qwen2VLImageProcessorPil(size=size, patch_size=4)
    processor.save_pretrained(folder)
    word_tokenizer(folder, 60)
    ours = load_encoder(folder)
    assert isinstance(ours, LanguageModel)
    model.folder = folder
    return model, ours, processor


def torch_logits(model, processor, pictures, ids) -> Any:
    """Of one text, its image tokens repeated; and the positions."""
    import torch

    mask = torch.ones(1, len(ids), dtype=torch.long)
    tensors: dict[str, Any] = {"input_ids": torch.tensor([ids.tolist()]), "attention_mask": mask}
    if pictures:
        found = processor(pictures, return_tensors="pt")
        tensors |= {"pixel_values": found["pixel_values"]}
        tensors |= {"image_grid_thw": found["image_grid_thw"]}
        tensors |= {"mm_token_type_ids": (tensors["input_ids"] == IMAGE).int()}
    with torch.no_grad():
        return model(**tensors).logits[0].numpy()


def test_pictures_are_cut_as_their_processor_cuts_them(pair, pictures):
    _, ours, processor = pair
    images = ours.images
    assert isinstance(images, QwenImages)
    odd = [*pictures, Image.new("L", (1, 1), 9), Image.new("RGB", (1, 150), (9, 80, 200))]
    odd += [Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)]
    odd += [Image.new("RGBA", (300, 2), (9, 80, 200, 90))]
    for picture in odd:
        patches, rows, columns = images.patches(picture)
        rgb = picture if picture.mode == "RGB" else None
        if rgb is None:  # transformers leaves other modes to whoever opens the file
            from mmjax.encoders.pictures import open_image

            rgb = open_image(picture, 0)
        theirs = processor([rgb], return_tensors="np")
        np.testing.assert_array_equal(theirs["image_grid_thw"], [[1, rows, columns]])
        np.testing.assert_allclose(patches, theirs["pixel_values"], atol=1e-6)
        assert images.count(*picture.size[::-1]) == rows * columns // 4
    with pytest.raises(MmjaxError, match="differ at most 200-fold"):
        images.patches(Image.new("RGB", (1, 4000)))


def test_the_tower_reads_packed_pictures(pair, pictures):
    import torch

    model, ours, processor = pair
    tiles, starts = ours.images._pack([ours.images.patches(p) for p in pictures])
    assert len(tiles) < len(pictures)  # some share a row
    run = jax.jit(read_tiles, static_argnums=0)
    found = np.asarray(run(ours.module, ours.params, tiles)).reshape(-1, 32)
    theirs = processor(pictures, return_tensors="pt")
    with torch.no_grad():
        output = model.model.visual(theirs["pixel_values"], theirs["image_grid_thw"])
    output, at = output.pooler_output.numpy(), 0
    assert np.abs(output).max() > 0.1
    for picture, start in zip(pictures, starts, strict=True):
        count = ours.images.count(*picture.size[::-1])
        own = output[at : at + count]
        assert np.abs(found[start : start + count] - own).max() <= 1e-5
        at += count


def test_logits_and_cached_decoding_with_pictures(pair, pictures):
    model, ours, processor = pair
    owned = [[pictures[i] for i in row] for row in OWNED]
    prepared, rows = prepare(ours, ROWS, 4, owned)
    assert rows == 4
    mask, positions = np.asarray(prepared.mask), prepared.positions
    assert positions is not None
    run = jax.jit(whole, static_argnums=0)
    full = np.asarray(run(ours.module, ours.params, prepared.embeddings, mask, positions))
    mixed = ours.images.mix(ROWS, owned)
    for row, ids in enumerate(mixed.ids):
        theirs = torch_logits(model, processor, owned[row], ids)
        assert np.abs(full[row, -len(ids) :] - theirs).max() <= 1e-5
    plain = np.asarray(run(ours.module, ours.params, prepared.embeddings, mask, None))
    assert np.abs(plain - full)[0, -3:].max() > 1e-3  # three positions are not one

    @jax.jit
    def step(params, past, word, seen, at, turns):
        hidden, new = extend(ours.module, params, None, word, seen, past, turns)
        past = jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, at, axis=3), past, new
        )
        return logits(ours.module, params, hidden)[:, 0], past

    c, n = ours.config.text, mask.shape[1]
    empty = jnp.zeros((c.num_layers, 4, c.num_kv_heads, n, c.head_dim))
    past = KeyValues(empty, empty)
    for at in range(n):
        own = mask[:, at : at + 1]
        seen = np.concatenate([mask * (np.arange(n) < at), own], axis=1)
        word, turns = prepared.embeddings[:, at : at + 1], positions[:, at : at + 1]
        out, past = step(ours.params, past, word, seen, at, turns)
        real = own[:, 0] == 1
        np.testing.assert_allclose(out[real], full[real, at], atol=1e-5)


def whole(module, params, embeddings, mask, positions):
    hidden, _ = extend(module, params, None, embeddings, mask, None, positions)
    return logits(module, params, hidden)


def test_texts_that_follow_pictures(pair, pictures):
    import torch

    model, ours, processor = pair
    owned = [[pictures[i] for i in row] for row in OWNED]
    found = generate(ours, ROWS, 6, images=owned, stop_token_ids=())
    mixed = ours.images.mix(ROWS, owned)
    for row, ids in enumerate(mixed.ids):
        chosen = ids.tolist()
        for _ in range(6):
            chosen.append(
                int(torch_logits(model, processor, owned[row], np.array(chosen))[-1].argmax())
            )
        assert found[row].token_ids.tolist() == chosen[len(ids) :]
    answers = [[[7, 8], [9]], [[10]], [[11, 12, 13]], [[14]]]
    scored = score(ours, ROWS, answers, images=owned)
    for row, ids in enumerate(mixed.ids):
        for answer, ours_ in zip(answers[row], scored[row], strict=True):
            both = np.concatenate([ids, answer])
            theirs = torch_logits(model, processor, owned[row], both)
            logp = torch.tensor(theirs).log_softmax(-1).numpy()
            wanted = [logp[len(ids) - 1 + i, t] for i, t in enumerate(answer)]
            np.testing.assert_allclose(ours_.token_log_probs, wanted, atol=1e-4)


@pytest.mark.parametrize(("data", "along"), [(1, 2), (2, 4)])
@pytest.mark.parametrize("pair", ["Qwen2_5_VL"], indirect=True)
def test_on_meshes_and_in_int8(pair, data, along, pictures, mesh):
    model, ours, _ = pair
    split = load_encoder(model.folder, mesh=mesh(data, along))
    assert isinstance(split, LanguageModel)
    attention = split.params["language_model"]["layers"]["attention"]
    key, query = (attention[name]["kernel"] for name in ("key", "query"))
    assert key.sharding.shard_shape(key.shape)[-1] == (8 if along == 2 else 16)  # whole heads
    assert query.sharding.shard_shape(query.shape)[-1] == 32 // along
    owned = [[pictures[i] for i in row] for row in OWNED]
    expected = generate(ours, ROWS, 6, images=owned, stop_token_ids=())
    for text, other in zip(
        expected, generate(split, ROWS, 6, images=owned, stop_token_ids=()), strict=True
    ):
        assert text.token_ids.tolist() == other.token_ids.tolist()
    if along == 2:
        small = load_encoder(model.folder, quantize="int8")
        mixed = ours.images.mix(ROWS[:1], owned[:1])
        inputs = [jnp.asarray(x) for x in (mixed.ids[0][None], mixed.tiles, mixed.places[0][None])]
        off = mix(small.module, small.params, *inputs) - mix(ours.module, ours.params, *inputs)
        assert 1e-5 < float(jnp.abs(off).max()) < 0.1


@pytest.mark.parametrize("pair", ["Qwen2_5_VL"], indirect=True)
def test_older_files_and_wrong_ones(pair, tmp_path):
    """On the hub the decoder's sizes stand at the top, and names have no `model.` in front."""
    from safetensors.numpy import load_file, save_file

    model, ours, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    word_tokenizer(tmp_path, 60)
    config = json.loads((tmp_path / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    old = {**text, **config, "rope_theta": rope["rope_theta"]}
    old |= {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    path = tmp_path / "model.safetensors"
    names = {k: k.replace("model.visual.", "visual.") for k in load_file(path)}
    names = {k: v.replace("model.language_model.", "model.") for k, v in names.items()}
    save_file({names[k]: v for k, v in load_file(path).items()}, path)
    again = load_encoder(tmp_path)
    assert again.config == ours.config
    assert again.fingerprint == ours.fingerprint
    for change, message in (
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}}, "does not fill"),
        ({"image_token_id": 60}, "is not among the 60 tokens"),
        ({"vision_config": {**config["vision_config"], "out_hidden_size": 31}}, "decoder's 32"),
        ({"vision_config": {**config["vision_config"], "num_heads": 8}}, "channels in the image"),
        ({"vision_config": {**config["vision_config"], "window_size": 1}}, "holds no"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(old | change))
        with pytest.raises(MmjaxError, match=message):
            load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(old))
    for change, message in (
        ({"patch_size": 5}, "but the model's is 4"),
        ({"size": {"shortest_edge": 200, "longest_edge": 10}}, "max_pixels"),
        ({"image_mean": [0.5]}, "image_mean"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(change))
        with pytest.raises(MmjaxError, match=message):
            load_encoder(tmp_path)


def test_hooks_and_gradients_of_the_tower(models, pictures):
    from mmjax.adapters.lora import Lora

    _, ours, _ = models("Qwen2_5_VL")
    hook = Lora(rank=2)
    adapted = ours.with_hook(hook, tower="image")
    adapters = hook.init(jax.random.key(0), ours.frozen_layers("image"))
    mixed = ours.images.mix(ROWS[:1], [[pictures[0], pictures[3]]])
    ids, tiles, places = (
        jnp.asarray(x) for x in (mixed.ids[0][None], mixed.tiles, mixed.places[0][None])
    )

    @jax.jit
    @jax.grad
    def gradient(adapters):
        own = adapted.checked_adapters({"image": adapters}, "image")
        return jnp.square(mix(adapted.module, ours.params, ids, tiles, places, own)).mean()

    found = jax.tree.leaves(gradient(adapters))
    assert max(float(jnp.abs(x).max()) for x in found) > 1e-6
    plain = mix(ours.module, ours.params, ids, tiles, places)
    same = mix(adapted.module, ours.params, ids, tiles, places, adapters)
    np.testing.assert_allclose(same, plain, atol=1e-6)
