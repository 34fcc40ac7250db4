"""ScienceQA's accuracies by subject, context and grade, and the answer in what a model says."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mmjax.data.scienceqa import LETTERS, SUBJECTS, Problem

AVERAGE = "vqa_acc"  # of all problems alike: the paper's Avg
SLICES = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", AVERAGE)
UNANSWERED = "unanswered"
NONE = -1  # no option was named
_ANSWER = re.compile(r"The answer is ([A-Z]).")  # the original's: any character may follow


def read_answer(text: str, options: int) -> int:
    """The option that a text names: the first "The answer is X" that goes on in its line.

    It is read as the original evaluation does, for which any character may follow the letter: a
    period, a space, but also another letter ("The answer is Bob" names B). A text that ends with
    the letter names none.

    Args:
      text: what the model wrote.
      options: how many the problem has.

    Returns:
      Its index, or `NONE` where no letter is named, or one that is no option.
    """
    match = _ANSWER.search(text)
    index = LETTERS.find(match[1]) if match else NONE
    return index if index < options else NONE


def guess(
    chosen: Int[np.ndarray, " n"], problems: Sequence[Problem], seed: int
) -> Int[np.ndarray, " n"]:
    """Draws an option wherever none was named, all alike, as the original evaluation does."""
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.integers(len(p.choices)) for p in problems])
    return np.where(chosen == NONE, drawn, chosen)


def slices(problem: Problem) -> tuple[str, ...]:
    """The published slices that a problem belongs to."""
    has_text, has_image = bool(problem.hint), problem.image is not None
    return (
        SUBJECTS[problem.subject],
        *(["TXT"] if has_text else []),
        *(["IMG"] if has_image else []),
        *(["NO"] if not has_text and not has_image else []),
        "G1-6" if problem.grade <= 6 else "G7-12",
        AVERAGE,
    )


def sliced(values: Sequence[float], problems: Sequence[Problem]) -> dict[str, float]:
    """Means over every slice.

    Args:
      values: one number a problem.
      problems: the n problems.

    Returns:
      Slice -> mean, in the order of `SLICES`; a slice without problems is left out.

    Source: Lu et al. 2022 (ScienceQA), table 4: subjects, contexts (text, image, none), grades.
    """
    by_slice: dict[str, list[float]] = {}
    for value, problem in zip(values, problems, strict=True):
        for name in slices(problem):
            by_slice.setdefault(name, []).append(float(value))
    return {name: float(np.mean(by_slice[name])) for name in SLICES if name in by_slice}


def accuracies(chosen: Int[np.ndarray, " n"], problems: Sequence[Problem]) -> dict[str, float]:
    """Accuracy by slice.

    Args:
      chosen: indices of options; `NONE` counts as wrong.
      problems: the n problems.

    Returns:
      As `sliced`, and the share `unanswered`.
    """
    right = [int(c) == p.answer for c, p in zip(chosen, problems, strict=True)]
    return {**sliced(right, problems), UNANSWERED: float(np.mean(np.asarray(chosen) == NONE))}


def without_reading(
    train: Sequence[Problem], problems: Sequence[Problem]
) -> dict[str, dict[str, float]]:
    """What answers give that were chosen without reading the problem.

    Args:
      train: problems with their answers.
      problems: what is to be answered.

    Returns:
      `chance`: expected accuracy of drawing an option; `majority`: always the commonest letter of
      the training problems; each as `sliced`.
    """
    commonest = Counter(p.answer for p in train).most_common(1)[0][0]
    return {
        "chance": sliced([1 / len(p.choices) for p in problems], problems),
        "majority": sliced([p.answer == commonest for p in problems], problems),
    }
