"""Rows that name no picture: refused with the file and the row, before any picture is opened."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmjax.data import dialogues, easy_vqa, scienceqa
from mmjax.data.corpora import coop
from mmjax.data.corpora.catalog import load_corpus
from mmjax.specs.data import PairsSpec

NAMES = {
    "5,000 letters": "a" * 5000 + ".png",
    "NUL": "a\0.png",
    "a circle of links": "circle.png",
    "a pipe": "pipe.png",
    "a folder": "folder.png",
    "a line break": "a\nb.png",
}


def _dialogues(place: Path, image: str) -> Any:
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    (place / "a.json").write_text(json.dumps([{"image": image, "conversations": talk}]))
    return dialogues.load_dialogues([f"llava:{place / 'a.json'}"], str(place))


def _jsonl(place: Path, image: str) -> Any:
    (place / "a.jsonl").write_text(json.dumps({"image": image, "en": "a", "de": "b"}))
    return load_corpus(PairsSpec(source=str(place / "a.jsonl")), ("en", "de"))


def _coop(place: Path, image: str) -> Any:
    rows = {"train": [[image, 0, "a"]], "val": [], "test": []}
    (place / "split_zhou_A.json").write_text(json.dumps(rows))
    return coop.load_coop(str(place), PairsSpec("coop:"), ())


def _scienceqa(place: Path, image: str) -> Any:
    row = {"question": "q", "choices": ["a", "b"], "answer": 0, "image": image}
    (place / "problems.json").write_text(json.dumps({"1": row}))
    (place / "pid_splits.json").write_text(json.dumps({"train": ["1"]}))
    return scienceqa.load_scienceqa(f"scienceqa:{place}", "train", False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("load", [_dialogues, _jsonl, _coop, _scienceqa])
def test_rows_that_name_no_picture_are_refused(refused, load, name, tmp_path):
    (tmp_path / "circle.png").symlink_to("circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    message = refused(lambda: load(tmp_path, NAMES[name]))
    assert re.search(r"(no picture at|its picture|cannot be the name of a file)", message), message


ROWS: dict[str, tuple[Any, str]] = {
    "picture -1": (-1, "row 1: asks about picture -1, but .* is missing"),
    "picture 10^9": (10**9, "row 1: asks about picture 1000000000"),
    "picture 10^30": (10**30, "row 1: asks about picture 1000"),
    "true": (True, "row 1: expected .question, answer, picture number"),
    "a fraction": (1.0, "row 1: expected"),
    "a text": ("1", "row 1: expected"),
    "null": (None, "row 1: expected"),
    "a list": ([1], "row 1: expected"),
}


def _vqa(place: Path, *pictures: Any) -> str:
    folder = place / "train"
    (folder / "images").mkdir(parents=True)
    for number in pictures:
        if type(number) is int and number < 2:
            Image.new("RGB", (8, 6)).save(folder / "images" / f"{number}.png")
    rows = [["what is it?", "circle", number] for number in pictures]
    (folder / "questions.json").write_text(json.dumps(rows))
    return f"easy_vqa:{place}"


@pytest.mark.parametrize("name", ROWS)
def test_questions_about_no_picture_are_refused(refused, name, tmp_path):
    value, match = ROWS[name]
    source = _vqa(tmp_path, 0, value)
    message = refused(lambda: easy_vqa.load_easy_vqa(source, "train"))
    assert re.search(rf"questions\.json, {match}", message), message


def test_a_large_number_of_a_picture_costs_nothing(tmp_path):
    source = _vqa(tmp_path, 1, 0)
    folder = tmp_path / "train"
    (folder / "images" / "1.png").rename(folder / "images" / f"{10**6}.png")
    questions = folder / "questions.json"
    questions.write_text(questions.read_text().replace('"circle", 1', f'"circle", {10**6}'))
    found = easy_vqa.load_easy_vqa(source, "train")
    assert [q.image for q in found.questions] == [1, 0]
    assert [p.name for p in found.images] == ["0.png", f"{10**6}.png"]
