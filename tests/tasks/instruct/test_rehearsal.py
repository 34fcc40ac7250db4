"""Texts of a language model's own: drawn from its own distribution, learned as text alone."""

import jax
import numpy as np
import pytest

from mmjax.data.conversations import Conversations
from mmjax.data.layout import Conversation, Layout, encode
from mmjax.data.tables import RawTable
from mmjax.data.wording import Turn
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import WORD
from mmjax.errors import MmjaxError
from mmjax.rng import seed_for
from mmjax.specs.instruct import QuestionsSpec
from mmjax.tasks.instruct import rehearsal


@pytest.fixture
def model(folder, tmp_path, monkeypatch) -> LanguageModel:
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    found = load_encoder(folder("llama_tiny"))
    assert isinstance(found, LanguageModel)
    return found


def test_texts_are_draws_from_the_model(model):
    texts = rehearsal.own_texts(model, 600, 6, seed=0)
    assert texts.shape == (600, 6)
    assert texts.dtype == np.int32
    assert len(np.unique(texts[:, 0])) > 30
    inputs = {"input_ids": texts, "attention_mask": np.ones_like(texts)}
    log_probs = np.asarray(jax.nn.log_softmax(model.logits(model.params, inputs)))[:, :-1]
    taken = np.take_along_axis(log_probs, texts[:, 1:, None], axis=-1)[..., 0]
    # At temperature 1 surprise is the entropy on average: all else is another distribution.
    entropy = -(np.exp(log_probs) * log_probs).sum(-1)
    gap = (-taken - entropy).ravel()
    assert abs(gap.mean()) < 4 * gap.std() / len(gap) ** 0.5
    colder = log_probs * 1.3 - np.log(np.exp(log_probs * 1.3).sum(-1, keepdims=True))
    assert abs((-(np.exp(colder) * log_probs).sum(-1) - entropy).mean()) > (
        8 * gap.std() / len(gap) ** 0.5
    )


def test_texts_are_written_once(model, monkeypatch, tmp_path):
    one, other = (rehearsal.own_texts(model, 5, 4, seed) for seed in (0, 1))
    assert (one != other).any()
    (path,) = (p for p in (tmp_path / "cache" / "rehearsal").iterdir() if (np.load(p) == one).all())
    torn = path.read_bytes()[:-8]
    written = rehearsal.generate
    monkeypatch.setattr(rehearsal, "generate", None)
    np.testing.assert_array_equal(rehearsal.own_texts(model, 5, 4, 0), one)
    monkeypatch.setattr(rehearsal, "generate", written)
    path.write_bytes(torn)
    np.testing.assert_array_equal(rehearsal.own_texts(model, 5, 4, 0), one)


def test_a_cache_that_cannot_be_written(model, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(MmjaxError, match="point MMJAX_CACHE at another disk"):
        rehearsal.own_texts(model, 2, 3, 0)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("share", "texts"), [(0.25, 10), (0.01, 4)])
def test_rehearsal_is_text_alone(model, first, share, texts):
    layout = Layout.of(model.preprocess.tokenizer, (2,), first, 2, 24)
    said = [Conversation((Turn("w5 w6"), Turn("w7", True)), i // 2) for i in range(30)]
    rows = [encode(one, model.preprocess.tokenizer, layout) for one in said]
    table = RawTable(range(15), lambda items: {"pixel_values": np.zeros((len(items), 2, 2, 3))})
    learned = Conversations(rows, np.arange(30) // 2, table, 2, first)
    questions = QuestionsSpec(rehearsal=4, rehearsal_share=share, rehearsal_length=7)
    both = rehearsal.rehearse(learned, questions, 0, model)
    assert len(both) == 30 + texts  # a quarter of all; or every text once
    assert (both.images[30:] == WORD).all()
    batches = [both.batch(g, 8) for g in both.plan(8, np.random.default_rng(0))]
    plain = [b["text"] for b in batches if "image" not in b]
    assert len(plain) == -(-texts // 8)
    text = {name: np.concatenate([batch[name] for batch in plain]) for name in plain[0]}
    assert (text["modality"] == 0).all()
    (real,) = np.nonzero(text["weights"].sum(axis=1))
    assert len(real) == texts
    drawn = {
        tuple(row) for row in rehearsal.own_texts(model, 4, 7, seed_for(0, "rehearsal")).tolist()
    }
    for i in real:
        ids = text["input_ids"][i][int(first) : int(first) + 7]
        assert tuple(ids) in drawn
        np.testing.assert_array_equal(text["labels"][i][:6], ids[1:])
        assert text["weights"][i].sum() == 6
        assert text["attention_mask"][i].sum() == 7
    assert rehearsal.rehearse(learned, QuestionsSpec(), 0, model) is learned


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rehearsal": -1}, "questions.rehearsal "),
        ({"rehearsal_share": 1.0}, "questions.rehearsal_share"),
        ({"rehearsal_length": 1}, "questions.rehearsal_length"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(MmjaxError, match=message):
        QuestionsSpec(**changes)
