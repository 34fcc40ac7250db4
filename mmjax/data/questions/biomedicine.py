"""Questions about medical pictures: SLAKE, PathVQA, VQA-RAD, PMC-VQA."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.files import text_of
from mmjax.data.questions.question import (
    Question,
    kind_of,
    listed,
    parquet,
    table,
    text_or_number,
)
from mmjax.errors import DataError, shown

OPEN, CLOSED = "open", "closed"
_KINDS = (OPEN, CLOSED)
_LETTERS = "ABCD"
_KEY = re.compile(r"\s*[A-D]\s*:\s*")


def slake(folder: Path) -> list[Question]:
    """The English test questions of SLAKE 1.0, as its authors and BoKelvin/SLAKE hand them out.

    FOLDER/test.json        a list of {"qid", "img_name", "q_lang", "answer_type", "question",
                            "answer", ...}
    FOLDER/imgs/IMG_NAME

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    return [
        _question(place, row, folder / "imgs", "img_name")
        for place, row in listed(folder / "test.json")
        if kind_of(place, row, "q_lang", ("en", "zh")) == "en"
    ]


def path_vqa(folder: Path) -> list[Question]:
    """The test questions of PathVQA, as flaviagiammarino/path-vqa on the Hugging Face Hub.

    FOLDER/data/test-*.parquet    columns image, question, answer

    An answer that is "yes" or "no" makes a question closed: 3,362 of 6,719 are.

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    questions: list[Question] = []
    for place, row, picture in parquet(folder / "data", "test-*.parquet", ["question", "answer"]):
        answer = text_or_number(place, row, "answer")
        kind = CLOSED if answer.lower() in ("yes", "no") else OPEN
        questions.append(
            Question(
                str(len(questions)), text_of(place, row, "question"), picture, (answer,), (), kind
            )
        )
    return questions


def vqa_rad(folder: Path) -> list[Question]:
    """The test questions of VQA-RAD, as its authors hand it out on OSF (version of 2018).

    FOLDER/VQA_RAD Dataset Public.json     a list of {"qid", "phrase_type", "image_name",
                                           "question", "answer", "answer_type", ...}
    FOLDER/VQA_RAD Image Folder/IMAGE_NAME

    Test questions are those whose phrase_type begins with "test": 451, of which answer_type calls
    272 closed. Counting answers of yes and no, as others do, gives 251.

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    return [
        _question(place, row, folder / "VQA_RAD Image Folder", "image_name")
        for place, row in listed(folder / "VQA_RAD Dataset Public.json")
        if text_of(place, row, "phrase_type").startswith("test")
    ]


def _question(place: str, row: Mapping[str, Any], images: Path, name: str) -> Question:
    """A row whose picture's name stands under `name`; it says itself whether it is open."""
    return Question(
        text_or_number(place, row, "qid"),
        text_of(place, row, "question"),
        images / text_of(place, row, name),
        (text_or_number(place, row, "answer"),),
        kind=kind_of(place, row, "answer_type", _KINDS),
    )


def pmc_vqa(folder: Path) -> list[Question]:
    """The clean test questions of PMC-VQA's version 1, as xmcmic/PMC-VQA on the Hugging Face Hub.

    FOLDER/test_clean.csv     columns Figure_path, Question, Choice A to Choice D, Answer_label
    FOLDER/images/FIGURE_PATH

    Raises:
      DataError: names the file and the row that is not as it should be.
    """
    choices = [f"Choice {letter}" for letter in _LETTERS]
    questions: list[Question] = []
    columns = ["Figure_path", "Question", *choices, "Answer_label"]
    for place, row in table(folder / "test_clean.csv", columns):
        options = tuple(_KEY.sub("", text_of(place, row, key), count=1) for key in choices)
        label = row["Answer_label"].strip()
        if label not in tuple(_LETTERS):
            raise DataError(f"{place}: 'Answer_label' is {shown(label)}; expected A, B, C or D")
        picture = folder / "images" / text_of(place, row, "Figure_path")
        right = (options[_LETTERS.index(label)],)
        text = text_of(place, row, "Question")
        questions.append(Question(str(len(questions)), text, picture, right, options))
    return questions
