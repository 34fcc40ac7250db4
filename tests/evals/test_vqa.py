"""Exact match by kinds of question, and what needs no picture, against figures counted by hand."""

import numpy as np

from mmjax.data.easy_vqa import EasyVqaQuestion
from mmjax.evals.vqa import accuracies, probes, without_images

TRAIN = [
    *[EasyVqaQuestion("is it red?", "no", i) for i in range(2)],
    EasyVqaQuestion("is it red?", "yes", 2),
    *[EasyVqaQuestion("which shape?", "circle", i) for i in range(4)],
    EasyVqaQuestion("which colour?", "blue", 0),
]
ASKED = [
    EasyVqaQuestion("is it red?", "no", 9),
    EasyVqaQuestion("is it red?", "yes", 8),
    EasyVqaQuestion("which shape?", "circle", 9),
    EasyVqaQuestion("which shape?", "square", 8),
    EasyVqaQuestion("which colour?", "blue", 9),
    EasyVqaQuestion("how many?", "circle", 9),
]


def test_kinds_are_counted_apart_and_those_not_asked_are_left_out():
    right = np.array([True, False, True, True, False, True])
    assert accuracies(right, ASKED) == {"vqa_acc": 4 / 6, "vqa_yes_no": 1 / 2, "vqa_other": 3 / 4}
    assert accuracies(right[2:], ASKED[2:]) == {"vqa_acc": 3 / 4, "vqa_other": 3 / 4}


def test_commonest_answers():
    found = without_images(TRAIN, ASKED)
    # "circle" everywhere: the third and the last question.
    assert found["majority"] == {"vqa_acc": 2 / 6, "vqa_yes_no": 0.0, "vqa_other": 2 / 4}
    # "no", "circle" and "blue" to the same words; "circle" to words that were never asked.
    assert found["question"] == {"vqa_acc": 4 / 6, "vqa_yes_no": 1 / 2, "vqa_other": 3 / 4}


def test_a_linear_probe_cannot_join_picture_and_words_and_a_network_can():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 400)
    features = (2 * kinds[:, None] - 1 + 0.1 * rng.standard_normal((400, 5))).astype(np.float32)
    texts = ("is it red?", "is it blue?")
    questions = [
        EasyVqaQuestion(text, "yes" if kind == n else "no", picture)
        for picture, kind in enumerate(kinds)
        for n, text in enumerate(texts)
    ] + [EasyVqaQuestion("which colour?", ("red", "blue")[kind], p) for p, kind in enumerate(kinds)]
    train = [q for q in questions if q.image < 300]
    asked = [q for q in questions if q.image >= 300]
    found = probes(train, asked, features, seed=0)
    assert found["probe_linear"]["vqa_yes_no"] < 0.7
    assert found["probe_linear"]["vqa_other"] > 0.95
    assert found["probe_mlp"]["vqa_acc"] > 0.95
    few = probes(train[:6], asked, features, seed=0)  # nothing can be held out of them
    assert 0 <= few["probe_mlp"]["vqa_acc"] <= 1
