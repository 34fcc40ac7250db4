"""Scores of answers against one whole forward pass an answer."""

import functools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import embed, extend, logits
from mmjax.errors import MmjaxError
from mmjax.generation import score

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
ANSWERS = [[[20], [21, 22, 23]], [[24, 25]], [[26], [27, 28], [29, 30, 31, 32], [33]]]


@pytest.fixture
def model(folder) -> LanguageModel:
    loaded = load_encoder(folder("llama_tiny"))
    assert isinstance(loaded, LanguageModel)
    return loaded


@functools.partial(jax.jit, static_argnums=0)
def whole(module, params, ids):
    mask = jax.numpy.ones_like(ids)
    hidden, _ = extend(module, params, None, embed(module, params, ids), mask)
    return jax.nn.log_softmax(logits(module, params, hidden), axis=-1)


def twin(model, prompt, answer):
    ids = prompt + answer + [0] * (12 - len(prompt + answer))
    log_probs = np.asarray(whole(model.module, model.params, np.array([ids])))[0]
    return log_probs[np.arange(len(prompt) - 1, len(prompt + answer) - 1), answer]


@pytest.mark.parametrize("shape", [None, (2, 1), (4, 2)])
def test_scores_equal_whole_forward_passes(shape, model, folder, mesh):
    scoring = model
    if shape is not None:
        loaded = load_encoder(folder("llama_tiny"), mesh=mesh(*shape))
        assert isinstance(loaded, LanguageModel)
        scoring = loaded
    for prompt, answers, row in zip(
        PROMPTS, ANSWERS, score(scoring, PROMPTS, ANSWERS), strict=True
    ):
        assert len(answers) == len(row)
        for answer, found in zip(answers, row, strict=True):
            expected = twin(model, prompt, answer)
            assert_allclose(found.token_log_probs, expected, atol=1e-4)
            assert_allclose(found.log_prob, expected.sum(), atol=1e-4)


def test_texts_are_scored_without_special_tokens(model):
    ((found,),) = score(model, [[5, 6]], [["w7 w8"]])
    assert_allclose(found.token_log_probs, twin(model, [5, 6], [7, 8]), atol=1e-4)


def test_prompts_without_answers(model):
    (none, one) = score(model, PROMPTS[:2], [[], [[5]]])
    assert none == []
    assert len(one) == 1
    assert score(model, PROMPTS[:2], [[], []]) == [[], []]
    assert score(model, [], []) == []


def test_what_cannot_be_scored(model):
    with pytest.raises(MmjaxError, match="2 prompts but 1 lists"):
        score(model, PROMPTS[:2], [[[5]]])
    with pytest.raises(MmjaxError, match="an answer has no token"):
        score(model, PROMPTS[:1], [[[]]])
    with pytest.raises(MmjaxError, match="do not fit"):
        score(model, PROMPTS[:1], [[[5] * 62]])
