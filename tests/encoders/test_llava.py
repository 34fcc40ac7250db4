"""LLaVA against what Hugging Face's torch models say: pictures, tiles, several in a prompt."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tokenizers import Tokenizer

from mmjax import trees
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import extend, logits
from mmjax.encoders.llava_images import LlavaImages, best_size, unpad
from mmjax.errors import MmjaxError
from mmjax.generation import generate, score
from mmjax.generation.prompts import prepare
from mmjax.synthesis.judge import looker_of

NAMES = ["llava_tiny", "llava_next_tiny"]
NARROW = 0.05  # what 89 of 3,000 values of a picture are worth that are one level off


@pytest.fixture
def make(folder):
    """Returns `make(name, ...)`: a golden LLaVA's folder, whose tokenizer has the image token."""

    def write(name, **options):
        path = folder(name, **options)
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.add_special_tokens(["<image>"])
        tokenizer.save(str(path / "tokenizer.json"))
        return path

    return write


def llava(source, **options) -> LanguageModel:
    model = load_encoder(source, **options)
    assert isinstance(model, LanguageModel)
    return model


@functools.partial(jax.jit, static_argnums=0)
def compiled(module, params, embeddings, mask):
    hidden, _ = extend(module, params, None, embeddings, mask)
    return logits(module, params, hidden)


def run(model, prepared):
    """Logits at every place of a prepared batch."""
    embeddings, mask = prepared[:2]
    return np.asarray(compiled(model.module, model.params, embeddings, mask))


def prompts_of(model, arrays):
    """(ids without the tokenizer's frame, pictures) of the golden's rows."""
    tokenizer = model.preprocess.tokenizer
    ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in arrays["texts"].tolist()]
    owned = json.loads(str(arrays["owned"]))
    return ids, [[arrays[f"picture_{i}"] for i in row] for row in owned]


def errors(model, arrays):
    """Largest difference of the logits to the golden's at real tokens, per row.

    Pillow 12 shrinks the narrow picture of row 1 to other pixels than 13, by which the golden was
    made; `tests/parity/test_llava.py` compares with whatever is installed.
    """
    ids, images = prompts_of(model, arrays)
    prepared, _ = prepare(model, ids, 1, images)
    ours = run(model, prepared)
    lengths = arrays["attention_mask"].sum(1)
    assert_array_equal(prepared.mask.sum(1), lengths)
    rows = zip(ours, arrays["logits"], lengths, strict=True)
    apart = [float(np.abs(a[-n:] - b[-n:]).max()) for a, b, n in rows]
    if PIL.__version__ < "13" and apart[1] < NARROW:
        apart[1] = 0.0
    return apart


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_torch_with_pictures_and_padding(name, make, golden):
    """Two pictures in a prompt, one, none; wide, tall, nearly square and small ones."""
    model, arrays = llava(make(name)), golden(name)
    assert model.images is not None
    mixed = model.images.mix(*prompts_of(model, arrays))
    for ids, row, mask in zip(
        mixed.ids, arrays["input_ids"], arrays["attention_mask"], strict=True
    ):
        assert_array_equal(ids, row[mask == 1])
    found = errors(model, arrays)
    assert max(found) <= 1e-5, found


@pytest.mark.parametrize(
    ("name", "change", "rows"),
    [
        ("llava_tiny", {"vision_feature_layer": -1}, [0, 1, 3]),
        ("llava_tiny", {"projector_hidden_act": "relu"}, [0, 1, 3]),
        ("llava_next_tiny", {"vision_feature_layer": 1}, [0, 1, 3]),
    ],
)
def test_parity_notices_a_wrong_constant(name, change, rows, make, golden):
    found = errors(llava(make(name, config=change)), golden(name))
    assert min(found[row] for row in rows) > 1e-3
    assert found[2] <= 1e-5  # the text without a picture


def old_layout(key: str) -> str:
    """What transformers before 4.52 saved."""
    key = key.removeprefix("model.").replace("language_model.", "language_model.model.")
    key = f"language_model.{key}" if key.startswith("lm_head") else key
    return key.replace("vision_tower.", "vision_tower.vision_model.")


@pytest.mark.parametrize("name", NAMES)
def test_both_key_layouts_are_one_model(name, make, golden):
    keys = [key for key in golden(name) if key.startswith("tensor:model.vision_tower")]
    assert keys  # the golden has the new one
    assert not any("vision_model" in key for key in keys)
    new = llava(make(name))
    old = llava(make(name, rename=old_layout))
    assert new.fingerprint == old.fingerprint
    assert max(errors(old, golden(name))) <= 1e-5


def test_what_is_not_read_is_not_loaded_and_what_lacks_is_missed(make):
    model = llava(make("llava_tiny"))
    layers = model.params["vision"]["layers"]["fc1"]["kernel"].shape[0]
    assert layers == 2  # of three, as the features are those before the last
    assert "norm" not in model.params["vision"]
    first = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    with pytest.raises(
        MmjaxError, match=r"nothing feeds vision/layers/fc1/kernel for layers \[0\]"
    ):
        llava(make("llava_tiny", drop=(first,)))
    extra = {"model.vision_tower.encoder.layers.3.mlp.fc1.weight": np.zeros((48, 24), np.float32)}
    with pytest.raises(MmjaxError, match=r"unexpected .*layers\.3"):
        llava(make("llava_tiny", tensors=extra))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llava_tiny", {"vision_feature_layer": -4}, "vision_feature_layer -4 is none of the 3"),
        ("llava_tiny", {"vision_feature_select_strategy": "all"}, "strategy 'all'"),
        ("llava_next_tiny", {"vision_feature_select_strategy": "full"}, "strategy 'full'"),
        ("llava_next_tiny", {"image_grid_pinpoints": [[20, 30]]}, r"\(20, 30\).* multiples of 20"),
        ("llava_tiny", {"text_config": {"model_type": "mistral"}}, "'mistral' is not supported"),
        ("llava_tiny", {"vision_config": {"model_type": "siglip_vision_model"}}, "'siglip"),
        ("llava_tiny", {"projector_hidden_act": "sine"}, "unknown activation 'sine'"),
    ],
)
def test_configs_that_are_not_supported(name, change, message, make):
    with pytest.raises(MmjaxError, match=message):
        load_encoder(make(name, config=change))


def test_pictures_of_another_size_than_the_towers(make):
    path = make("llava_tiny")
    content = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps(content | {"crop_size": 16}))
    with pytest.raises(
        MmjaxError, match="cut to 16 pixels, but the image tower was trained for 20"
    ):
        load_encoder(path)


def test_constants_in_the_processors_own_file(make, golden):
    """Transformers 5 saves them there."""
    path = make("llava_tiny")
    own = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(json.dumps({"image_processor": own}))
    assert max(errors(llava(path), golden("llava_tiny"))) <= 1e-5


@pytest.mark.slow
def test_int8_and_bfloat16(make, golden):
    path, arrays = make("llava_next_tiny"), golden("llava_next_tiny")
    small = llava(path, quantize="int8")
    kinds = {p.rsplit("/", 1)[-1]: x.dtype for p, x in trees.named_leaves(small.params)}
    assert kinds["kernel"] == jnp.int8
    assert kinds["image_newline"] == jnp.float32
    assert 1e-4 < max(errors(small, arrays)) < 0.3
    assert 1e-4 < max(errors(llava(path, dtype="bfloat16"), arrays)) < 0.3


def greedy(model, arrays, row, count):
    """One row by whole forward passes: each new token is appended to the row's embeddings."""
    ids, images = prompts_of(model, arrays)
    prepared, _ = prepare(model, [ids[row]], 1, [images[row]])
    real = np.asarray(prepared.embeddings)[0][np.asarray(prepared.mask)[0] == 1]
    table = np.asarray(model.params["language_model"]["embed_tokens"]["embedding"])
    tokens = []
    for _ in range(count):
        whole = np.concatenate([real, table[tokens]]) if tokens else real
        padded = np.zeros((1, 512, real.shape[1]), np.float32)
        padded[0, : len(whole)] = whole
        mask = (np.arange(512) < len(whole)).astype(np.int32)[None]
        tokens.append(int(run(model, (padded, mask))[0, len(whole) - 1].argmax()))
    return tokens


@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_generation_with_unequal_numbers_of_pictures(shape, make, golden, mesh):
    path, arrays = make("llava_next_tiny"), golden("llava_next_tiny")
    model = llava(path, mesh=None if shape is None else mesh(*shape))
    ids, images = prompts_of(model, arrays)
    found = generate(model, ids, 4, images=images, stop_token_ids=())
    whole = model if shape is None else llava(path)
    for row in range(len(ids)):
        assert found[row].token_ids.tolist() == greedy(whole, arrays, row, 4)


def test_scores_depend_on_the_picture(make, golden):
    model, arrays = llava(make("llava_tiny")), golden("llava_tiny")
    pictures = [arrays["picture_0"], arrays["picture_1"]]
    prompts, answers = [[5, 50, 6]] * 2, [[[20], [21, 22]]] * 2
    one, other = score(model, prompts, answers, images=[[p] for p in pictures])
    assert abs(one[0].log_prob - other[0].log_prob) > 1e-4
    prepared, _ = prepare(model, prompts[:1], 1, [pictures[:1]])
    last = jax.nn.log_softmax(run(model, prepared)[0, -1])
    assert_allclose(one[0].log_prob, last[20], atol=1e-4)


TEMPLATE = (
    "{% for m in messages %}{% for part in m.content %}{% if part.type == 'image' %}<image> "
    "{% else %}{% generation %}{{ part.text }} {% endgeneration %}{% endif %}{% endfor %}"
    "{% endfor %}"
)


def test_a_looker_weighs_yes_and_no_in_the_chats_form(make, golden):
    path, arrays = make("llava_tiny"), golden("llava_tiny")
    (path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    model = llava(path)
    pictures = [arrays["picture_0"], arrays["picture_1"]]
    looked = looker_of(model)(["w9 w8"] * 2, [["w5", "w6"]] * 2, pictures)
    expected = score(model, [[50, 9, 8]] * 2, [[[5], [6]]] * 2, images=[[p] for p in pictures])
    values, others = (
        [[one.log_prob for one in row] for row in each] for each in (looked, expected)
    )
    assert_allclose(values, others, atol=1e-6)
    assert abs(values[0][0] - values[1][0]) > 1e-4


def test_messages_may_hold_pictures(make, golden):
    path, arrays = make("llava_tiny"), golden("llava_tiny")
    (path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    model = llava(path)
    parts = [{"type": "image", "image": arrays["picture_0"]}, {"type": "text", "text": "w9 w8"}]
    (by_messages,) = generate(model, [[{"role": "user", "content": parts}]], 3)
    (by_ids,) = generate(model, [[50, 9, 8]], 3, images=[[arrays["picture_0"]]])
    assert_array_equal(by_messages.token_ids, by_ids.token_ids)


@pytest.mark.parametrize(
    ("prompts", "images", "message"),
    [
        (["w5 <image> w6", "w7"], [["a"], ["b"]], r"prompt 1 has 0 image tokens .* but 1 pict"),
        (["w5 <image> <image>"], [["a"]], r"prompt 0 has 2 image tokens \(id 50\) but 1 pictures"),
        (["w5 <image>"], None, "1 image tokens .* but 0 pictures"),
        (["w5 <image>"], [["a"], ["b"]], "1 prompts but 2 lists of pictures"),
        ([np.zeros((2, 32), np.float32)], [["a"]], "embeddings take no pictures"),
        (["w5 <image>"], [[b"no picture"]], "picture 0 cannot be read"),
    ],
)
def test_pictures_that_do_not_go_with_the_prompts(prompts, images, message, make, golden):
    picture = golden("llava_tiny")["picture_0"]
    given = images and [[picture if x in ("a", "b") else x for x in row] for row in images]
    with pytest.raises(MmjaxError, match=message):
        generate(llava(make("llava_tiny")), prompts, 2, images=given)


def test_a_model_without_eyes_says_so(folder):
    with pytest.raises(MmjaxError, match=r"\(llama\) reads no pictures; a LLaVA, a Qwen-VL or"):
        generate(llava(folder("llama_tiny")), [[5]], 2, images=[[np.zeros((4, 4, 3), np.uint8)]])


@pytest.mark.slow
def test_an_adapter_in_the_decoder(make, golden):
    model, arrays = llava(make("llava_tiny")), golden("llava_tiny")

    def scaled(adapter, place, x, y, kernel):
        return y * (1 + adapter["scale"][None, None]) if place == "attention_input" else y

    adapted = model.with_hook(scaled)
    ids, images = prompts_of(model, arrays)

    def tokens(vectors):
        adapters = {"scale": jnp.asarray(vectors, jnp.float32)}
        return generate(adapted, ids, 3, adapters=adapters, images=images)

    plain, same = generate(model, ids, 3, images=images), tokens(np.zeros((2, 32)))
    for a, b in zip(plain, same, strict=True):
        assert_array_equal(a.token_ids, b.token_ids)
        assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
    other = tokens(np.random.default_rng(0).standard_normal((2, 32)))
    changes = [np.abs(a.log_probs - b.log_probs).max() for a, b in zip(plain, other, strict=True)]
    assert max(changes) > 1e-3


def test_an_adapter_in_the_image_tower(make, golden):
    """Pictures become other embeddings, words stay what they are."""
    model, arrays = llava(make("llava_tiny")), golden("llava_tiny")

    def scaled(adapter, place, x, y, kernel):
        return y * (1 + adapter[None, None]) if place == "attention_input" else y

    adapted = model.with_hook(scaled, tower="image")
    ids, images = prompts_of(model, arrays)
    n, width = model.config.vision.num_layers, model.config.vision.hidden_size

    def embeddings(vectors):
        return prepare(adapted, ids, 1, images, {"image": jnp.asarray(vectors)})[0].embeddings

    plain = prepare(model, ids, 1, images)[0].embeddings
    assert_allclose(embeddings(np.zeros((n, width), np.float32)), plain, atol=1e-6)
    other = embeddings(np.full((n, width), 0.5, np.float32))
    changed = (np.abs(other - plain).max(axis=-1) > 1e-4).sum(axis=1)
    assert isinstance(model.images, LlavaImages)
    mixed = model.images.mix(ids, images)
    assert changed[: len(ids)].tolist() == [(places > 0).sum() for places in mixed.places]
    with pytest.raises(MmjaxError, match=r"in its image tower; pass adapters=\{'image': ...\}"):
        generate(adapted, ids, 2, images=images)


def test_sizes_by_hand():
    """What keeps most pixels wins, then what wastes least, then what comes first."""
    sizes = [(336, 672), (672, 336), (672, 672)]
    assert best_size(800, 300, sizes) == (672, 336)  # 672 x 252, as in the larger square
    assert best_size(500, 500, sizes) == (672, 672)  # all of it; the others keep 336 x 336
    assert best_size(100, 100, sizes) == (336, 672)  # all keep all of it
    grid = np.arange(100).reshape(10, 10)
    assert_array_equal(unpad(grid, 10, 7), grid[:, 1:9])  # 3 columns of padding: 1 on each side
    assert_array_equal(unpad(grid, 5, 10), grid[2:8])
    assert_array_equal(unpad(grid, 10, 10), grid)
