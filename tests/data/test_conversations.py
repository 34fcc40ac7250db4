"""Conversations: what is learned, what stands where, and how batches are filled."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from mmjax.adapters.multimodal import WORD
from mmjax.data.conversations import Conversation, Conversations, Layout, Turn, collate, encode
from mmjax.data.tables import RawTable
from mmjax.errors import MmjaxError


@pytest.fixture
def tokenizer(write_tokenizer, tmp_path) -> Tokenizer:
    write_tokenizer(tmp_path / "tokenizer.json")
    found = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


def layout_of(tokenizer, first=True, max_length=30) -> Layout:
    return Layout.of(tokenizer, (2, 7), first, 3, max_length)


TURNS = (Turn("w5 w6"), Turn("w7 w8", learn=True), Turn("w9"), Turn("w10", learn=True))


def test_turns_picture_and_answers_stand_where_they_should(tokenizer):
    layout = layout_of(tokenizer)
    assert (layout.bos, layout.eos) == ((1,), 2)
    unknown = 3  # the toy's tokenizer knows neither "Image" nor ":"
    prefix = [0, 1, unknown, unknown]
    row = encode(Conversation(TURNS, picture=4), tokenizer, layout)
    assert row.ids.tolist() == [*prefix, 0, 0, 0, 5, 6, 7, 8, 2, 9, 10, 2]
    assert row.slots.tolist() == [*[WORD] * 4, 0, 1, 2, *[WORD] * 8]
    assert row.ids[row.answers].tolist() == [7, 8, 2, 10, 2]  # both answers, each with its end
    text = encode(Conversation(TURNS), tokenizer, layout)
    assert (text.slots == WORD).all()
    assert text.ids[text.answers].tolist() == [7, 8, 2, 10, 2]
    assert (row.modality, text.modality) == (1, 0)
    batch = collate([row, None], 16, 8, first=True)
    assert batch["attention_mask"][0].tolist() == [0, *[1] * 14, 0]  # no one sees column 0
    before = batch["columns"][0, :5]
    assert batch["input_ids"][0, before + 1].tolist() == batch["labels"][0, :5].tolist()
    assert batch["weights"].sum() == 5


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((Turn("w5"),), "question 7 has no answer to learn"),
        ((Turn("w5"), Turn(" ", learn=True)), "question 7 has an empty answer"),
        ((Turn("w5 " * 30), Turn("w6", learn=True)), "question 7 takes 39 tokens.* reads 30"),
    ],
)
def test_conversations_that_cannot_be_learned(turns, message, tokenizer):
    with pytest.raises(MmjaxError, match=message):
        encode(Conversation(turns, 0), tokenizer, layout_of(tokenizer), "question 7")


def test_what_a_row_has_no_room_for_is_cut_where_that_is_asked_for(tokenizer):
    turns, layout = (Turn("w5 w6"), Turn("w7 " * 30, learn=True)), layout_of(tokenizer)
    row = encode(Conversation(turns, 0), tokenizer, layout, "row 7", cut=True)
    assert (row.cut, len(row.ids), len(row.slots)) == (True, 30, 30)
    assert row.ids[row.answers].tolist() == [7] * 21  # nine stand before it; its end is gone
    whole = encode(Conversation(TURNS, 0), tokenizer, layout, "row 7", cut=True)
    assert (whole.cut, int(whole.ids[-1])) == (False, 2)
    asked = (Turn("w5 " * 30), Turn("w6", learn=True))
    with pytest.raises(MmjaxError, match="row 7 takes 37 tokens before its first answer"):
        encode(Conversation(asked, 0), tokenizer, layout, "row 7", cut=True)


def test_a_model_without_an_end_token_is_refused(tokenizer):
    with pytest.raises(MmjaxError, match="no end token"):
        Layout.of(tokenizer, (), True, 3, 30)


@pytest.fixture
def mixed(tokenizer) -> Conversations:
    """Five pictures with 1 to 5 questions, seven short texts and two long ones."""
    layout, rows, pictures = layout_of(tokenizer, max_length=64), [], []
    answer = Turn("w7", learn=True)
    for picture in range(5):
        for _ in range(picture + 1):
            rows.append(encode(Conversation((Turn("w5"), answer), picture), tokenizer, layout))
            pictures.append(picture)
    for i in range(9):
        asked = Turn("w6 " * (20 if i > 6 else 1))
        rows.append(encode(Conversation((asked, answer)), tokenizer, layout))
        pictures.append(-1)
    table = RawTable(range(5), lambda x: {"pixel_values": np.array(x, np.float32)})
    return Conversations(rows, np.array(pictures), table, per_picture=2, first=True)


def test_an_epoch_without_an_order_holds_everything_once(mixed):
    members = [i for chunk in mixed.plan(4, None) for group in chunk for i in group]
    assert sorted(members) == list(range(len(mixed)))


def test_a_batch_is_of_one_length_and_one_modality(mixed):
    for chunk in mixed.plan(4, np.random.default_rng(0)):
        assert len(chunk) == 2
        for group in chunk:
            assert len({int(mixed.pictures[i]) for i in group}) == 1
        batch = mixed.batch(chunk, 4)
        with_picture = mixed.pictures[chunk[0][0]] >= 0
        assert ("image" in batch) == with_picture  # text alone pays for no picture
        assert (
            batch["text"]["modality"][batch["text"]["weights"].sum(1) > 0] == with_picture
        ).all()
        if with_picture:
            shown = batch["image"]["pixel_values"].tolist()
            assert shown == [mixed.pictures[group[0]] for group in chunk]
        used = batch["text"]["weights"].sum(axis=1) > 0
        assert used.sum() == sum(map(len, chunk))  # what fills a picture up counts for nothing


def test_batches_can_be_taken_up_where_they_were(mixed):
    whole = [b["text"]["input_ids"] for b in mixed.batches(9, 4, seed=3)]
    iterator = mixed.batches(9, 4, seed=3)
    for _ in range(5):
        next(iterator)
    state, again = iterator.get_state(), mixed.batches(9, 4, seed=3)
    again.set_state(state)
    for a, b in zip(whole[5:], again, strict=True):
        np.testing.assert_array_equal(a, b["text"]["input_ids"])
    with pytest.raises(MmjaxError, match="batch size 64 is larger"):
        mixed.batches(1, 64, seed=0)
