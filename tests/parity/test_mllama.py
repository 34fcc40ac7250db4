"""Llama 3.2 Vision (Mllama) beside Hugging Face's torch class: pictures beside the words."""

import dataclasses
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
from mmjax.encoders.language_model import embed, extend, logits, see
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.mllama import Mllama
from mmjax.encoders.mllama_decoder import pattern
from mmjax.encoders.mllama_images import MllamaImages
from mmjax.encoders.pictures import open_image
from mmjax.generation import generate, score
from mmjax.generation.prompts import prepare
from tests.parity.small import randomize, word_tokenizer

pytestmark = pytest.mark.parity

VOCABULARY, IMAGE = 60, 60  # the picture's token is none that can be said
TEXT: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": VOCABULARY}
TEXT |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 512}
TEXT |= {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 4, "rms_norm_eps": 1e-5}
ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
ROPE |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
VISION: dict[str, Any] = {"hidden_size": 16, "attention_heads": 2, "intermediate_size": 24}
VISION |= {"num_hidden_layers": 3, "num_global_layers": 2, "image_size": 8, "patch_size": 4}
VISION |= {"intermediate_layers_indices": [2, 0], "vision_output_dim": 48, "max_num_tiles": 4}
# Layers that repeat in blocks, as the published models' do, and others.
KINDS = {"even": (6, [1, 4]), "uneven": (5, [0, 3])}
SIZES = [(30, 21), (9, 60), (8, 8), (5, 4)]  # height, width
ROWS = [[1, IMAGE, 6, 7, IMAGE, 8], [1, 5, IMAGE, 9], [1, 10, 11, 12], [IMAGE, IMAGE, 13]]
OWNED = [[0, 3], [1], [], [2, 0]]


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
    import torch
    import transformers
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    layers, cross = KINDS[kind]
    text = TEXT | {"num_hidden_layers": layers, "cross_attention_layers": cross}
    config = transformers.MllamaConfig(
        text_config=text | {"rope_parameters": ROPE},
        vision_config=VISION,
        image_token_index=IMAGE,
    )
    model = randomize(transformers.MllamaForConditionalGeneration(config))
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.named_parameters():  # whose defaults, zeros, would show nothing
        if (tensor.numel() == 1 and "gate" in name) or ("embedding" in name and "vision" in name):
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.7
    model.save_pretrained(folder)
    processor = MllamaImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(folder)
    word_tokenizer(folder, VOCABULARY + 8)
    ours = load_encoder(folder)
    assert isinstance(ours, LanguageModel)
    model.folder = folder
    return model, ours, processor


def torch_inputs(model, processor, pictures, ids) -> dict[str, Any]:
    """Of one text, as the processor would make them of a text's tokens."""
    import torch
    from transformers.models.mllama import processing_mllama as theirs

    ids = [int(i) for i in ids]
    inputs = {"input_ids": torch.tensor([ids])}
    if pictures:
        found = dict(processor([pictures], return_tensors="pt"))
        counts = found.pop("num_tiles")
        mask = theirs.convert_sparse_cross_attention_mask_to_dense(
            [theirs.get_cross_attention_token_mask(ids, IMAGE)], counts, 4, len(ids)
        )
        inputs |= found | {"cross_attention_mask": torch.tensor(mask)}
    return inputs


def torch_logits(model, processor, pictures, ids) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(**torch_inputs(model, processor, pictures, ids)).logits[0].numpy()


def test_logits(pair, pictures):
    model, ours, processor = pair
    owned = [[pictures[i] for i in row] for row in OWNED]
    prepared, rows = prepare(ours, ROWS, 4, owned)
    assert rows == 4

    full = np.asarray(whole(ours.module, ours.params, prepared))
    for row, ids in enumerate(ROWS):
        theirs = torch_logits(model, processor, owned[row], ids)
        assert np.abs(full[row, -len(ids) :] - theirs).max() <= 1e-5, row


@functools.partial(jax.jit, static_argnums=0)
def whole(module, params, prepared):
    hidden, _ = extend(
        module, params, None, prepared.embeddings, prepared.mask, pictures=prepared.pictures
    )
    return logits(module, params, hidden)


def test_pictures_are_cut_as_their_processor_cuts_them(pair, pictures):
    _, ours, processor = pair
    images = ours.images
    assert isinstance(images, MllamaImages)
    odd = [*pictures, Image.new("L", (1, 1), 9), Image.new("RGB", (1, 4000), (9, 80, 200))]
    odd += [Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)]
    odd += [Image.new("RGBA", (300, 2), (9, 80, 200, 90)), Image.new("RGB", (17, 16), (0, 9, 0))]
    odd += [Image.new("LA", (8, 24), (7, 0)), Image.new("RGB", (31, 33), (250, 1, 2))]
    arrangements = set()
    for picture in odd:
        tiles, ratio = images.tiles(picture)
        theirs = processor([[open_image(picture, 0)]], return_tensors="np")
        assert theirs["aspect_ratio_ids"][0, 0] == ratio
        wanted = theirs["pixel_values"][0, 0].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(tiles, wanted)
        arrangements.add(ratio)
    assert len(arrangements) > 4


def test_every_size_gets_the_arrangement_that_theirs_gets():
    from transformers.models.mllama import image_processing_pil_mllama as theirs

    from mmjax.encoders.mllama_config import MllamaConfig
    from mmjax.encoders.mllama_images import _fitted

    config = MllamaConfig.from_hf({"model_type": "mllama", "vision_config": {"image_size": 560}})
    images = MllamaImages(config)
    assert config.vision.arrangements == tuple(theirs.get_all_supported_aspect_ratios(4))
    random = np.random.default_rng(0)
    sizes = [(1, 1), (1, 4000), (4000, 1), (560, 560), (561, 560), (1120, 1120), (9000, 7000)]
    sizes += [tuple(map(int, size)) for size in 2 ** random.uniform(0, 13, (100, 2))]
    for height, width in sizes:
        rows, columns = images.arrangement(height, width)
        canvas = theirs.get_optimal_tiled_canvas(height, width, 4, 560)
        assert (rows * 560, columns * 560) == canvas
        fitted = theirs.get_image_size_fit_to_canvas(height, width, *canvas, 560)
        assert _fitted(width, height, columns * 560, rows * 560, 560) == fitted[::-1]


def test_words_see_the_pictures_that_the_processor_shows_them():
    from transformers.models.mllama import processing_mllama as theirs

    from mmjax.encoders.mllama_images import seen_by

    random = np.random.default_rng(0)
    for _ in range(50):
        ids = np.where(random.random(12) < 0.4, IMAGE, 5).tolist()
        spans = theirs.get_cross_attention_token_mask(ids, IMAGE)
        counts = [1] * len(spans)
        wanted = theirs.convert_sparse_cross_attention_mask_to_dense([spans], [counts], 1, 12)
        found = seen_by([at for at, i in enumerate(ids) if i == IMAGE], 12)
        np.testing.assert_array_equal(found, wanted[0, :, :, 0])


def test_the_tower_reads_tiles_together(pair, pictures):
    import torch

    model, ours, processor = pair
    cut = [ours.images.tiles(p) for p in pictures]
    pixels = jnp.asarray(np.stack([tiles for tiles, _ in cut]))
    ratios = jnp.array([ratio for _, ratio in cut])
    assert len(set(ratios.tolist())) > 2
    theirs = processor([pictures], return_tensors="pt")
    theirs.pop("num_tiles")
    with torch.no_grad():
        output = model.model.vision_model(**theirs).last_hidden_state
        projected = model.model.multi_modal_projector(output)[0].flatten(1, 2).numpy()

    @jax.jit
    def run(params, pixels, ratios):
        vision = ours.module.apply({"params": params}, pixels, ratios, method=inside)
        return vision, ours.module.apply({"params": params}, pixels, ratios, method="read_tiles")

    vision, states = run(ours.params, pixels, ratios)
    assert output.abs().max() > 0.5
    assert np.abs(vision - output[0].numpy()).max() <= 1e-5
    assert np.abs(states - projected).max() <= 1e-5


def inside(module: Mllama, pixels: Any, ratios: Any) -> Any:
    return module.vision(pixels, ratios)


def test_cached_decoding_is_the_full_pass(pair, pictures):
    _, ours, _ = pair
    owned = [[pictures[i] for i in row] for row in OWNED]
    prepared, _ = prepare(ours, ROWS, 4, owned)
    mask = np.asarray(prepared.mask)
    full = np.asarray(whole(ours.module, ours.params, prepared))
    assert prepared.pictures is not None

    @jax.jit
    def step(params, past, word, seen, at, pictures):
        hidden, new = extend(ours.module, params, None, word, seen, past, pictures=pictures)
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
        reads = prepared.pictures._replace(reads=prepared.pictures.reads[:, at : at + 1])
        out, past = step(ours.params, past, prepared.embeddings[:, at : at + 1], seen, at, reads)
        real = own[:, 0] == 1
        np.testing.assert_allclose(out[real], full[real, at], atol=1e-5)


def test_texts_that_follow_pictures(pair, pictures):
    import torch

    model, ours, processor = pair
    owned = [[pictures[i] for i in row] for row in OWNED]
    found = generate(ours, ROWS, 6, images=owned, stop_token_ids=())
    for row, ids in enumerate(ROWS):
        chosen = list(ids)
        for _ in range(6):
            chosen.append(int(torch_logits(model, processor, owned[row], chosen)[-1].argmax()))
        assert found[row].token_ids.tolist() == chosen[len(ids) :]
    answers = [[[7, 8], [9]], [[10]], [[11, 12, 13]], [[14]]]
    scored = score(ours, ROWS, answers, images=owned)
    for row, ids in enumerate(ROWS):
        for answer, ours_ in zip(answers[row], scored[row], strict=True):
            theirs = torch_logits(model, processor, owned[row], [*ids, *answer])
            logp = torch.tensor(theirs).log_softmax(-1).numpy()
            wanted = [logp[len(ids) - 1 + i, t] for i, t in enumerate(answer)]
            np.testing.assert_allclose(ours_.token_log_probs, wanted, atol=1e-4)
    blind = generate(ours, ROWS[2:3], 6, stop_token_ids=())[0]
    assert blind.token_ids.tolist() == found[2].token_ids.tolist()


def test_gradients(pair, pictures):
    """By what is read: of pixels and of words; and the layers computed again give the same."""
    import torch

    model, ours, processor = pair
    ids, owned = ROWS[0], [pictures[i] for i in OWNED[0]]
    inputs = torch_inputs(model, processor, owned, ids)
    inputs["pixel_values"].requires_grad_()
    words = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    weights = np.random.default_rng(3).standard_normal((1, len(ids), VOCABULARY), np.float32)
    (model(inputs_embeds=words, **inputs).logits * torch.tensor(weights)).mean().backward()
    mixed = ours.images.mix([ids], [owned])
    seats, reads = (jnp.asarray(x) for x in mixed.seats(1, len(ids)))

    def loss(read, params, module):
        tiles, words = read
        seen = see(module, params, tiles, jnp.asarray(mixed.ratios), seats, reads)
        hidden, _ = extend(
            module, params, None, words, jnp.ones((1, len(ids)), jnp.int32), pictures=seen
        )
        return (logits(module, params, hidden) * weights).mean()

    read = jnp.asarray(mixed.tiles), jnp.asarray(words.detach().numpy())
    gradients = jax.jit(jax.grad(loss), static_argnums=2)
    pixels, of_words = gradients(read, ours.params, ours.module)
    wanted = inputs["pixel_values"].grad[0].permute(0, 1, 3, 4, 2).numpy()
    assert np.abs(wanted).max() > 1e-4
    assert np.abs(pixels - wanted).max() <= 1e-5
    assert np.abs(of_words - words.grad.numpy()).max() <= 1e-5
    if pattern(ours.config.cross_layers, ours.config.text.num_layers)[1] > 1:
        again = gradients(read, ours.params, ours.with_hook(None, remat=True).module)
        np.testing.assert_allclose(again[0], pixels, atol=1e-7)


@pytest.mark.parametrize(("data", "along"), [(1, 2), (2, 4)])
@pytest.mark.parametrize("pair", ["even"], indirect=True)
def test_on_meshes_and_in_few_bits(pair, data, along, pictures, mesh):
    model, ours, _ = pair
    split = load_encoder(model.folder, mesh=mesh(data, along))
    assert isinstance(split, LanguageModel)
    crossing = split.params["language_model"]["crossing"]
    key, query = (crossing[name]["kernel"] for name in ("key", "query"))
    assert key.sharding.shard_shape(key.shape)[-1] == (8 if along == 2 else 16)  # whole heads
    assert query.sharding.shard_shape(query.shape)[-1] == 32 // along
    owned = [[pictures[i] for i in row] for row in OWNED]
    expected = generate(ours, ROWS, 6, images=owned, stop_token_ids=())
    for text, other in zip(
        expected, generate(split, ROWS, 6, images=owned, stop_token_ids=()), strict=True
    ):
        assert text.token_ids.tolist() == other.token_ids.tolist()
    kind = "int8" if along == 2 else "nf4"
    small = load_encoder(model.folder, quantize=kind)
    assert isinstance(small, LanguageModel)
    both = [
        np.asarray(whole(m.module, m.params, prepare(m, ROWS, 4, owned)[0])) for m in (small, ours)
    ]
    assert 1e-4 < np.abs(both[0] - both[1])[:, -1].mean() < 0.3


@pytest.mark.parametrize("pair", ["uneven"], indirect=True)
def test_names_of_the_hub_and_wrong_ones(pair, tmp_path):
    """On the hub the decoder's names have `language_model.` in front, and no `model.`."""
    from safetensors.numpy import load_file, save_file

    model, ours, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    word_tokenizer(tmp_path, VOCABULARY + 8)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)

    def of_hub(name: str) -> str:
        name = name.replace("model.language_model.", "language_model.model.")
        name = "language_model." + name if name.startswith("lm_head") else name
        return name.removeprefix("model.")

    old = {of_hub(name): tensor for name, tensor in tensors.items()}
    assert any(name.startswith("language_model.model.layers.3.cross_attn") for name in old)
    save_file(old, path)
    assert load_encoder(tmp_path).fingerprint == ours.fingerprint
    gate = old.pop("language_model.model.layers.3.cross_attn_attn_gate")
    norm = old.pop("vision_model.global_transformer.layers.1.input_layernorm.weight")
    old["language_model.model.layers.1.cross_attn_attn_gate"] = gate  # of a layer that reads words
    old["vision_model.gate"] = gate
    old["vision_model.layernorm_pre.weight"] = np.concatenate([norm, norm])
    save_file(old, path)
    with pytest.raises(MmjaxError) as error:
        load_encoder(tmp_path)
    for part in (
        "crossing/attention_gate for layers [1]",
        "vision/global_layers/norm1/scale for layers [1]",
        "unexpected language_model.model.layers.1.cross_attn_attn_gate",
        "unexpected vision_model.gate",
        "misshapen vision_model.layernorm_pre.weight: [32], expected [16]",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("pair", ["uneven"], indirect=True)
def test_wrong_numbers_are_refused(pair, tmp_path):
    model, _, processor = pair
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())

    def refused(place: str, change: dict[str, Any], message: str) -> None:
        changed = good | change if not place else good | {place: good[place] | change}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(MmjaxError, match=message) as error:
            load_encoder(tmp_path)
        assert "\n" not in str(error.value)

    for place, change, message in (
        ("text_config", {"cross_attention_layers": [0, 5]}, "not different ones of the 5 layers"),
        ("text_config", {"cross_attention_layers": [3, 3]}, "not different ones"),
        ("text_config", {"cross_attention_layers": [-1]}, r"cross_attention_layers\[0\]"),
        ("text_config", {"cross_attention_layers": [0, 1, 2, 3, 4]}, "no layer attends to words"),
        ("text_config", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("text_config", {"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ("", {"image_token_index": 68}, "not among the 68 tokens"),
        ("vision_config", {"vision_output_dim": 47}, "3 features of 16 are 48 wide"),
        ("vision_config", {"intermediate_layers_indices": [0, 3]}, "the 3 layers"),
        ("vision_config", {"patch_size": 3}, "image_size 8 is not a multiple"),
        ("vision_config", {"attention_heads": 3}, "is not a multiple"),
        ("vision_config", {"max_num_tiles": 3}, "not all arrangements"),
        ("vision_config", {"max_num_tiles": 0}, "max_num_tiles"),
        ("vision_config", {"norm_eps": 0}, "norm_eps"),
    ):
        refused(place, change, message)
    (tmp_path / "config.json").write_text(json.dumps(good))
    word_tokenizer(tmp_path, VOCABULARY + 8)
    for change, message in (
        ({"size": {"height": 9, "width": 8}}, "the model's tiles are 8 x 8"),
        ({"max_image_tiles": 3}, "but the model's is 4"),
        ({"do_pad": False}, "do_pad is false"),
        ({"image_std": [0, 1, 1]}, "image_std"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(change))
        with pytest.raises(MmjaxError, match=message):
            load_encoder(tmp_path)


def test_adapters_in_both_towers(models, pictures):
    from mmjax.adapters.lora import Lora

    _, ours, _ = models("even")
    owned = [[pictures[i] for i in row] for row in OWNED]
    hook = Lora(rank=2)
    adapted = ours.with_hook(hook, tower="image").with_hook(hook, tower="text")
    adapters = {
        tower: hook.init(jax.random.key(0), ours.frozen_layers(tower))
        for tower in ("image", "text")
    }
    plain = generate(ours, ROWS, 3, images=owned, stop_token_ids=())
    same = generate(adapted, ROWS, 3, images=owned, stop_token_ids=(), adapters=adapters)
    assert [x.token_ids.tolist() for x in plain] == [x.token_ids.tolist() for x in same]
    mixed = ours.images.mix(ROWS, owned)
    ids = jnp.asarray([[1, IMAGE, 6, 7]])
    seats, reads = jnp.array([[1]]), jnp.ones((1, 4, 1), bool)

    @jax.jit
    @jax.grad
    def gradient(adapters):
        own = [adapted.checked_adapters(adapters, tower) for tower in ("image", "text")]
        module, params = adapted.module, ours.params
        seen = see(
            module,
            params,
            jnp.asarray(mixed.tiles),
            jnp.asarray(mixed.ratios),
            seats,
            reads,
            own[0],
        )
        words = embed(module, params, ids)
        hidden, _ = extend(module, params, own[1], words, jnp.ones_like(ids), pictures=seen)
        return jnp.square(hidden).mean()

    found = gradient(adapters)
    for tower in adapters:
        by_layer = [
            np.abs(x).max(axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(found[tower])
        ]
        assert np.max(by_layer, axis=0).min() > 1e-9, tower  # every layer learns


def test_layers_repeat_in_the_shortest_block():
    assert pattern((3, 8, 13, 18, 23, 28, 33, 38), 32) == ((3, 0, 1), 8)  # of 11B
    assert pattern(tuple(range(3, 100, 5)), 80) == ((3, 0, 1), 20)  # of 90B
    assert pattern((1, 4), 4) == ((1, 0, 1), 2)
    assert pattern((0, 3), 3) == ((0, 2, 0, 1), 1)
    assert pattern((1, 2, 3), 1) == ((1, 0, 0, 0), 1)


def test_messages_prefixes_and_words_that_are_never_said(models, pictures):
    from mmjax.generation import cache_prefix, label_scores

    _, ours, _ = models("even")
    template = (
        "{% for m in messages %}{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}w60 {% else %}{{ p['text'] }} {% endif %}"
        "{% endfor %}{% endfor %}"
    )
    talking = dataclasses.replace(ours, chat=dataclasses.replace(ours.chat, template=template))
    parts = [{"type": "image", "image": pictures[1]}, {"type": "text", "text": "w6 w7"}]
    said = generate(talking, [[{"role": "user", "content": parts}]], 4, stop_token_ids=())
    plain = generate(ours, [[IMAGE, 6, 7]], 4, images=[[pictures[1]]], stop_token_ids=())
    assert said[0].token_ids.tolist() == plain[0].token_ids.tolist()
    prefix = cache_prefix(ours, [1, 5])
    behind = generate(ours, [[6, 7]], 4, prefix=prefix, stop_token_ids=())
    alone = generate(ours, [[1, 5, 6, 7]], 4, stop_token_ids=())
    assert behind[0].token_ids.tolist() == alone[0].token_ids.tolist()
    with pytest.raises(MmjaxError, match="a prefix would see them too"):
        generate(ours, [[IMAGE, 7]], 4, images=[[pictures[0]]], prefix=prefix)
    with pytest.raises(MmjaxError, match=r"1 image tokens .* but 2 pictures"):
        generate(ours, [[IMAGE, 7]], 4, images=[pictures[:2]])
    for ids in ([68], [-1]):
        with pytest.raises(MmjaxError, match="id"):
            generate(ours, [ids], 4)
    with pytest.raises(MmjaxError, match="60"):
        score(ours, [[5]], [[[IMAGE]]])
    with pytest.raises(MmjaxError, match="from 0 to 59"):
        score(ours, [[5]], [["w60"]])
    scores = label_scores(ours, [[IMAGE, 6], [5, 6]], ["w7", "w8"], images=[[pictures[0]], []])
    each = score(ours, [[IMAGE, 6]], [[[7], [8]]], images=[[pictures[0]]])[0]
    np.testing.assert_allclose(scores[0], [x.log_prob for x in each], atol=1e-5)
