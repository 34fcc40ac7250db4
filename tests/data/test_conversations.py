"""Conversations: what is learned, what stands where, and how batches are filled."""

import importlib

import numpy as np
import pytest
from tokenizers import Tokenizer

from mmjax.data.conversations import Conversations, collate
from mmjax.data.layout import Conversation, Encoded, Layout, encode
from mmjax.data.tables import RawTable
from mmjax.data.wording import Turn
from mmjax.encoders.language_model import WORD
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
    row = encode(Conversation(TURNS, image=4), tokenizer, layout)
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
        assert len(chunk) in (1, 2)
        for group in chunk:
            assert len({int(mixed.images[i]) for i in group}) == 1
        batch = mixed.batch(chunk, 4)
        with_picture = mixed.images[chunk[0][0]] >= 0
        assert ("image" in batch) == with_picture  # text alone pays for no picture
        assert (
            batch["text"]["modality"][batch["text"]["weights"].sum(1) > 0] == with_picture
        ).all()
        if with_picture:
            shown = batch["image"]["pixel_values"].tolist()
            assert shown[: len(chunk)] == [mixed.images[group[0]] for group in chunk]
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


def of_lengths(columns, answers, pictures, per_picture=1) -> Conversations:
    """Rows that are nothing but as long as that."""
    rows = [
        Encoded(
            np.ones(n, np.int32),
            np.full(n, WORD, np.int32),
            np.arange(n - a, n, dtype=np.int32),
            int(picture >= 0),
        )
        for n, a, picture in zip(columns, answers, pictures, strict=True)
    ]
    table = RawTable(range(len(rows)), lambda x: {"pixel_values": np.array(x, np.float32)})
    return Conversations(rows, np.asarray(pictures), table, per_picture, True)


def drawn(count: int, per_picture: int = 1) -> Conversations:
    """Lengths as instructions have them; half of the rows are about a picture, some share one."""
    rng = np.random.default_rng(0)
    columns = np.clip(np.exp(rng.normal(np.log(230), 0.45, count)).round(), 48, 512).astype(int)
    answers = np.maximum((columns * rng.uniform(0.05, 0.6, count)).astype(int), 2)
    pictures = np.where(rng.random(count) < 0.5, rng.integers(0, count, count), WORD)
    return of_lengths(columns, answers, pictures, per_picture)


@pytest.mark.parametrize("per_picture", [1, 2])
@pytest.mark.parametrize(
    ("count", "batch"), [(3, 32), (20, 32), (200, 32), (500, 32), (500, 2), (2000, 32)]
)
def test_every_epoch_holds_every_row_once(count, batch, per_picture):
    found, shapes, batches = drawn(count, per_picture), set(), set()
    real = padded = 0
    for epoch in range(10):
        plan = found.plan(batch, np.random.default_rng(epoch))
        members = [i for chunk in plan for group in chunk for i in group]
        assert sorted(members) == list(range(count))
        size = batch // per_picture
        assert sum(len(chunk) < size for chunk in plan) <= 2  # one of each modality
        assert all(len({int(found.images[i]) for i in g}) == 1 for c in plan for g in c)
        assert len(plan) == found.steps_per_epoch(batch)
        batches.add(tuple(members))
        for chunk in plan:
            text = found.batch(chunk, batch)["text"]
            shown = bool(found.images[chunk[0][0]] >= 0)
            shapes.add((text["input_ids"].shape[1], text["labels"].shape[1], shown))
            real += int(text["attention_mask"].sum())
            padded += text["attention_mask"].size
    assert len(shapes) <= len(found.buckets)  # as many programs as rows apart would take, or fewer
    if count >= 500 and per_picture == 1:
        assert real / padded > 0.7
    if count > 20:
        assert len(batches) == 10  # every epoch in another order


def test_all_lengths_stand_in_the_smaller_batch_sooner_or_later():
    found = of_lengths([20] * 5 + [60] * 8, [2] * 13, [WORD] * 13)
    smaller = set()
    for epoch in range(40):
        (fewer,) = [c for c in found.plan(4, np.random.default_rng(epoch)) if len(c) < 4]
        assert len(fewer) == 1
        smaller.add(fewer[0][0])
    assert smaller & set(range(5))
    assert smaller & set(range(5, 13))


def test_a_batch_that_is_larger_than_the_data_is_filled_up_with_rows_that_count_for_nothing(mixed):
    batches = list(mixed.batches(4, 64, seed=0))
    assert [("image" in batch) for batch in batches].count(True) == 2
    for batch in batches:
        rows = 15 if "image" in batch else 9
        weights = batch["text"]["weights"].sum(axis=1)
        assert weights.shape == (64,)
        assert (weights > 0).sum() == rows
        assert batch["text"]["attention_mask"][weights == 0].sum() == 0


def test_visits_count_what_the_batches_hold(mixed):
    rows = {row.ids.tobytes() for row in mixed.rows}
    assert len(rows) < len(mixed)  # some are alike, so count by number and not by content
    for steps in (0, 3, mixed.steps_per_epoch(4), 2 * mixed.steps_per_epoch(4) + 5):
        found = mixed.visits(steps, 4, seed=3)
        whole, rest = divmod(steps, mixed.steps_per_epoch(4))
        assert set(found.tolist()) <= {whole, whole + 1}
        learned = [batch["text"]["weights"].sum() for batch in mixed.batches(steps, 4, seed=3)]
        assert sum(learned) == sum(
            n * len(r.answers) for n, r in zip(found, mixed.rows, strict=True)
        )
        assert (found == whole).all() == (rest == 0)


@pytest.mark.parametrize(
    ("recipe", "shown", "alone"),
    [("lavin_scienceqa_7b", 6218, 6508), ("lavin_chat", 157_712 - 398, 51_974 - 114)],
)
def test_an_epoch_of_a_recipe_is_one(recipe, shown, alone):
    steps = importlib.import_module(f"configs.{recipe}").EPOCH
    count = shown + alone
    pictures = np.where(np.arange(count) < shown, np.arange(count), WORD)
    row = Encoded(np.ones(9, np.int32), np.full(9, WORD, np.int32), np.arange(5, 9), 0)
    found = Conversations([row] * count, pictures, RawTable((), lambda _: {}), 1, True)
    assert found.steps_per_epoch(32) == steps
