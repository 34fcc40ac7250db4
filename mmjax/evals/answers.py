"""Free answers against the right one: as published scripts count them, and as they should be.

Published scripts find "no" in "abnormal" and count a word as often as it is repeated; what follows
their arithmetic is called `legacy`. What is called `strict` reads words, not letters.
"""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from mmjax.evals.options import conclusion, named
from mmjax.evals.short_answers import normalised

_YES_NO = re.compile(r"\b(yes|no)\b")
# A "yes" or "no" that is a sentence or its own part of one: "Yes, there is no mass."
_ALONE = re.compile(r"(?:^|[.,;:!?\n])[\s\"'*]*(yes|no)[\s\"'*]*(?=[.,;:!?\n]|$)")
_ITEMS = re.compile(r"[,;\n•]|\band\b")


def read_yes_no(answer: str) -> Literal["yes", "no", "other"]:
    """The last yes or no of an answer, as a word.

    What stands behind "the answer is" goes before the rest, and one that stands alone before "no"
    as a part of a sentence.

    Args:
      answer: an answer of any length.

    Returns:
      Which it is; `other` where neither is said.
    """
    for part in (conclusion(answer).lower(), answer.lower()):
        words = _ALONE.findall(part) or _YES_NO.findall(part)
        if words:
            return words[-1]
    return "other"


def legacy_closed(answer: str, truth: str) -> bool:
    """Whether the letters of the right answer stand anywhere: "no" stands in "abnormal".

    Source: Li et al. 2023 (LLaVA-Med), which AdaMLLM (arXiv 2411.19930) follows.
    """
    return truth.lower() in answer.lower()


def strict_closed(answer: str, truth: str) -> bool:
    """Whether yes or no is the right one; whether any other right answer stands there as words."""
    if truth.lower() in ("yes", "no"):
        return read_yes_no(answer) == truth.lower()
    return bool(named(conclusion(answer), (truth,)))


def legacy_recall(answer: str, truth: str) -> float:
    """How many words of the answer are right, against those and the right ones that lack.

    A right word counts as often as it is repeated, and wrong ones cost nothing.

    Source: as `legacy_closed`.
    """
    words, true_words = Counter(normalised(answer).split()), Counter(normalised(truth).split())
    right = sum(count for word, count in words.items() if word in true_words)
    lacking = sum(count for word, count in true_words.items() if word not in words)
    return right / (right + lacking) if right else 0.0


def strict_recall(answer: str, truth: str) -> tuple[float, float]:
    """(share of the right answer's different words that are said, F1 of both sets of words)."""
    words, true_words = set(normalised(answer).split()), set(normalised(truth).split())
    return _recall_f1(len(words & true_words), len(words), len(true_words))


def legacy_ingredients(answer: str, wanted: Sequence[str]) -> float:
    """Share of names whose letters stand anywhere: "oil" in "boiled"; long lists win."""
    return sum(name.lower() in answer.lower() for name in wanted) / len(wanted)


def strict_ingredients(answer: str, wanted: Sequence[str]) -> tuple[float, float]:
    """Recall and F1 of a list of names.

    Args:
      answer: the answer, in which commas, semicolons, line ends and "and" part the items of a list.
      wanted: the right names.

    Returns:
      Share of the right names that stand there as words; its F1 with the share of items that name
      a right one.
    """
    names = tuple(wanted)
    items = [item for item in _ITEMS.split(answer) if normalised(item)]
    hits = named(answer, names)
    precise = sum(bool(named(item, names)) for item in items) / len(items) if items else 0.0
    recall = len(hits) / len(names)
    both = precise + recall
    return recall, 2 * precise * recall / both if both else 0.0


def shares(answers: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Shares of right answers, strict and as published scripts count.

    Args:
      answers: n answers of any length.
      truths: the right ones.

    Returns:
      `right` of all, strictly; `closed` and `open` (those whose truth is, or is not, yes or no),
      each with `_strict` and `_legacy`; a kind that was not asked is left out.
    """
    pairs = list(zip(answers, truths, strict=True))
    strict = [strict_closed(one, truth) for one, truth in pairs]
    legacy = [legacy_closed(one, truth) for one, truth in pairs]
    closed = [truth.lower() in ("yes", "no") for truth in truths]
    figures = {"right": statistics.fmean(strict)}
    for name, is_closed in (("closed", True), ("open", False)):
        rows = [i for i, one in enumerate(closed) if one == is_closed]
        if rows:
            figures[f"{name}_strict"] = statistics.fmean(strict[i] for i in rows)
            figures[f"{name}_legacy"] = statistics.fmean(legacy[i] for i in rows)
    return figures


def set_f1(items: set[int], wanted: set[int]) -> float:
    """F1 of one set against the right one; 1 where both are empty."""
    if not items and not wanted:
        return 1.0
    return _recall_f1(len(items & wanted), len(items), len(wanted))[1]


def _recall_f1(both: int, items: int, wanted: int) -> tuple[float, float]:
    return (both / wanted if wanted else 0.0), (2 * both / (items + wanted) if both else 0.0)
