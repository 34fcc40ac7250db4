"""Exact match on questions, yes/no and others apart, and what needs no picture to answer them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from mmjax.data.easy_vqa import Question

YES_NO = ("yes", "no")


def accuracies(right: Bool[np.ndarray, " n"], questions: Sequence[Question]) -> dict[str, float]:
    """Shares of right answers.

    Args:
      right: bool [n].
      questions: the n questions.

    Returns:
      `vqa_acc` of all, `vqa_yes_no` and `vqa_other` of those whose answer is, or is not, yes or no;
      a kind that was not asked is left out.
    """
    binary = np.array([q.answer in YES_NO for q in questions], bool)
    kinds = {"vqa_acc": np.ones_like(binary), "vqa_yes_no": binary, "vqa_other": ~binary}
    return {name: float(right[kind].mean()) for name, kind in kinds.items() if kind.any()}


def without_pictures(
    train: Sequence[Question], asked: Sequence[Question]
) -> dict[str, dict[str, float]]:
    """What the training questions alone give.

    Args:
      train: questions with their answers.
      asked: what is to be answered.

    Returns:
      `majority`: always the commonest answer; `question`: the commonest answer to the same words
      (the commonest of all for words that were never asked), each as `accuracies`.
    """
    everything = Counter(q.answer for q in train)
    commonest = everything.most_common(1)[0][0]
    by_text: dict[str, Counter[str]] = {}
    for q in train:
        by_text.setdefault(q.text, Counter())[q.answer] += 1
    known = {text: counts.most_common(1)[0][0] for text, counts in by_text.items()}
    return {
        "majority": accuracies(np.array([q.answer == commonest for q in asked]), asked),
        "question": accuracies(
            np.array([q.answer == known.get(q.text, commonest) for q in asked]), asked
        ),
    }
