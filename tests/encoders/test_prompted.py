"""Learnt vectors in frozen text towers: the towers' own vectors change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.encoders import load_encoder
from mmjax.encoders.prompted import (
    embed_from_embeddings,
    frame_of,
    lay_out,
    read_embeddings,
    vectors_of,
    word_table,
    words_of,
)
from mmjax.errors import MmjaxError

TOWERS = ["bert_tiny", "xlmr_tiny", "clip_tiny", "chinese_clip_tiny"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory, write_folder):
    return load_encoder(write_folder(tmp_path_factory.mktemp("e") / "bert", "bert_tiny"))


@pytest.mark.parametrize("name", TOWERS)
def test_the_towers_own_vectors_give_the_ordinary_path_bit_for_bit(name, folder):
    encoder = load_encoder(folder(name), tower="text")
    ids = np.array([[5, 40, 30, 45, 49], [7, 8, 49, 1, 1]], np.int32)  # 49: CLIP sees an end
    mask = np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32)

    @jax.jit
    def ordinary(params):
        return encoder.apply(params, {"input_ids": ids, "attention_mask": mask}).pooled

    @jax.jit
    def injected(params, vectors):
        return embed_from_embeddings(encoder, params, vectors, jnp.asarray(ids), jnp.asarray(mask))

    own = vectors_of(encoder.params, ids)
    np.testing.assert_array_equal(injected(encoder.params, own), ordinary(encoder.params))
    moved = injected(encoder.params, own.at[0, 1].add(0.1))
    assert not np.array_equal(moved[0], ordinary(encoder.params)[0])
    np.testing.assert_allclose(moved[1], ordinary(encoder.params)[1], atol=1e-6)


@pytest.mark.parametrize("output", ["tokens", "tokens_deep"])
def test_a_language_adapter_reads_the_tokens_of_prompts_as_of_any_text(bert, output):
    texts = bert.preprocess(["w9 w8", "w7"], pad_to=(6,))
    inputs = {"input_ids": texts.input_ids, "attention_mask": texts.attention_mask}
    ordinary = bert.apply(bert.params, inputs)
    vectors = vectors_of(bert.params, texts.input_ids)
    found, mask = read_embeddings(
        bert,
        bert.params,
        vectors,
        jnp.asarray(texts.input_ids),
        jnp.asarray(texts.attention_mask),
        output=output,
    )
    np.testing.assert_allclose(found, ordinary.select(output), atol=1e-6)
    np.testing.assert_array_equal(mask, texts.attention_mask)


def test_words_that_an_encoder_puts_before_every_text_frame_prompts_too(bert):
    # E5 reads "query: " before a text; a prompt without it would be read as nothing it knows.
    named = {"prompts": {"query": "w5 w6 "}, "default_prompt": "query"}
    e5 = dataclasses.replace(bert, preprocess=dataclasses.replace(bert.preprocess, **named))
    texts = e5.preprocess.tokenize(["w9", "w8 w7"]).ids
    layout = lay_out(e5, ["w9", "w8 w7"], general=0, instance=0)
    assert [list(r[: m.sum()]) for r, m in zip(layout.ids, layout.mask, strict=True)] == texts
    learnt = lay_out(e5, ["w9"], general=1, instance=1)
    np.testing.assert_array_equal(learnt.slots, [[-1, -1, -1, 0, -1, 1, -1]])


def test_a_tower_without_words_is_refused():
    with pytest.raises(MmjaxError, match="expected a BERT or CLIP's text tower"):
        word_table({"cls_token": jnp.zeros(3)})


def test_parts_stand_in_their_order(bert):
    assert frame_of(bert) == ([1], [2])
    layout = lay_out(bert, ["w9", "w8 w7"], general=2, instance=1)
    np.testing.assert_array_equal(
        layout.slots, [[-1, 0, 1, -1, 2, -1, -1], [-1, 0, 1, -1, -1, 2, -1]]
    )
    words = np.where(layout.slots < 0, layout.ids, -9)
    np.testing.assert_array_equal(words, [[1, -9, -9, 9, -9, 2, 0], [1, -9, -9, 8, 7, -9, 2]])
    np.testing.assert_array_equal(layout.mask.sum(axis=1), [6, 7])
    without = lay_out(bert, ["w9", "w8 w7"], general=2, instance=1, domain=False)
    np.testing.assert_array_equal(without.slots, [[-1, 0, 1, 3, 2, -1]] * 2)
    # What holds a learnt vector's place is never the largest id, where older CLIPs see an end.
    assert layout.ids[layout.slots >= 0].max() == 7


def test_words_in_the_learnt_places_make_the_text_that_coop_trains_on(bert):
    # CoOp's prompts are "X X X X {class}.": a context read without the full stop means less.
    layout = lay_out(bert, ["w9", "w8 w7"], general=2, instance=0, ending=".")
    (context,) = words_of(bert, ["w4 w5"])
    ids = np.where(layout.slots >= 0, np.asarray(context)[np.maximum(layout.slots, 0)], layout.ids)
    texts = bert.preprocess.tokenize(["w4 w5 w9.", "w4 w5 w8 w7."], prompt="").ids
    assert [list(row[: mask.sum()]) for row, mask in zip(ids, layout.mask, strict=True)] == texts
    # The picture's own tokens stand between the name and the end.
    instance = lay_out(bert, ["w9"], general=1, instance=1, ending=". .")
    np.testing.assert_array_equal(instance.slots, [[-1, 0, -1, 1, -1, -1, -1]])


def test_names_that_cannot_be_read_are_named(bert):
    with pytest.raises(MmjaxError, match=r"class names \['  '\] have no token"):
        words_of(bert, ["w4", "  "])
    short = dataclasses.replace(bert, preprocess=dataclasses.replace(bert.preprocess, max_length=6))
    with pytest.raises(MmjaxError, match="class names such as 'w4 w4 w4 w4 w4' are longer than th"):
        words_of(short, ["w4", "w4 w4 w4 w4 w4"])
    with pytest.raises(MmjaxError, match=r"of class 'w4 w5 w6' has 7 tokens \(1 General, 3 of the"):
        lay_out(short, ["w4", "w4 w5 w6"], general=1, instance=1)
