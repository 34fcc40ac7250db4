"""The record of a synthesis: what is read, what is refused by name, and that lines say it all."""

import json

import pytest

from mmjax.data.turn_records import Message, Record, as_line, read_records
from mmjax.errors import DataError

TURNS = [{"role": "user", "text": "Q"}, {"role": "assistant", "text": "A", "loss": True}]


def test_lines_are_read_as_they_were_written(tmp_path):
    said = (Message("user", "图里有什么?"), Message("assistant", "Ein {Hund}\u2028\n🐕", loss=True))
    records = [Record("1", ("a.png", "b.png"), said, {"z": [1], "a": None}), Record("ü", (), ())]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(record.line() for record in records), "utf-8")
    assert list(read_records(path)) == records
    assert path.read_text("utf-8").count("\n") == 2  # line feeds within texts are spelt


def test_files_of_other_systems_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"id": i, "images": "a.png", "turns": TURNS}) for i in range(2)]
    path.write_bytes("\ufeff".encode() + "\r\n".join([lines[0], "", lines[1]]).encode())
    found = list(read_records(path))
    assert [(one.id, one.images) for one in found] == [("0", ("a.png",)), ("1", ("a.png",))]
    assert found[0].turns == (Message("user", "Q"), Message("assistant", "A", loss=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "row 2: has no 'id'"),
        ({"id": ""}, "row 2: its 'id' is empty"),
        ({"id": "first"}, "row 2: the id 'first' stands twice"),
        ({"id": True}, "row 2: 'id' is True; expected a text or a whole number"),
        ({"id": "a", "images": 5}, "row 2: 'images' is 5; expected a path, or a list"),
        ({"id": "a", "images": ["a.png", " "]}, "row 2: the name of an image is empty"),
        ({"id": "a", "images": [None]}, "row 2: image 0 is None"),
        ({"id": "a", "turns": "Q"}, "row 2: 'turns' is 'Q'; expected a list"),
        ({"id": "a", "turns": ["Q"]}, "row 2, turn 0: is 'Q'; expected an object"),
        ({"id": "a", "turns": TURNS[1:]}, "row 2, turn 0: 'assistant' is out of turn"),
        ({"id": "a", "turns": [*TURNS, TURNS[1]]}, "row 2, turn 2: 'assistant' is out of turn"),
        ({"id": "a", "turns": [{"role": "system", "text": "Q"}]}, "turn 0: its role is 'system'"),
        ({"id": "a", "turns": [{"role": "user"}]}, "row 2, turn 0: 'text' is None"),
        ({"id": "a", "turns": [{"role": "user", "text": "\ud800"}]}, "half of a surrogate pair"),
        ({"id": "a", "turns": [TURNS[0] | {"loss": 1}]}, "row 2, turn 0: 'loss' is 1"),
        ({"id": "a", "meta": []}, r"row 2: 'meta' is \[\]; expected an object"),
    ],
)
def test_a_row_that_is_no_record_is_refused_by_name(content, message, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(as_line({"id": "first"}) + as_line(content))
    with pytest.raises(DataError, match=f"a.jsonl, {message}" if "row" in message else message):
        list(read_records(path))


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "turns": [\n')
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: expected one JSON object a line"):
        list(read_records(path))


def test_what_no_file_can_hold_is_spelt_as_it_came():
    # A model's JSON may spell half a surrogate pair; a step must not end with a traceback over it.
    content = {"meta": {"raw": "a\ud800"}}
    line = as_line(content)
    assert json.loads(line.encode()) == content
    assert as_line({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}\n'
