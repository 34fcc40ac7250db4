"""Texts to ids: frame, prompt, cut, pad."""

import dataclasses
import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mmjax.data.library import Library
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.padding import bucket
from mmjax.errors import MmjaxError
from mmjax.generation import score
from mmjax.specs.spec import EncoderSpec


@pytest.fixture
def preprocess(folder):
    return load_encoder(folder("bert_tiny")).preprocess


def test_padding_and_truncation_of_the_file_are_switched_off(preprocess):
    batch = preprocess(["w4 w5", "w6", " ".join(["w7"] * 9)])
    assert_array_equal(batch.input_ids[0], [1, 4, 5, 2] + [0] * 8)
    assert_array_equal(batch.attention_mask.sum(1), [4, 3, 11])
    assert batch.input_ids.shape == (3, 12)  # the next bucket, not the file's 128
    assert batch.input_ids.dtype == np.int32
    assert batch.num_truncated == 0


def test_a_long_text_keeps_its_closing_token_and_is_counted(preprocess):
    batch = preprocess(["w4 " * 50, "w5"], max_length=6)
    assert_array_equal(batch.input_ids, [[1, 4, 4, 4, 4, 2], [1, 5, 2, 0, 0, 0]])
    assert batch.num_truncated == 1


def test_an_empty_text_is_its_frame_only(preprocess):
    assert_array_equal(preprocess([""]).input_ids, [[1, 2, 0, 0]])
    assert preprocess([]).input_ids.shape[0] == 0


@pytest.mark.parametrize("limit", [2, 17])
def test_limits_that_cannot_be(limit, preprocess):
    with pytest.raises(MmjaxError, match=f"max_length {limit} is out of range; .* 3 to 16"):
        preprocess(["w4"], max_length=limit)


def test_something_that_is_no_text(preprocess):
    with pytest.raises(MmjaxError, match="text 1 is a float"):
        preprocess(["w4", 3.5])


def test_buckets():
    assert [bucket(n) for n in (0, 1, 4, 5, 33, 512, 700)] == [4, 4, 4, 6, 48, 512, 700]
    assert bucket(9, (8, 16)) == 16


def write(path, name, content):
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(json.dumps(content))


def test_prompts_lower_case_and_length_of_sentence_transformers(folder):
    path = folder("bert_tiny")
    prompts = {"prompts": {"query": "w9 ", "passage": "w8 "}, "default_prompt_name": "query"}
    write(path, "config_sentence_transformers.json", prompts)
    write(path, "sentence_bert_config.json", {"max_seq_length": 7, "do_lower_case": True})
    preprocess = load_encoder(path).preprocess
    assert preprocess.max_length == 7
    assert_array_equal(preprocess(["W4"]).input_ids, [[1, 9, 4, 2]])
    assert_array_equal(preprocess(["w4"], prompt="passage").input_ids, [[1, 8, 4, 2]])
    assert_array_equal(preprocess(["w4"], prompt="").input_ids, [[1, 4, 2, 0]])
    with pytest.raises(MmjaxError, match=r"unknown prompt 'x'; .* 'query', 'passage'"):
        preprocess(["w4"], prompt="x")
    plain = load_encoder(folder("bert_tiny")).preprocess
    assert plain.fingerprint == preprocess.fingerprint  # the same folder, read twice
    (path / "config_sentence_transformers.json").unlink()
    assert load_encoder(path).preprocess.fingerprint != preprocess.fingerprint


def test_old_vocabulary_files_are_converted(folder):
    path = folder("bert_tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s", "red"]
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    (path / "tokenizer.json").unlink()
    assert_array_equal(load_encoder(path).preprocess(["Red cats"]).input_ids, [[2, 7, 5, 6, 3, 0]])


def test_a_tokenizer_that_is_damaged_or_of_another_model(folder, write_tokenizer):
    path = folder("bert_tiny")
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(MmjaxError, match=r"tokenizer\.json is not readable"):
        load_encoder(path)
    write_tokenizer(path / "tokenizer.json", vocab_size=60)
    with pytest.raises(MmjaxError, match="60 tokens but the model only 50"):
        load_encoder(path)


def changed(path, change):
    """Rewrites the tokenizer's file."""
    file = path / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def added(content, number):
    del content["model"]["vocab"]["w49"]  # for as many tokens as before
    token = {"id": number, "content": "<new>", "special": False, "normalized": False}
    content["added_tokens"].append(
        {**token, **dict.fromkeys(("single_word", "lstrip", "rstrip"), False)}
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: added(c, 10**6), "the id of the added token '<new>' is 1000000; expected"),
        (lambda c: added(c, 7), "the id of the added token '<new>' is 7, but its place"),
        (
            lambda c: c["model"]["vocab"].update(w7=50),
            "the tokenizer has 51 tokens but the model only 50",
        ),
        (
            lambda c: c["post_processor"]["special_tokens"]["[SEP]"].update(ids=[77]),
            "the tokenizer gives the id 77, but the model has 50 tokens",
        ),
    ],
    ids=["added", "taken", "vocabulary", "frame"],
)
def test_ids_beyond_the_models_words_are_refused(change, match, folder):
    path = folder("bert_tiny")
    changed(path, change)
    with pytest.raises(MmjaxError, match=rf"{path}.*{match}"):
        load_encoder(path)


def test_padding_that_is_no_word_is_refused(folder):
    with pytest.raises(
        MmjaxError, match="pad_token_id 50 is not among the 50 tokens of vocab_size"
    ):
        load_encoder(folder("bert_tiny", config={"pad_token_id": 50}))


def test_more_tokens_than_positions_are_refused(preprocess):
    """A text as long as that would be NaN from its first to its last number."""
    assert dataclasses.replace(preprocess, max_length=16).max_length == 16
    for length in (17, 512, 0):
        with pytest.raises(MmjaxError, match=f"max_length {length} is out of range: .* 1 to 16"):
            dataclasses.replace(preprocess, max_length=length)


def test_a_recipe_that_asks_for_more_tokens_is_refused(folder, mesh):
    library, source = Library(mesh(1), ("zh", "en")), str(folder("bert_tiny"))
    assert library.encoder(EncoderSpec(source, max_length=12)).preprocess.max_length == 12
    with pytest.raises(MmjaxError, match=rf"config\.encoders: {source}: max_length 512 is out of"):
        library.encoder(EncoderSpec(source, max_length=512))


@pytest.mark.parametrize("ids", [[4, 64], [4, -1], [4, 10**6]])
def test_ready_ids_that_are_no_words_are_refused(ids, folder):
    model = load_encoder(folder("llama_tiny"))
    assert isinstance(model, LanguageModel)
    with pytest.raises(MmjaxError, match=r"a prompt holds token ids from .* those from 0 to 49"):
        model.encode_prompt(ids)
    with pytest.raises(MmjaxError, match=r"an answer to prompt 0: token id .* must be"):
        score(model, [[4]], [[ids]])
