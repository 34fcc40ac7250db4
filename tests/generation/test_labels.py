"""Labels by one forward pass against greedy decoding and whole scores."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.errors import MmjaxError
from mmjax.generation import cache_prefix, generate, label_scores, score
from mmjax.generation.labels import ROWS, TOKENS, plan

PREFIX = [1, 9, 8, 7]


@pytest.fixture
def model(folder) -> LanguageModel:
    loaded = load_encoder(folder("llama_tiny"))
    assert isinstance(loaded, LanguageModel)
    return loaded


def test_the_likeliest_label_is_what_a_greedy_model_writes(model):
    draw = np.random.default_rng(0)
    prompts = [draw.integers(4, 50, 1 + i % 20).tolist() for i in range(40)]
    prefix = cache_prefix(model, PREFIX)
    written = [int(one.token_ids[0]) for one in generate(model, prompts, 1, prefix=prefix)]
    words = [token for token in dict.fromkeys(written) if token >= 4][:5]
    # In the text of a label the second word counts for nothing.
    labels = [f"w{token} w4" for token in words]
    found = label_scores(model, prompts, labels, prefix)
    assert found.shape == (40, 5)
    greedy = [token in words for token in written]
    assert 10 < sum(greedy) < 40
    chosen = [words[i] for i in found.argmax(axis=1)]
    assert [a for a, is_label in zip(chosen, greedy, strict=True) if is_label] == [
        token for token in written if token in words
    ]
    answers = [[[token] for token in words]] * len(prompts)
    expected = score(model, prompts, answers, prefix=prefix)
    assert_allclose(found, [[one.log_prob for one in row] for row in expected], atol=1e-5)


def test_prompts_are_read_in_bounded_batches_of_like_length(model):
    lengths = [3, 600, 17, 9, 5000, 20, *[16] * 40, 700]
    batches = plan(lengths)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) <= ROWS
        assert len(batch) == 1 or len(batch) * longest <= TOKENS
        assert min(lengths[i] for i in batch) > longest // 2 or longest <= 16
        assert plan([lengths[i] for i in batch]) == [list(range(len(batch)))]
    assert [len(batch) for batch in batches if 5 not in batch][:2] == [ROWS, 10]


def test_labels_that_one_token_cannot_tell_apart(model):
    for labels, message in (
        (["w5", "w6 w7", "w5 w8"], "'w5' and 'w5 w8' begin with the same token"),
        (["w5", ""], "label '' has no token"),
        (["w5"], "give at least 2"),
        ([], "give at least 2"),
    ):
        with pytest.raises(MmjaxError, match=message):
            label_scores(model, [[5]], labels)
    with pytest.raises(MmjaxError, match="2 prompts but 1 lists of pictures"):
        label_scores(model, [[5], [6]], ["w5", "w6"], images=[[]])
    assert label_scores(model, [], ["w5", "w6"]).shape == (0, 2)
