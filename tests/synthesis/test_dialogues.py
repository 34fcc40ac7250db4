"""Conversations of LLaVA and LLaMA-Factory: what is read, what is written, bad rows by number."""

import json
from typing import Any

import pytest

from mmjax.data import dialogues as trained
from mmjax.data.turn_records import Message, Record
from mmjax.errors import DataError
from mmjax.synthesis.dialogues import llava_row, sharegpt_row
from mmjax.synthesis.formats import iter_records, write
from tests.synthesis.samples import RECORDS, png

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bus."}]
MESSAGES = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A bus."}]


def test_what_other_trainers_read_is_in_their_form():
    one = Record(
        "1", ("a/x.jpg",), (Message("user", "What?"), Message("assistant", "A bus.", loss=True))
    )
    assert llava_row(one, "a") == {"id": "1", "image": "x.jpg", "conversations": TALK}
    assert sharegpt_row(one) == {
        "id": "1",
        "images": ["a/x.jpg"],
        "messages": [
            {"role": "user", "content": "<image>\nWhat?"},
            {"role": "assistant", "content": "A bus."},
        ],
    }
    # Trainers count tokens in all texts, and one schema holds for `meta` of all rows.
    rows = [sharegpt_row(record) for record in RECORDS]
    for row in rows:
        texts = " ".join(message["content"] for message in row["messages"])
        assert texts.count("<image>") == len(row["images"])
        assert isinstance(row.get("meta", ""), str)
    assert rows[2]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {message["role"] for message in rows[1]["messages"]} == {"user", "assistant"}


def test_a_written_file_is_one_that_instruct_trains_on(tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    turns = Message("user", "What?"), Message("assistant", "A bus.", loss=True)
    write(f"llava:{tmp_path}/l.json", [Record("1", (f"{tmp_path}/x.png",), turns)], str(tmp_path))
    found = trained.load_dialogues([f"llava:{tmp_path}/l.json"], str(tmp_path))
    assert found.images == (tmp_path / "x.png",)
    assert [turn.learn for turn in found.conversations[0].turns] == [False, True]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("<image>What?", "What?"),
        ("Look at <image> now", "Look at now"),
        ("One\n<image>\ntwo", "One\ntwo"),
    ],
)
@pytest.mark.parametrize("image", ["x.jpg", ["x.jpg"]], ids=["text", "list"])
@pytest.mark.parametrize("key", ["image", "images"])
def test_tokens_leave_the_text_wherever_they_stand(tmp_path, said, text, image, key):
    row = {key: image, "conversations": [{"from": "human", "value": said}, TALK[1]], "model": "m"}
    (tmp_path / "l.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([row]).encode())
    (found,) = iter_records(f"llava:{tmp_path}/l.json", images="f")
    assert (found.id, found.images, found.meta) == ("0", ("f/x.jpg",), {"model": "m"})
    assert found.turns == (Message("user", text), Message("assistant", "A bus.", loss=True))


def test_a_system_turn_is_kept_beside_the_conversation(tmp_path):
    row = {"messages": [{"role": "system", "content": "Be brief."}, *MESSAGES], "images": "x.jpg"}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    (found,) = iter_records(f"sharegpt:{tmp_path}/s.jsonl")
    assert (found.meta, len(found.turns)) == ({"system": "Be brief."}, 2)


def _row(**changes: Any) -> dict[str, Any]:
    return {"id": "1", "image": "x.jpg", "conversations": TALK, **changes}


def _said(*turns: tuple[object, object]) -> dict[str, Any]:
    return _row(conversations=[{"from": role, "value": text} for role, text in turns])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "l.json holds no list of rows"),
        ("{}", "l.json holds no list of rows"),
        ('[{"id": "1"', "cannot read .*l.json: expected a JSON list of rows"),
        (["text"], "row 0: expected an object, got 'text'"),
        ([_row(), _row()], "row 1: the id '1' stands twice"),
        ([_row(id="")], "row 0: its 'id' is empty"),
        ([_row(id=[1])], r"row 0: 'id' is \[1\]"),
        ([_row(image=["x", "y"])], "row 0: has 2 images, and 1 <image>"),
        ([_row(image=None)], "row 0: has 0 images, and 1 <image>"),
        ([_row(image={"path": "x"})], "row 0: 'images' is {'path': 'x'}"),
        ([_row(image=" ")], "row 0: the name of an image is empty"),
        ([_row(conversations=TALK[1:])], "row 0, turn 0: 'assistant' is out of turn"),
        ([_row(conversations=[*TALK, TALK[1]])], "row 0, turn 2: 'assistant' is out of turn"),
        ([_row(conversations=[])], r"row 0: 'conversations' is \[\]"),
        ([_row(conversations=None)], "row 0: 'conversations' is None"),
        ([_row(conversations=["hello"])], "row 0, turn 0: is 'hello'; expected an object"),
        ([_said(("human", "<image>"), ("tool", "x"))], "row 0, turn 1: its role is 'tool'"),
        ([_said(("human", "<image>"), ([], "x"))], r"row 0, turn 1: its role is \[\]"),
        ([_said(("human", [{"type": "image"}]))], r"row 0, turn 0: its text is \[{'type'"),
        ([_row(conversations=[{**TALK[0], "loss": 1}])], "row 0, turn 0: 'loss' is 1"),
        ([_row(), {**_row(), "id": "2", "image": "y.jpg"}], "row 1: no picture at .*y.jpg"),
    ],
)
def test_a_bad_conversation_gets_one_sentence(tmp_path, content, sentence):
    (tmp_path / "x.jpg").write_bytes(png())
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(DataError, match=sentence) as caught:
        list(iter_records(f"llava:{tmp_path}/l.json", images=str(tmp_path), check_images=True))
    assert "\n" not in str(caught.value)
