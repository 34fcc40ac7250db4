"""ScienceQA in its true layout: the published prompt, the authors' splits, damage by problem."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmjax.data import scienceqa
from mmjax.errors import DataError

ROW = {
    "question": "Which is  bigger?",
    "choices": ["a mouse", "an elephant", "an ant"],
    "answer": 1,
    "hint": "",
    "image": None,
    "task": "closed choice",
    "grade": "grade2",
    "subject": "natural science",
    "topic": "biology",
    "category": "Animals",
    "skill": "Compare",
    "lecture": "Size is\nhow big.",
    "solution": "Elephants  are big.",
    "split": "train",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    rows = {
        "3": ROW,
        "7": {**ROW, "hint": "Look at the picture.", "image": "image.png"},
        "11": {**ROW, "lecture": "", "solution": "", "subject": "social science"},
        "12": {**ROW, "image": "image.png", "grade": "grade12"},
    }
    splits = {"train": ["7", "3"], "val": ["11"], "test": ["12"], "minival": ["11"]}
    (tmp_path / "problems.json").write_text(json.dumps(rows))
    (tmp_path / "pid_splits.json").write_text(json.dumps(splits))
    (tmp_path / "captions.json").write_text(json.dumps({"captions": {"7": "Two animals."}}))
    for side, pid in (("train", "7"), ("test", "12")):
        (tmp_path / "images" / side / pid).mkdir(parents=True)
        Image.new("RGB", (9, 7), "red").save(tmp_path / "images" / side / pid / "image.png")
    return tmp_path


def test_problems_are_asked_as_published(folder):
    found = scienceqa.load_scienceqa(f"scienceqa:{folder}", "train")
    assert [p.id for p in found.problems] == ["7", "3"]  # in the order of the split
    assert found.problems[1].prompt == (
        "Question: Which is bigger?\nContext: N/A\n"
        "Options: (A) a mouse (B) an elephant (C) an ant\nResponse:"
    )
    assert found.problems[1].target == (
        r"The answer is B. BECAUSE: Size is\nhow big. Elephants are big."
    )
    assert found.problems[0].prompt.splitlines()[1] == "Context: Look at the picture."
    assert [one.image for one in found.conversations] == [0, None]
    assert found.images == (folder / "images" / "train" / "7" / "image.png",)
    asked, told = found.conversations[0].turns
    assert (asked.learn, told.learn) == (False, True)
    (bare,) = scienceqa.load_scienceqa(f"scienceqa:{folder}", "val").problems
    assert bare.target == "The answer is B. BECAUSE:"
    assert (bare.subject, bare.grade) == ("social science", 2)


def test_captions_are_read_where_they_are_asked_for(folder):
    one, other = scienceqa.load_scienceqa(f"scienceqa:{folder}", "train", captions=True).problems
    assert one.prompt.splitlines()[1] == "Context: Look at the picture. Two animals."
    assert other.prompt.splitlines()[1] == "Context: N/A"


def rewrite(folder: Path, **changes: object) -> None:
    rows = json.loads((folder / "problems.json").read_text())
    rows["3"] |= changes
    (folder / "problems.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "problems.json").write_text("{"), "cannot read .*problems.json"),
        (lambda f: (f / "problems.json").write_bytes(b'{"a": "\xff"}'), "cannot read .*utf-8"),
        (lambda f: (f / "problems.json").write_text("[]"), "expected a JSON object, found list"),
        (lambda f: (f / "problems.json").write_text("{}"), "problem 7: pid_splits.json lists it"),
        (lambda f: (f / "pid_splits.json").write_text('{"val": []}'), "lists no 'train' problems"),
        (lambda f: shutil.rmtree(f / "images"), "problem 7: its picture .* is missing"),
        (lambda f: rewrite(f, answer=3), "problem 3: 'answer' is 3, with 3 choices"),
        (lambda f: rewrite(f, choices=["one"]), "problem 3: 'choices' is"),
        (lambda f: rewrite(f, question=" "), "problem 3: an empty question"),
        (lambda f: rewrite(f, lecture=5), "problem 3: 'lecture' is 5"),
        (lambda f: rewrite(f, subject="art"), "problem 3: 'subject' is 'art'"),
        (lambda f: rewrite(f, grade="grade13"), "problem 3: 'grade' is 'grade13'"),
    ],
)
def test_damage_is_named_by_problem(damage, message, folder):
    damage(folder)
    with pytest.raises(DataError, match=message):
        scienceqa.load_scienceqa(f"scienceqa:{folder}", "train")
