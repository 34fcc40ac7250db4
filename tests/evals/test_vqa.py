"""Exact match by kinds of question, and what needs no picture, against figures counted by hand."""

import numpy as np

from mmjax.data.easy_vqa import Question
from mmjax.evals.vqa import accuracies, without_pictures

TRAIN = [
    *[Question("is it red?", "no", i) for i in range(2)],
    Question("is it red?", "yes", 2),
    *[Question("which shape?", "circle", i) for i in range(4)],
    Question("which colour?", "blue", 0),
]
ASKED = [
    Question("is it red?", "no", 9),
    Question("is it red?", "yes", 8),
    Question("which shape?", "circle", 9),
    Question("which shape?", "square", 8),
    Question("which colour?", "blue", 9),
    Question("how many?", "circle", 9),
]


def test_kinds_are_counted_apart_and_those_not_asked_are_left_out():
    right = np.array([True, False, True, True, False, True])
    assert accuracies(right, ASKED) == {"vqa_acc": 4 / 6, "vqa_yes_no": 1 / 2, "vqa_other": 3 / 4}
    assert accuracies(right[2:], ASKED[2:]) == {"vqa_acc": 3 / 4, "vqa_other": 3 / 4}


def test_commonest_answers():
    found = without_pictures(TRAIN, ASKED)
    # "circle" everywhere: the third and the last question.
    assert found["majority"] == {"vqa_acc": 2 / 6, "vqa_yes_no": 0.0, "vqa_other": 2 / 4}
    # "no", "circle" and "blue" to the same words; "circle" to words that were never asked.
    assert found["question"] == {"vqa_acc": 4 / 6, "vqa_yes_no": 1 / 2, "vqa_other": 3 / 4}
