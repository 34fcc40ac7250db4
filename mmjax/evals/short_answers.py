"""Metrics of short answers: MME's yes and no, and VQA's exact match."""

import re
from collections.abc import Sequence
from typing import Literal

_ARTICLES = ("a", "an", "the")
_DIGITS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(i) for i, word in enumerate(_DIGITS)} | {"zero": "0"}
_PUNCTUATION = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`?!,]|\.(?!\d)")
_DROPPED = re.compile(r"'|(?<=\d),(?=\d)")


def read_yes_no(answer: str) -> Literal["yes", "no", "other"]:
    """MME's reading of an answer: `yes` or `no` among its first four characters."""
    start = answer.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def mme(answers: Sequence[str], wanted: Sequence[str], images: Sequence[str]) -> dict[str, float]:
    """MME's accuracies of one subtask.

    Args:
      answers: n.
      wanted: "yes" or "no" for each.
      images: which image each is about; MME asks two questions about every one.

    Returns:
      `mme_acc`: share of right answers, anything but yes or no being wrong; `mme_acc_plus`: share
      of pictures of which every question is answered rightly; `mme_score`: 100 times their sum.

    Source: Fu et al. 2023 (MME, arXiv 2306.13394), section 2.2.
    """
    pairs = list(zip(answers, wanted, strict=True))
    right = [read_yes_no(answer) == truth.strip().lower() for answer, truth in pairs]
    whole: dict[str, bool] = {}
    for picture, good in zip(images, right, strict=True):
        whole[picture] = whole.get(picture, True) and good
    accuracy, plus = sum(right) / len(right), sum(whole.values()) / len(whole)
    return {"mme_acc": accuracy, "mme_acc_plus": plus, "mme_score": 100 * (accuracy + plus)}


def normalised(answer: str) -> str:
    """An answer as VQA compares it: small letters, no punctuation or articles, digits for numbers.

    Apostrophes are dropped, which does for "dont" and "don't" what VQA's list of contractions does.

    Source: Antol et al. 2015 (VQA), the evaluation's processing of answers.
    """
    words = _PUNCTUATION.sub(" ", _DROPPED.sub("", answer.lower())).split()
    return " ".join(_NUMBERS.get(w, w) for w in words if w not in _ARTICLES)


def exact_match(answers: Sequence[str], wanted: Sequence[str]) -> float:
    """Share of answers that are, normalised, the wanted ones."""
    pairs = list(zip(answers, wanted, strict=True))
    return sum(normalised(a) == normalised(b) for a, b in pairs) / len(pairs)


def consensus(answer: str, humans: Sequence[str]) -> float:
    """VQA's accuracy of one answer.

    Args:
      answer: the answer.
      humans: what people answered, ten in VQA.

    Returns:
      min(agreeing / 3, 1), averaged over all ways to leave one person out.

    Source: Antol et al. 2015 (VQA), section 3.
    """
    agree = [normalised(human) == normalised(answer) for human in humans]
    return sum(min((sum(agree) - left_out) / 3, 1.0) for left_out in agree) / len(agree)
