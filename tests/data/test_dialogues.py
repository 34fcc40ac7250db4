"""LLaVA's and Alpaca's files in their true layouts: what is learned, and damage by row."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmjax.data import dialogues
from mmjax.errors import DataError

LLAVA = {
    "id": "000000033471",
    "image": "000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat colour is the bus?"},
        {"from": "gpt", "value": "It is red."},
        {"from": "human", "value": "Is it moving?"},
        {"from": "gpt", "value": "No."},
    ],
}
ALPACA = {"instruction": "Translate.", "input": "Hund", "output": "dog"}


def write(path: Path, rows: object) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.fixture
def images(tmp_path) -> str:
    Image.new("RGB", (8, 8)).save(tmp_path / LLAVA["image"])
    return str(tmp_path)


def test_turns_stay_together_and_files_are_mixed(images, tmp_path):
    again = {**LLAVA, "conversations": LLAVA["conversations"][:2]}
    llava = write(tmp_path / "llava.json", [LLAVA, again])
    alpaca = write(tmp_path / "alpaca.json", [ALPACA, {**ALPACA, "input": ""}])
    found = dialogues.load_dialogues([f"llava:{llava}", f"alpaca:{alpaca}"], images)
    talk, _, one, other = found.conversations
    assert [(turn.text, turn.learn) for turn in talk.turns] == [
        ("Instruction: What colour is the bus?\nResponse:", False),
        ("It is red.", True),
        ("\nInstruction: Is it moving?\nResponse:", False),
        ("No.", True),
    ]
    assert one.turns[0].text == "Instruction: Translate. Hund\nResponse:"
    assert other.turns[0].text == "Instruction: Translate.\nResponse:"
    assert [c.image for c in found.conversations] == [0, 0, None, None]  # a file stands once
    assert found.image_names == (f"{llava}, row 0",)
    assert found.names[3] == f"{alpaca}, row 1"


def test_empty_answers_are_left_out_where_that_is_asked_for(tmp_path):
    file = write(tmp_path / "alpaca.json", [ALPACA, {**ALPACA, "output": " "}, ALPACA])
    with pytest.raises(DataError, match="row 1: an empty answer"):
        dialogues.load_dialogues([f"alpaca:{file}"])
    found = dialogues.load_dialogues([f"alpaca:{file}"], skip_empty=True)
    assert (len(found.conversations), found.skipped) == (2, 1)


def said(*turns: object) -> list[object]:
    return [LLAVA, {**LLAVA, "conversations": list(turns)}]


HUMAN, GPT = LLAVA["conversations"][:2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([LLAVA, 5], "row 1: expected an object"),
        ({}, "holds no list of rows"),
        (said(HUMAN), "row 1: 'conversations' is no list"),
        (said(HUMAN, {"from": "system", "value": "x"}), "row 1, turn 1: expected .*'system'"),
        (said(HUMAN, HUMAN), "row 1, turn 1: 'human' is out of turn"),
        (said(HUMAN, {"from": "gpt", "value": ""}), "row 1: an empty answer"),
        (said({"from": "human", "value": "Hi"}, GPT), "row 1: 1 pictures but 0 <image> tokens"),
        ([{**LLAVA, "image": None}], "row 0: 0 pictures but 1 <image> tokens"),
        ([{**LLAVA, "image": ["a.jpg", "b.jpg"]}], "row 0: 2 pictures but 1 <image> tokens"),
        ([{**LLAVA, "image": "gone.jpg"}], "row 0: its picture .*gone.jpg is missing"),
    ],
)
def test_damaged_conversations_are_named_by_row(rows, message, images, tmp_path):
    file = write(tmp_path / "llava.json", rows)
    with pytest.raises(DataError, match=message):
        dialogues.load_dialogues([f"llava:{file}"], images)


@pytest.mark.parametrize("row", [{"instruction": "x"}, {**ALPACA, "input": 3}])
def test_other_rows_than_alpacas_are_refused(row, tmp_path):
    file = write(tmp_path / "alpaca.json", [row])
    with pytest.raises(DataError, match="row 0: expected texts 'instruction'"):
        dialogues.load_dialogues([f"alpaca:{file}"])
    with pytest.raises(DataError, match="no instructions are called 'vicuna:x'"):
        dialogues.load_dialogues(["vicuna:x"])


def test_a_row_in_another_encoding_is_named(tmp_path):
    file = tmp_path / "alpaca.json"
    rows = [json.dumps({**ALPACA, "output": text}, ensure_ascii=False) for text in ("über", "ü")]
    file.write_bytes(b"[" + rows[0].encode() + b"," + rows[1].encode("latin-1") + b"]")
    with pytest.raises(DataError, match="row 1: not UTF-8"):
        dialogues.load_dialogues([f"alpaca:{file}"])


def record(number: int, **changes: object) -> str:
    """A caption that is read, then a question and its answer that are learned."""
    said = [("user", "Describe it."), ("assistant", "A bus."), ("user", "Which?")]
    turns = [{"role": role, "text": text, "loss": False} for role, text in said]
    turns.append({"role": "assistant", "text": "A red one.", "loss": True})
    whole = {"id": str(number), "images": ["blank:"], "turns": turns, **changes}
    return json.dumps(whole) + "\n"


def test_turns_of_records_say_themselves_what_is_learned(images, tmp_path):
    file = tmp_path / "composed.jsonl"
    file.write_text(record(0) + record(1, images=[LLAVA["image"]]) + record(2, images=[]))
    found = dialogues.load_dialogues([f"records:{file}"], images, markers="chatml")
    assert [c.image for c in found.conversations] == [0, 1, None]
    assert found.images[0] == Path("blank:")  # no file
    turns = found.conversations[0].turns
    assert turns[0].text == "<|im_start|>user\nDescribe it.<|im_end|>\n"
    assert turns[0].text[: found.conversations[0].at] == "<|im_start|>user\n"
    assert [t.text for t in turns if t.learn] == ["A red one."]
    plain = dialogues.load_dialogues([f"records:{file}"], images).conversations[0]
    assert "".join(t.text for t in plain.turns).endswith(
        "\nInstruction: Which?\nResponse: A red one."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ["a.png", "b.png"]}, r"record 1 \('1'\): 2 images; .* one at most"),
        ({"images": ["gone.png"]}, r"record 1 \('1'\): its picture .*gone.png is missing"),
        ({"turns": []}, "record 1 .*no turn is to be learned"),
        ({"turns": [{"role": "user", "text": " ", "loss": True}]}, "record 1 .*an empty answer"),
        ({"id": "0"}, "row 2: the id '0' stands twice"),
    ],
)
def test_records_that_cannot_be_learned_are_named(changes, message, images, tmp_path):
    file = tmp_path / "composed.jsonl"
    file.write_text(record(0) + record(1, **changes))
    with pytest.raises(DataError, match=message):
        dialogues.load_dialogues([f"records:{file}"], images)
    if "turns" in changes:
        assert dialogues.load_dialogues([f"records:{file}"], images, skip_empty=True).skipped == 1
