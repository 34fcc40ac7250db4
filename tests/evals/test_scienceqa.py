"""ScienceQA's slices, counted by hand, and letters read out of texts."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from mmjax.data.conversations import Conversations
from mmjax.data.scienceqa import Problem
from mmjax.data.tables import RawTable
from mmjax.evals.scienceqa import NONE, accuracies, guess, read_answer, without_reading
from mmjax.specs.instruct import QuestionsSpec
from mmjax.tasks.instruct.data import ProblemSet

ONE = Problem("1", "q", ("a", "b"), 0, "", "", "", "natural science", 6)
PROBLEMS = [
    ONE,  # NAT, neither text nor image, grade 6
    dataclasses.replace(ONE, answer=1, hint="read", subject="social science", grade=7),
    dataclasses.replace(ONE, image=0, subject="social science", grade=1),
    dataclasses.replace(
        ONE, choices=("a", "b", "c", "d"), answer=3, hint="read", image=1, grade=12
    ),
]


def test_slices_overlap_as_published():
    found = accuracies(np.array([0, 1, 1, 3]), PROBLEMS)  # only the third is wrong
    assert found == {
        **{"NAT": 1.0, "SOC": 1 / 2, "TXT": 1.0, "IMG": 1 / 2, "NO": 1.0},
        **{"G1-6": 1 / 2, "G7-12": 1.0, "vqa_acc": 3 / 4, "unanswered": 0.0},
    }
    assert list(found)[:2] == ["NAT", "SOC"]  # nothing was asked about language: no column


@pytest.mark.parametrize(
    ("said", "options", "index"),
    [
        ("The answer is B. BECAUSE: The answer is A.", 2, 1),
        ("Well. The answer is A.", 2, 0),
        ("The answer is C.", 2, NONE),  # no such option
        ("The answer is b.", 2, NONE),
        ("The answer is B because it is", 5, 1),
        ("The answer is B, I think. The answer is A.", 5, 1),
        ("The answer is B\nThe answer is A.", 5, 0),  # no line break stands for a character
        ("The answer is Bob.", 5, 1),  # so it counts in the original
        ("The answer is C The answer is A.", 2, NONE),  # the first counts, be it no option
        ("The answer is B", 5, NONE),  # nothing follows
        ("B", 5, NONE),
        ("", 5, NONE),
    ],
)
def test_the_first_letter_counts_as_in_the_original(said, options, index):
    assert read_answer(said, options) == index


def test_the_unanswered_are_wrong_or_drawn():
    texts = ["The answer is A.", "I do not know", "", "The answer is D."]

    def run(**settings: Any) -> dict[str, float]:
        spec = QuestionsSpec("scienceqa:x", **settings)
        functions = {"said": lambda asked, most: texts[: len(PROBLEMS)] if most == 64 else []}
        return _problem_set(spec).run([], functions)

    wrong = run()
    assert (wrong["vqa_acc"], wrong["unanswered"]) == (2 / 4, 2 / 4)
    drawn = [run(unanswered="random", unanswered_seed=seed) for seed in range(32)]
    assert {found["unanswered"] for found in drawn} == {2 / 4}
    assert {found["vqa_acc"] for found in drawn} == {2 / 4, 3 / 4, 4 / 4}
    assert run(unanswered="random", unanswered_seed=3) == drawn[3]


def _problem_set(spec: QuestionsSpec) -> ProblemSet:
    none = Conversations([], np.zeros(0, np.int64), RawTable([], lambda x: {}), 1, True)
    return ProblemSet(none, PROBLEMS, spec)


def test_guesses_are_among_the_options_and_leave_answers_alone():
    drawn = np.array([guess(np.array([NONE, 1, NONE, NONE]), PROBLEMS, s) for s in range(200)])
    assert (drawn[:, 1] == 1).all()
    assert [sorted(set(drawn[:, i])) for i in (0, 2, 3)] == [[0, 1], [0, 1], [0, 1, 2, 3]]


def test_the_likeliest_letter_is_taken_among_the_options():
    asked: list[list[str]] = []

    def options(conversations: object, texts: list[list[str]]) -> list[np.ndarray]:
        asked.extend(texts)
        return [np.array([-1.0, -2, -3, -0.5][: len(t)]) for t in texts]

    found = _problem_set(QuestionsSpec("scienceqa:x", answering="likelihood")).run(
        [], {"options": options}
    )
    assert asked[0] == ["The answer is A", "The answer is B"]
    assert len(asked[3]) == 4
    assert (found["vqa_acc"], found["unanswered"]) == (3 / 4, 0.0)


def test_what_needs_no_reading():
    found = without_reading([PROBLEMS[1], PROBLEMS[1], ONE], PROBLEMS)
    assert found["chance"]["vqa_acc"] == (3 * 1 / 2 + 1 / 4) / 4
    assert found["majority"]["vqa_acc"] == 1 / 4  # always B
    assert found["majority"]["G7-12"] == 1 / 2
