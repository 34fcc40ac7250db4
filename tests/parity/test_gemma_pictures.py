"""Gemma 3 with pictures beside Hugging Face's torch class: pooled tokens that read one another."""

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
from mmjax.adapters.lora import Lora
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.gemma_images import GemmaImages
from mmjax.encoders.language_model import extend, logits, mix, read_tiles
from mmjax.encoders.llama import KeyValues
from mmjax.generation import cache_prefix, generate, label_scores, score
from mmjax.generation.prompts import prepare
from tests.parity.small import around_one, randomize

pytestmark = pytest.mark.parity

PICTURE, BEGIN, END = 50, 51, 52
TEXT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT |= {"intermediate_size": 48, "vocab_size": 60, "num_key_value_heads": 2, "head_dim": 12}
TEXT |= {"query_pre_attn_scalar": 20, "sliding_window": 5, "max_position_embeddings": 128}
TEXT |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "sliding_window_pattern": 3}
VISION: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"intermediate_size": 24, "image_size": 24, "patch_size": 4, "vision_use_head": False}
COUNT = 9  # tokens of a picture: 6 x 6 patches, four to a token
TOP: dict[str, Any] = {"image_token_index": PICTURE, "boi_token_index": BEGIN}
TOP["eoi_token_index"] = END
SIZES = [(30, 21), (9, 60), (24, 24), (8, 5)]  # height, width
ROWS = [
    [2, 5, BEGIN, PICTURE, END, 6, 7, BEGIN, PICTURE, END, 8],
    [2, 9, BEGIN, PICTURE, END],
    [2, 10, 11, 12],
    [PICTURE, 13, 14, 15],
]
OWNED = [[0, 3], [1], [], [2]]


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)) for size in SIZES]


def tokenizer() -> Any:
    """Words, runs of newlines, and a Gemma's own tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

    words = {f"w{i}": i for i in range(60)}
    for name, i in {"\n": 40, "\n\n": 41, "\n\n\n": 42, "user": 43, "model": 44}.items():
        words = {k: v for k, v in words.items() if v != i} | {name: i}
    named = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<turn>": 45, "</turn>": 46}
    named |= {"<image_soft_token>": PICTURE, "<start_of_image>": BEGIN, "<end_of_image>": END}
    for name, i in named.items():
        words = {k: v for k, v in words.items() if v != i} | {name: i}
    made = Tokenizer(models.WordLevel(words, unk_token="w3"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+|[^\n ]+"), "removed", invert=True)
    made.add_special_tokens([AddedToken(name, special=True) for name in named])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    return made


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Any, LanguageModel, Any]:
    """(Torch model, ours, transformers' processor)."""
    import transformers
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    folder = tmp_path_factory.mktemp("gemma3")
    config = transformers.Gemma3Config(
        text_config=TEXT, vision_config=VISION, mm_tokens_per_image=COUNT, **TOP
    )
    model = around_one(randomize(transformers.Gemma3ForConditionalGeneration(config)))
    model.save_pretrained(folder)
    images = Gemma3ImageProcessorPil(
        size={"height": 24, "width": 24}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    images.save_pretrained(folder)
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    names |= {"image_token": "<image_soft_token>"}
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        extra_special_tokens=names,
    )  # fmt: skip
    tokenizer().save(str(folder / "tokenizer.json"))
    said = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    ours = load_encoder(folder)
    assert isinstance(ours, LanguageModel)
    model.folder = folder
    processor = transformers.Gemma3Processor(
        images, words, image_seq_length=COUNT, chat_template=TEMPLATE
    )
    return model, ours, processor


# As the published one: the first special token is written, and a picture is its first token alone.
TEMPLATE = """{{ bos_token }}{% for message in messages -%}
{{ '<turn>' + message['role'] + '\n' }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- else -%}{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
{%- else -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
{%- endif -%}{{ '</turn>\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<turn>model\n' }}{%- endif -%}"""


def torch_logits(pair, pictures, ids) -> Any:
    """Of one text, its image tokens repeated."""
    import torch

    model, _, processor = pair
    tensors: dict[str, Any] = {"input_ids": torch.tensor([list(ids)])}
    tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
    if pictures:
        found = processor.image_processor(pictures, return_tensors="pt")
        tensors["pixel_values"] = found["pixel_values"]
        tensors["token_type_ids"] = (tensors["input_ids"] == PICTURE).int()
    with torch.no_grad():
        return model(**tensors).logits[0].numpy()


def owned_by(pictures):
    return [[pictures[i] for i in row] for row in OWNED]


@functools.partial(jax.jit, static_argnums=0)
def whole(module, params, prepared):
    hidden, _ = extend(
        module, params, None, prepared.embeddings, prepared.mask, together=prepared.together
    )
    return logits(module, params, hidden)


def test_pictures_are_prepared_as_their_processor_prepares_them(pair, pictures):
    _, ours, processor = pair
    assert isinstance(ours.images, GemmaImages)
    found = ours.images.preprocess(pictures)
    theirs = processor.image_processor(pictures, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found, theirs.transpose(0, 2, 3, 1), atol=1e-6)


def test_the_tower_and_its_pooled_tokens(pair, pictures):
    import torch

    model, ours, processor = pair
    pixels = ours.images.preprocess(pictures)
    found = jax.jit(read_tiles, static_argnums=0)(ours.module, ours.params, jnp.asarray(pixels))
    theirs = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model.get_image_features(theirs).pooler_output.numpy()
    assert output.shape == (4, COUNT, 32)
    assert np.abs(output).max() > 0.5
    assert np.abs(found - output).max() <= 1e-5


def test_logits_and_cached_decoding_with_pictures(pair, pictures):
    _, ours, _ = pair
    owned = owned_by(pictures)
    prepared, rows = prepare(ours, ROWS, 4, owned)
    assert rows == 4
    full, mask = np.asarray(whole(ours.module, ours.params, prepared)), np.asarray(prepared.mask)
    mixed = ours.images.mix(ROWS, owned)
    for row, ids in enumerate(mixed.ids):
        theirs = torch_logits(pair, owned[row], ids)
        assert np.abs(full[row, -len(ids) :] - theirs).max() <= 1e-5
    plain = np.asarray(whole(ours.module, ours.params, prepared._replace(together=None)))
    assert np.abs(plain - full)[0, -3:].max() > 1e-3  # pictures' tokens see what follows them
    assert np.abs(plain - full)[2, -4:].max() == 0

    # A prompt is read at once, its pictures whole; then word by word.
    @jax.jit
    def step(params, past, word, seen, at):
        hidden, new = extend(ours.module, params, None, word, seen, past)
        past = jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, at, axis=3), past, new
        )
        return logits(ours.module, params, hidden)[:, 0], past

    @jax.jit
    def begin(params, embeddings, seen, together):
        return extend(ours.module, params, None, embeddings, seen, together=together)[1]

    n, start = mask.shape[1], 30  # behind the last picture of the rows 0 and 3
    embeddings, together = prepared.embeddings, prepared.together
    assert together is not None
    assert not np.asarray(together)[[0, 3], start:].any()
    parts = (x[:, :start] for x in (embeddings, mask, together))
    past = begin(ours.params, *parts)
    past = KeyValues(*(jnp.pad(x, [(0, 0)] * 3 + [(0, n - start), (0, 0)]) for x in past))
    for at in range(start, n):
        own = mask[:, at : at + 1]
        seen = np.concatenate([mask * (np.arange(n) < at), own], axis=1)
        out, past = step(ours.params, past, embeddings[:, at : at + 1], seen, at)
        np.testing.assert_allclose(out[jnp.array([0, 3])], full[[0, 3], at], atol=1e-5)


def test_texts_that_follow_pictures(pair, pictures):
    import torch

    _, ours, _ = pair
    owned = owned_by(pictures)
    found = generate(ours, ROWS, 6, images=owned, stop_token_ids=())
    mixed = ours.images.mix(ROWS, owned)
    for row, ids in enumerate(mixed.ids):
        chosen = ids.tolist()
        for _ in range(6):
            chosen.append(int(torch_logits(pair, owned[row], chosen)[-1].argmax()))
        assert found[row].token_ids.tolist() == chosen[len(ids) :]
    answers = [[[7, 8], [9]], [[10]], [[11, 12, 13]], [[14]]]
    scored = score(ours, ROWS, answers, images=owned)
    for row, ids in enumerate(mixed.ids):
        for answer, ours_ in zip(answers[row], scored[row], strict=True):
            theirs = torch_logits(pair, owned[row], [*ids, *answer])
            logp = torch.tensor(theirs).log_softmax(-1).numpy()
            wanted = [logp[len(ids) - 1 + i, t] for i, t in enumerate(answer)]
            np.testing.assert_allclose(ours_.token_log_probs, wanted, atol=1e-4)
    two = label_scores(ours, ROWS, ["w7", "w9"], images=owned)
    each = score(ours, ROWS, [[[7], [9]]] * 4, images=owned)
    np.testing.assert_allclose(two, [[x.log_prob for x in row] for row in each], atol=1e-5)


def test_gradients_of_pixels_and_words(pair, pictures):
    import torch

    model, ours, processor = pair
    owned = owned_by(pictures)[0]
    mixed = ours.images.mix(ROWS[:1], [owned])
    tensors = processor.image_processor(owned, return_tensors="pt")
    pixels = tensors["pixel_values"].requires_grad_()
    ids = torch.tensor(mixed.ids[0][None])
    weights = np.random.default_rng(3).standard_normal((1, ids.shape[1], 60), np.float32)
    output = model(input_ids=ids, pixel_values=pixels, token_type_ids=(ids == PICTURE).int())
    (output.logits * torch.tensor(weights)).mean().backward()
    rows = [jnp.asarray(x[0][None]) for x in (mixed.ids, mixed.places)]

    @jax.jit
    @jax.grad
    def gradient(tiles):
        words = mix(ours.module, ours.params, rows[0], tiles, rows[1])
        mask = jnp.ones_like(rows[0])
        hidden, _ = extend(ours.module, ours.params, None, words, mask, together=rows[1] >= 0)
        return (logits(ours.module, ours.params, hidden) * weights).mean()

    assert pixels.grad is not None
    wanted = pixels.grad.numpy().transpose(0, 2, 3, 1)
    assert np.abs(wanted).max() > 1e-5
    assert np.abs(gradient(jnp.asarray(mixed.tiles)) - wanted).max() <= 1e-5


def test_texts_and_messages_are_spelt_as_their_processor_spells_them(pair, pictures):
    """Newlines around a picture join those beside them, so a text is changed before it is cut."""
    _, ours, processor = pair
    begin = "<start_of_image>"
    texts = [f"w5 {begin}w6", f"w5\n{begin}\nw7{begin}", f"{begin}"]
    for text in texts:
        pictured = pictures[: text.count(begin)]
        theirs = processor(text=text, images=pictured, return_tensors="np")
        ids = ours.images.mix([ours.encode_prompt(text)], [pictured]).ids[0]
        np.testing.assert_array_equal(ids, theirs["input_ids"][0])
        np.testing.assert_array_equal(ids == PICTURE, theirs["token_type_ids"][0])
    parts = [{"type": "image"}, {"type": "text", "text": " w6 "}, {"type": "image"}]
    talk: Any = [
        {"role": "user", "content": parts},
        {"role": "model", "content": "w8"},
        {"role": "user", "content": "w9"},
    ]
    text = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    theirs = processor(
        text=text, images=pictures[:2], return_tensors="np", add_special_tokens=False
    )
    ids = ours.encode_prompt(talk)
    assert ids.count(2) == 1  # the template's, and none of the tokenizer's own
    ids = ours.images.mix([ids], [pictures[:2]]).ids[0]
    np.testing.assert_array_equal(ids, theirs["input_ids"][0])
    shown = [{"type": "image", "image": pictures[1]}, {"type": "text", "text": "w6"}]
    said = generate(ours, [[{"role": "user", "content": shown}]], 4, stop_token_ids=())
    one = f"<turn>user\n{begin}w6</turn>\n<turn>model\n"
    plain = generate(ours, [one], 4, images=[[pictures[1]]], stop_token_ids=())
    assert said[0].token_ids.tolist() == plain[0].token_ids.tolist()
    prefix = cache_prefix(ours, "w5 w6 w7")
    behind = generate(
        ours, [f"{begin}w8"], 4, images=[pictures[:1]], stop_token_ids=(), prefix=prefix
    )
    alone = generate(ours, [f"w5 w6 w7{begin}w8"], 4, images=[pictures[:1]], stop_token_ids=())
    assert behind[0].token_ids.tolist() == alone[0].token_ids.tolist()
    scores = [
        score(ours, [p], [[[7, 8], [9]]], images=[pictures[:1]], prefix=own)[0]
        for p, own in ((f"{begin}w8", prefix), (f"w5 w6 w7{begin}w8", None))
    ]
    for one, other in zip(*scores, strict=True):
        np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-5)
    with pytest.raises(MmjaxError, match="a prefix has no pictures"):
        cache_prefix(ours, f"w5 {begin}")
    with pytest.raises(MmjaxError, match=r"1 image tokens .* but 2 pictures"):
        generate(ours, [f"{begin}w5"], 4, images=[pictures[:2]])
    blind = dataclasses.replace(ours, images=None)
    assert blind.encode_prompt(texts[0]).count(PICTURE) == 0


@pytest.mark.parametrize(("data", "along"), [(1, 2), (2, 4)])
def test_on_meshes_in_few_bits_and_adapted(pair, data, along, pictures, mesh):
    model, ours, _ = pair
    owned = owned_by(pictures)
    split = load_encoder(model.folder, mesh=mesh(data, along))
    assert isinstance(split, LanguageModel)
    attention = split.params["language_model"]["layers"]["attention"]
    key, query = (attention[name]["kernel"] for name in ("key", "query"))
    assert key.sharding.shard_shape(key.shape)[-1] == (12 if along == 2 else 24)  # whole heads
    assert query.sharding.shard_shape(query.shape)[-1] == 48 // along
    fc1 = split.params["vision"]["layers"]["fc1"]["kernel"]
    assert fc1.sharding.shard_shape(fc1.shape)[-1] == 24 // along
    expected = generate(ours, ROWS, 6, images=owned, stop_token_ids=())
    hook = Lora(rank=2)
    adapted = split.with_hook(hook, tower="image").with_hook(hook, tower="text")
    adapters = {
        tower: hook.init(jax.random.key(0), ours.frozen_layers(tower))
        for tower in ("image", "text")
    }
    found = generate(adapted, ROWS, 6, images=owned, stop_token_ids=(), adapters=adapters)
    for text, other in zip(expected, found, strict=True):
        assert text.token_ids.tolist() == other.token_ids.tolist()
    small = load_encoder(model.folder, quantize="int8" if along == 2 else "nf4")
    assert isinstance(small, LanguageModel)
    both = [
        np.asarray(whole(m.module, m.params, prepare(m, ROWS, 4, owned)[0])) for m in (small, ours)
    ]
    assert 1e-5 < np.abs(both[0] - both[1])[:, -1].mean() < 0.1


def test_names_of_the_hub_and_wrong_ones(pair, tmp_path):
    from safetensors.numpy import load_file, save_file

    model, ours, processor = pair
    model.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "model.safetensors"

    def of_hub(name: str) -> str:
        name = name.replace("model.language_model.", "language_model.model.")
        name = name.removeprefix("model.")
        if "vision_model" not in name:
            name = name.replace("vision_tower.", "vision_tower.vision_model.")
        return name

    old = {of_hub(name): tensor for name, tensor in load_file(path).items()}
    assert "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias" in old
    old["vision_tower.vision_model.head.probe"] = np.zeros((1, 1, 16), np.float32)  # not read
    save_file(old, path)
    assert load_encoder(tmp_path).fingerprint == ours.fingerprint
    norm = old.pop("multi_modal_projector.mm_soft_emb_norm.weight")
    old["multi_modal_projector.linear.weight"] = norm
    old["language_model.model.norm.weight"] = norm
    save_file(old, path)
    with pytest.raises(MmjaxError) as caught:
        load_encoder(tmp_path)
    for part in (
        "soft_norm/scale",
        "unexpected multi_modal_projector.linear.weight",
        "misshapen language_model.model.norm.weight: [16], expected [32]",
    ):
        assert part in str(caught.value)


def test_wrong_numbers_are_refused(pair, tmp_path):
    model, _, processor = pair
    model.config.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    good = json.loads((tmp_path / "config.json").read_text())

    def refused(place: str, change: dict[str, Any], message: str) -> None:
        changed = good | change if not place else good | {place: good[place] | change}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(MmjaxError, match=message) as error:
            load_encoder(tmp_path)
        assert "\n" not in str(error.value)

    for place, change, message in (
        ("", {"mm_tokens_per_image": 8}, "mm_tokens_per_image 8 is not the square"),
        ("", {"mm_tokens_per_image": 16}, "divides the 6 patches"),
        ("", {"image_token_index": 60}, "not among the 60 tokens"),
        ("", {"boi_token_index": 60}, "boi_token_index"),
        ("vision_config", {"model_type": "clip_vision_model"}, "'siglip_vision_model'"),
        ("text_config", {"model_type": "llama"}, "'gemma3_text'"),
        ("vision_config", {"num_attention_heads": 3}, "is not a multiple"),
        ("text_config", {"final_logit_softcapping": 30.0}, "Gemma 3 has none"),
    ):
        refused(place, change, message)
    (tmp_path / "config.json").write_text(json.dumps(good))
    path = tmp_path / "preprocessor_config.json"
    own = json.loads(path.read_text())
    for change, message in (
        ({"size": {"height": 28, "width": 28}}, "pictures are cut to 28 pixels"),
        ({"do_pan_and_scan": True}, "do_pan_and_scan"),
        ({"image_std": [0, 1, 1]}, "image_std"),
    ):
        path.write_text(json.dumps(own | change))
        with pytest.raises(MmjaxError, match=message):
            load_encoder(tmp_path)
