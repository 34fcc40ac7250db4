"""Generation against the slow twin: the whole text again for every token."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import embed, extend, logits
from mmjax.errors import MmjaxError
from mmjax.generation import Sampling, decode, generate

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [4, 5], [30, 31, 32, 33]]


@pytest.fixture
def model(folder) -> LanguageModel:
    loaded = load_encoder(folder("llama_tiny"))
    assert isinstance(loaded, LanguageModel)
    return loaded


@pytest.fixture(scope="module")
def next_log_probs():
    """Returns `next_log_probs(model, ids, adapters)`: the slow twin's, without cache or padding."""

    compiled = {}

    def run(model, ids, adapters=None):
        key = (model.module, adapters is None)
        if key not in compiled:
            compiled[key] = jax.jit(model.logits)
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(ids)] = ids
        mask = (np.arange(32) < len(ids)).astype(np.int32)[None]
        inputs = {"input_ids": padded, "attention_mask": mask}
        logits = compiled[key](model.params, inputs, adapters)[0, len(ids) - 1]
        return np.asarray(jax.nn.log_softmax(logits))

    return run


def greedy(next_log_probs, model, prompt, count, ends=(), adapters=None):
    ids, log_probs = list(prompt), []
    for _ in range(count):
        found = next_log_probs(model, ids, adapters)
        ids.append(int(found.argmax()))
        log_probs.append(found.max())
        if ids[-1] in ends:
            break
    return ids[len(prompt) :], log_probs


def test_greedy_equals_the_slow_twin_for_prompts_of_unequal_length(model, next_log_probs):
    for prompt, found in zip(PROMPTS, generate(model, PROMPTS, 12), strict=True):
        ids, log_probs = greedy(next_log_probs, model, prompt, 12)
        assert found.token_ids.tolist() == ids
        assert_allclose(found.log_probs, log_probs, atol=1e-4)
        assert not found.finished


def scaled(adapter, place, x, y, kernel):
    return y * (1 + adapter["scale"][None, None]) if place == "attention_input" else y


def test_an_adapter_is_in_place_while_decoding(model, next_log_probs):
    adapted = model.with_hook(scaled)
    vectors = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    adapters = {"scale": jnp.asarray(vectors)}
    found = generate(adapted, PROMPTS[:2], 8, adapters=adapters)
    for prompt, one, plain in zip(PROMPTS, found, generate(model, PROMPTS[:2], 8), strict=False):
        ids, log_probs = greedy(next_log_probs, adapted, prompt, 8, adapters=adapters)
        assert one.token_ids.tolist() == ids
        assert_allclose(one.log_probs, log_probs, atol=1e-4)
        assert np.abs(one.log_probs - plain.log_probs).max() > 1e-3


def test_legacy_positions_are_one_too_low_for_new_tokens(model):
    (one,) = generate(model, PROMPTS[:1], 6, decode_positions="legacy")
    ids = np.array([[*PROMPTS[0], *one.token_ids]])
    positions = np.array([[0, 1, 2, *range(2, 2 + len(one.token_ids))]])
    words = embed(model.module, model.params, jnp.asarray(ids))
    mask = jnp.ones(ids.shape, int)
    found = extend(model.module, model.params, None, words, mask, None, jnp.asarray(positions))
    scores = jax.nn.log_softmax(logits(model.module, model.params, found[0]))[0, 2:-1]
    assert one.token_ids.tolist() == scores.argmax(-1).tolist()
    assert_allclose(one.log_probs, scores.max(-1), atol=1e-4)
    (right,) = generate(model, PROMPTS[:1], 6)
    assert np.abs(right.log_probs[1] - one.log_probs[1]) > 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (4, 2), (8, 1)])
def test_meshes_give_what_one_device_gives(shape, model, folder, mesh):
    whole = generate(model, PROMPTS, 10)
    split = load_encoder(folder("llama_tiny"), mesh=mesh(*shape))
    assert isinstance(split, LanguageModel)
    for a, b in zip(whole, generate(split, PROMPTS, 10), strict=True):
        assert_array_equal(a.token_ids, b.token_ids)
        assert_allclose(a.log_probs, b.log_probs, atol=1e-4)


def test_the_cache_is_split_over_the_mesh(folder, mesh):
    split = load_encoder(folder("llama_tiny"), mesh=mesh(4, 2))
    assert isinstance(split, LanguageModel)
    prepared, _ = decode.prepare(split, PROMPTS, 8)
    keys = jax.random.split(jax.random.key(0), 8)
    options = decode.DecodeOptions(split.module, split.mesh, 16, ())
    state = decode.prefill(split.params, None, prepared, None, keys, options)
    layers, b, h, slots, c = state.past.keys.shape
    assert (layers, b, h, slots, c) == (2, 8, 2, 32, 8)
    assert state.past.keys.sharding.shard_shape(state.past.keys.shape) == (2, 2, 1, 32, 8)


def test_rows_end_at_their_own_end_token(model, next_log_probs):
    free = generate(model, PROMPTS, 12)
    ends = (int(free[0].token_ids[3]), int(free[2].token_ids[6]))
    for prompt, one in zip(PROMPTS, generate(model, PROMPTS, 12, stop_token_ids=ends), strict=True):
        ids, _ = greedy(next_log_probs, model, prompt, 12, ends)
        assert one.token_ids.tolist() == ids
        assert one.finished == (ids[-1] in ends)
        assert len(one.log_probs) == len(ids)


def test_the_loop_ends_with_the_last_row(model):
    prepared, _ = decode.prepare(model, PROMPTS[:1], 16)
    keys = jax.random.split(jax.random.key(0), 1)
    first = int(generate(model, PROMPTS[:1], 4)[0].token_ids[3])
    options = decode.DecodeOptions(model.module, None, 16, (first,))
    state = decode.prefill(model.params, None, prepared, None, keys, options)
    state = decode.decode(model.params, None, state, np.zeros(1, bool), 16, None, keys, options)
    assert int(state.step) <= 4
    assert bool(state.done.all())


def test_stop_strings_end_the_text_before_them(model):
    (free,) = generate(model, PROMPTS[:1], 20)
    words = free.text.split(" ")
    stop = f"{words[9]} {words[10]}"
    at = free.text.index(stop)
    pieces = []
    (one,) = generate(
        model, PROMPTS[:1], 20, stop=["never", stop], on_text=lambda row, t: pieces.append((row, t))
    )
    assert one.text == free.text[:at]
    assert one.finished
    assert "".join(piece for _, piece in pieces) == one.text  # no part of the stop string was shown
    assert {row for row, _ in pieces} == {0}
    assert len(one.token_ids) == len(free.text[: at + len(stop)].split(" "))


@pytest.mark.parametrize("look_every", [1, 8])
def test_streaming_shows_the_whole_text_in_pieces(model, look_every):
    pieces = [[], []]

    def show(row, text):
        assert text
        pieces[row].append(text)

    found = generate(model, PROMPTS[:2], 20, on_text=show, look_every=look_every)
    assert ["".join(row) for row in pieces] == [one.text for one in found]
    assert {len(row) for row in pieces} == {-(-20 // look_every)}
    with pytest.raises(MmjaxError, match="look_every 0 must be at least 1"):
        generate(model, PROMPTS[:2], 20, look_every=0)


def test_calls_in_the_same_buckets_compile_nothing(model):
    programs: Any = (decode.prefill, decode.decode)
    generate(model, PROMPTS[:3], 9)
    sizes = [f._cache_size() for f in programs]
    generate(model, [[7, 8, 9, 10], [6], [4], [5, 6]], 14)
    generate(model, PROMPTS[:4], 16, stop=["nothing"])
    assert [f._cache_size() for f in programs] == sizes
    options = Sampling(0.7, top_k=5), Sampling(1.3, top_p=0.5)
    generate(model, PROMPTS[:3], 9, options[0], jax.random.key(0))
    sizes = [f._cache_size() for f in programs]
    generate(model, PROMPTS[:3], 9, options[1], jax.random.key(1))
    assert [f._cache_size() for f in programs] == sizes


def test_sampling_depends_on_the_key_and_not_on_the_neighbours(model):
    draw = Sampling(temperature=2.0)
    key = jax.random.key(3)
    three = generate(model, PROMPTS[:3], 10, draw, key)
    again = generate(model, PROMPTS[:1], 10, draw, key)
    other = generate(model, PROMPTS[:3], 10, draw, jax.random.key(4))
    assert_array_equal(three[0].token_ids, again[0].token_ids)
    assert any((a.token_ids != b.token_ids).any() for a, b in zip(three, other, strict=True))


def test_embeddings_and_texts_may_be_prompts(model):
    table = np.asarray(model.params["embed_tokens"]["embedding"])
    by_ids = generate(model, PROMPTS[:2], 8)
    by_embeddings = generate(model, [table[prompt] for prompt in PROMPTS[:2]], 8)
    by_text = generate(model, ["w5 w6 w7"], 8)  # the tokenizer frames it: [CLS] w5 w6 w7 [SEP]
    assert_array_equal(by_text[0].token_ids, generate(model, [[1, 5, 6, 7, 2]], 8)[0].token_ids)
    for a, b in zip(by_ids, by_embeddings, strict=True):
        assert_array_equal(a.token_ids, b.token_ids)


def test_int8_decodes_as_its_own_full_forward(folder, next_log_probs):
    model = load_encoder(folder("llama_tiny"), quantize="int8")
    assert isinstance(model, LanguageModel)
    ids, log_probs = greedy(next_log_probs, model, PROMPTS[0], 8)
    (found,) = generate(model, PROMPTS[:1], 8)
    assert found.token_ids.tolist() == ids
    assert_allclose(found.log_probs, log_probs, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[5], []]}, "no token"),
        ({"prompts": [list(range(4, 40))], "max_new_tokens": 29}, "36 tokens and 29 new ones"),
        ({"prompts": [[5]], "max_new_tokens": 0}, "max_new_tokens 0"),
        ({"prompts": [[5]], "sampling": Sampling()}, "pass key="),
        ({"prompts": [[5]], "sampling": Sampling(temperature=0.0)}, "temperature 0.0"),
        ({"prompts": [[5]], "sampling": Sampling(top_p=0.0)}, "top_p 0.0"),
        ({"prompts": [[5], np.zeros((2, 32), np.float32)]}, "all prompts as embeddings"),
    ],
)
def test_what_cannot_be_continued(arguments, message, model):
    with pytest.raises(MmjaxError, match=message):
        generate(model, **arguments)


def test_no_prompts_are_no_work(model):
    assert generate(model, []) == []
