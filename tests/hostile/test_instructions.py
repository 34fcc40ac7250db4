"""Questions and instructions, damaged in every way: a sentence with file and row."""

import pytest

from mmjax.data import dialogues, easy_vqa, scienceqa
from tests.hostile.files import DEEP, DIGITS, LONG, png, write


@pytest.fixture
def vqa(tmp_path):
    """Returns `vqa(rows, pictures)`: the questions of a folder with these pictures."""

    def read(rows, names=("0",)):
        for name in names:
            write(tmp_path / "test" / "images" / f"{name}.png", png())
        write(tmp_path / "test" / "questions.json", rows)
        return easy_vqa.load_easy_vqa(f"easy_vqa:{tmp_path}", "test")

    return read


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([["q", "a", 10**9]], ("0", "1000000000"), "holds 2 pictures"),
        ([["q", "a", 10**9]], ("0",), "picture 1000000000"),
        ([["q", "a", -1]], ("-1",), "row 0: asks about picture -1"),
        ([["q", "a", True]], ("0",), "row 0: expected [question, answer, picture number]"),
        ([["q", "a", 0.0]], ("0",), "row 0: expected"),
        ([["q", "\ud83d", 0]], ("0",), "row 0 holds half"),
        ([[["q"], "a", 0]], ("0",), "row 0: expected"),
        ({"0": ["q", "a", 0]}, ("0",), "holds no list of questions"),
        (f'[["q", "a", {DIGITS}]]', ("0",), "thousands of digits"),
        (DEEP, ("0",), "nested too deep"),
        ("", ("0",), "cannot read"),
    ],
)
def test_easy_vqa_damaged(rows, names, message, vqa, refused):
    refused(lambda: vqa(rows, names), "questions.json", message)


def test_easy_vqa_with_a_gap_in_its_numbers(vqa):
    found = vqa([["q", "a", 0], ["q", "b", 3]], ("0", "3"))
    assert [found.images[q.image].name for q in found.questions] == ["0.png", "3.png"]


PROBLEM = {
    "question": "Which?",
    "choices": ["a", "b"],
    "answer": 1,
    "hint": "",
    "image": None,
    "grade": "grade2",
    "subject": "natural science",
    "lecture": "",
    "solution": "",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grade": "grade" + DIGITS}, "'grade' is 'grade999"),
        ({"grade": "grade٣"}, "'grade' is"),
        ({"grade": ["grade2"]}, "'grade' is ['grade2']; expected a text"),
        ({"answer": True}, "'answer' is True"),
        ({"answer": 10**30}, "'answer' is 1000"),
        ({"answer": 0.0}, "'answer' is 0.0"),
        ({"choices": [1, 2]}, "'choices' is 1; expected a text"),
        ({"choices": "ab"}, "'choices' is 'ab'"),
        ({"choices": [{"a": 1}, "b"]}, "'choices' is {'a': 1}"),
        ({"subject": ["natural science"]}, "'subject' is ['natural science']"),
        ({"image": ["image.png"]}, "'image' is ['image.png']"),
        ({"image": "../image.png"}, "'image': '../image.png' cannot be the name of a file"),
        ({"image": LONG}, "its picture"),
        ({"image": True}, "'image' is True"),
        ({"question": None}, "an empty question"),
        ({"question": "\ud83d"}, "'question' holds half"),
        ({"lecture": 5}, "'lecture' is 5"),
        (None, "expected an object, got None"),
        ([], "expected an object, got []"),
    ],
)
def test_scienceqas_problems_damaged(changes, message, tmp_path, refused):
    problem = PROBLEM | changes if isinstance(changes, dict) else changes
    write(tmp_path / "problems.json", {"7": problem})
    write(tmp_path / "pid_splits.json", {"train": ["7"]})
    refused(
        lambda: scienceqa.load_scienceqa(f"scienceqa:{tmp_path}", "train"), "problem 7", message
    )


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": "7"}, "lists no 'train' problems"),
        ({"train": [["7"]]}, "'train' lists ['7']"),
        ({"train": [None]}, "'train' lists None"),
        ({"train": ["7", 7]}, "lists it twice"),
        ({"train": ["../7"]}, "'../7' cannot be the name of a file"),
        ({"train": [LONG]}, "pid_splits.json lists it as train, but it is not there"),
        ([], "expected a JSON object"),
    ],
)
def test_scienceqas_lists_damaged(splits, message, tmp_path, refused):
    write(tmp_path / "problems.json", {"7": PROBLEM})
    write(tmp_path / "pid_splits.json", splits)
    refused(lambda: scienceqa.load_scienceqa(f"scienceqa:{tmp_path}", "train"), message)


TALK = [{"from": "human", "value": "<image> what?"}, {"from": "gpt", "value": "a cat"}]
INSTRUCTIONS = {
    "an image of 5,000 letters": ("llava", [{"image": LONG, "conversations": TALK}], "row 0: its"),
    "an image with NUL": ("llava", [{"image": "a\0", "conversations": TALK}], "row 0: its picture"),
    "an image that is a number": ("llava", [{"image": 5, "conversations": TALK}], "'image' is 5"),
    "an image that is an object": (
        "llava",
        [{"image": [{"a": 1}], "conversations": TALK}],
        "'image' is {'a': 1}",
    ),
    "a turn that is a text": ("llava", [{"conversations": ["a", "b"]}], "row 0, turn 0: expected"),
    "a role that is a list": (
        "llava",
        [{"conversations": [{"from": ["human"], "value": "a"}] * 2}],
        "row 0, turn 0: expected",
    ),
    "an answer that is a number": (
        "llava",
        [{"conversations": [TALK[0], {"from": "gpt", "value": 5}]}],
        "row 0, turn 1: expected",
    ),
    "half a surrogate": (
        "alpaca",
        [{"instruction": "a", "input": "", "output": "\ud83d"}],
        "row 0: not UTF-8 text",
    ),
    "an output of null": (
        "alpaca",
        [{"instruction": "a", "output": None}],
        "row 0: expected texts",
    ),
    "a row that is a list": ("alpaca", [[1]], "row 0: expected an object, got [1]"),
    "nested deep": ("alpaca", f'[{{"instruction": {DEEP}}}]', "nested too deep"),
    "a number of 5,000 digits": ("alpaca", f'[{{"input": {DIGITS}}}]', "thousands of digits"),
    "no list": ("llava", {"a": 1}, "holds no list of rows"),
    "nothing": ("llava", "", "cannot read"),
    "an empty list": ("llava", [], "holds no list of rows"),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_damaged(name, tmp_path, refused):
    kind, rows, message = INSTRUCTIONS[name]
    path = write(tmp_path / "rows.json", rows)
    refused(
        lambda: dialogues.load_dialogues([f"{kind}:{path}"], str(tmp_path)), "rows.json", message
    )
