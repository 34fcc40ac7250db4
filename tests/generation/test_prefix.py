"""A shared prefix against the same tokens in front of every prompt."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.errors import MmjaxError
from mmjax.generation import cache_prefix, generate, label_scores, score
from mmjax.generation.labels import _next
from mmjax.generation.prefix import check_prefix
from mmjax.generation.prompts import prepare
from mmjax.generation.score import _score

BEGIN = [1, 21, 22, 23, 24, 25, 26, 27, 28, 29, 31]
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [4, 5], [30, 31, 32, 33]]
LABELS = ["w5 w6", "w7", "w40"]


def load(path, **options) -> LanguageModel:
    loaded = load_encoder(path, **options)
    assert isinstance(loaded, LanguageModel)
    return loaded


@pytest.fixture
def model(folder) -> LanguageModel:
    return load(folder("llama_tiny"))


def joined(prompts):
    return [[*BEGIN, *prompt] for prompt in prompts]


def scaled(adapter, place, x, y, kernel):
    return y * (1 + adapter["scale"][None, None]) if place == "attention_input" else y


def adapters_of(seed):
    vectors = np.random.default_rng(seed).standard_normal((2, 32)).astype(np.float32)
    return {"scale": jnp.asarray(vectors)}


@pytest.mark.parametrize("kind", ["plain", "split over a mesh", "int8 with an adapter"])
def test_a_prefix_says_what_it_says_in_front_of_every_prompt(kind, model, folder, mesh):
    whole, adapters = model, None
    if kind == "split over a mesh":
        model = load(folder("llama_tiny"), mesh=mesh(4, 2))
    if kind == "int8 with an adapter":
        whole = model = load(folder("llama_tiny"), quantize="int8").with_hook(scaled)
        adapters = adapters_of(0)
    prefix = cache_prefix(model, BEGIN, adapters)
    heads = 1 if kind == "split over a mesh" else 2
    assert prefix.length == len(BEGIN)
    assert prefix.past.keys.sharding.shard_shape(prefix.past.keys.shape) == (2, 1, heads, 11, 8)
    found = generate(model, PROMPTS, 6, adapters=adapters, prefix=prefix)
    for one, same in zip(
        found, generate(whole, joined(PROMPTS), 6, adapters=adapters), strict=True
    ):
        assert_array_equal(one.token_ids, same.token_ids)
        assert_allclose(one.log_probs, same.log_probs, atol=1e-5)
    answers = [[[5], [7], [40]], [[20], [21, 22, 23]], [[24, 25]], [], [[33], [34]]]
    rows = score(model, PROMPTS, answers, adapters, prefix=prefix)
    expected = score(whole, joined(PROMPTS), answers, adapters)
    assert [len(row) for row in rows] == [len(row) for row in answers]
    for row, same in zip(rows, expected, strict=True):
        for one, other in zip(row, same, strict=True):
            assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-5)
    found = label_scores(model, PROMPTS, LABELS, prefix, adapters)
    assert_allclose(found[0], [one.log_prob for one in rows[0]], atol=1e-5)


def test_a_prefix_is_refused_by_whatever_did_not_read_it(model, folder, mesh):
    adapted, own = model.with_hook(scaled), adapters_of(0)
    plain, adapted_prefix = cache_prefix(model, BEGIN), cache_prefix(adapted, BEGIN, own)
    # The same values in other arrays are the same adapters.
    assert check_prefix(adapted_prefix, adapted, adapters_of(0)) == len(BEGIN)
    for use, adapters, prefix, message in (
        (load(folder("llama_tied_tiny")), None, plain, "by another model than 'llama_tied_tiny'"),
        (load(folder("llama_tiny"), quantize="int8"), None, plain, "by another model"),
        (load(folder("llama_tiny"), mesh=mesh(2)), None, plain, "on another mesh"),
        (model, None, adapted_prefix, "with other adapters"),
        (adapted, own, plain, "with other adapters"),
        (adapted, adapters_of(1), adapted_prefix, "with other adapters"),
    ):
        with pytest.raises(MmjaxError, match=message):
            generate(use, [[5]], 2, adapters=adapters, prefix=prefix)
    with pytest.raises(MmjaxError, match="with other adapters"):
        score(adapted, [[5]], [[[6]]], own, prefix=plain)
    with pytest.raises(MmjaxError, match="with other adapters"):
        label_scores(adapted, [[5]], LABELS, plain, own)


def test_texts_begin_once(model):
    """[CLS] stands in front of the prefix alone, and no [SEP] between it and a prompt."""
    by_text = cache_prefix(model, " ".join(f"w{i}" for i in BEGIN[1:]))
    by_ids = cache_prefix(model, BEGIN)
    assert_array_equal(by_text.past.keys, by_ids.past.keys)
    table = np.asarray(model.params["embed_tokens"]["embedding"])
    by_embeddings = cache_prefix(model, table[BEGIN])
    assert_allclose(by_embeddings.past.values, by_ids.past.values, atol=1e-6)
    texts = [" ".join(f"w{i}" for i in prompt) for prompt in PROMPTS]
    found = label_scores(model, texts, LABELS, by_text)
    assert_allclose(found, label_scores(model, PROMPTS, LABELS, by_ids), atol=1e-6)


def test_the_prefix_takes_room(model):
    prefix = cache_prefix(model, list(range(4, 44)))  # of 64
    prepared, _ = prepare(model, [[5] * 20], 4, behind=prefix.length)
    assert prepared.mask.shape == (1, 24)
    with pytest.raises(MmjaxError, match="1 to 24 tokens in all behind a prefix of 40"):
        generate(model, [[5] * 21], 4, prefix=prefix)
    with pytest.raises(MmjaxError, match="behind a prefix of 40"):
        score(model, [[5] * 21], [[[6] * 4]], prefix=prefix)
    with pytest.raises(MmjaxError, match="behind a prefix of 40"):
        label_scores(model, [[5] * 24], LABELS, prefix)
    with pytest.raises(MmjaxError, match="a prefix of 64 tokens leaves no room"):
        cache_prefix(model, [5] * 64)


def test_what_is_no_prefix(model):
    for wrong, message in (
        ([], "no token"),
        ([50], "token id 50"),
        (np.zeros((2, 3), np.float32), r"the prefix is float32 \[2, 3\]"),
        ([{"role": "user", "content": "w5"}], "messages cannot stand behind a prefix"),
    ):
        with pytest.raises(MmjaxError, match=message):
            cache_prefix(model, wrong)
    prefix = cache_prefix(model, BEGIN)
    with pytest.raises(MmjaxError, match="messages cannot stand behind a prefix"):
        generate(model, [[{"role": "user", "content": "w5"}]], 2, prefix=prefix)


def test_no_row_of_scores_copies_the_prefix(model):
    """Or 32 rows would hold 32 times the keys of a prefix that is longer than all of them."""
    past = cache_prefix(model, [5] * 48).past
    prepared, _ = prepare(model, [[6, 7]] * 8, 1, behind=48)
    answers = np.zeros((8, 2, 1), np.int32)
    programs = (
        _score.lower(model.params, None, prepared, answers, answers, past, model.module, None),
        _next.lower(model.params, None, prepared, np.arange(3), past, model.module, None),
    )
    for rows, program in zip((16, 8), programs, strict=True):
        text = str(program.compile().as_text())
        assert re.search(r"\[2,48,8\]", text)  # a layer's keys
        assert not re.search(rf"\b{rows},2,48,8\]", text)


def test_pictures_stand_behind_a_prefix(write_folder, golden, tmp_path):
    path, arrays = write_folder(tmp_path / "llava", "llava_tiny"), golden("llava_tiny")
    model = load(path)
    pictures = [[arrays["picture_0"]], [arrays["picture_1"]]]
    prompts, begin = [[5, 50, 6], [50, 7]], [1, 9, 8]
    whole = [[*begin, *prompt] for prompt in prompts]
    prefix = cache_prefix(model, begin)
    found = generate(model, prompts, 3, images=pictures, prefix=prefix)
    for one, same in zip(found, generate(model, whole, 3, images=pictures), strict=True):
        assert_array_equal(one.token_ids, same.token_ids)
        assert_allclose(one.log_probs, same.log_probs, atol=1e-5)
    assert_allclose(
        label_scores(model, prompts, LABELS, prefix, images=pictures),
        label_scores(model, whole, LABELS, images=pictures),
        atol=1e-5,
    )
    with pytest.raises(MmjaxError, match="a prefix has no pictures"):
        cache_prefix(model, [1, 50])
