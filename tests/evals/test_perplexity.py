"""Perplexity of plain text, against logits put together by hand."""

import jax
import numpy as np
import pytest

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.errors import MmjaxError
from mmjax.evals.perplexity import PYTHON, perplexity, read_text


@pytest.fixture
def model(folder) -> LanguageModel:
    found = load_encoder(folder("llama_tiny"))
    assert isinstance(found, LanguageModel)
    return found


def test_every_token_but_a_windows_first_is_foretold_from_those_before_it(model):
    ids = [4 + i * i % 41 for i in range(50)]
    found = perplexity(model, " ".join(f"w{i}" for i in ids), windows=3, length=12)
    losses = []
    for start in (0, 19, 38):  # evenly spread, the last one at the end
        window = np.array([ids[start : start + 12]])
        inputs = {"input_ids": window, "attention_mask": np.ones_like(window)}
        log_probs = jax.nn.log_softmax(model.logits(model.params, inputs)[0])
        losses += [-log_probs[t, window[0, t + 1]] for t in range(11)]
    assert found == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)


def test_pythons_own_reference_is_plain_text_enough():
    text = read_text(PYTHON)
    assert len(text) > 100_000
    assert "expression" in text


def test_text_that_cannot_be_measured(model, tmp_path):
    with pytest.raises(MmjaxError, match="2 tokens is too short"):
        perplexity(model, "w4 w5", length=12)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for name in ("latin.txt", "missing.txt"):
        with pytest.raises(MmjaxError, match=f"{name} cannot be read as UTF-8"):
            read_text(str(tmp_path / name))
