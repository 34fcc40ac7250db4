"""The few-shot protocol: which pictures are shown, which classes are new, and what is measured.

Fixed seeds draw the shots, fewer shots are the first ones of more, one set of hyper-parameters
serves all numbers of shots, and no held-out picture chooses a step or a setting: the last step
counts. (CLAP, arXiv 2312.12730, section 3, on what few-shot figures are worth otherwise.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mmjax.errors import MmjaxError, setting
from mmjax.evals.base import EvalSet, Functions


def check_classes(names: Sequence[str]) -> None:
    """Refuses a classification without a choice.

    Raises:
      MmjaxError: fewer than two classes.
    """
    if len(names) < 2:
        raise MmjaxError(
            f"few-shot classification needs at least 2 classes, there are {list(names)}; label the "
            f"items, or set a lower --{setting('fewshot.min_families')}"
        )


def choose_shots(
    labels: Int[np.ndarray, " k"], names: Sequence[str], shots: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Draws the training pictures of every class.

    Args:
      labels: class of each candidate, -1 for none.
      names: of the classes.
      shots: pictures a class.
      seed: draws them; with the same seed, fewer shots are the first ones of more.

    Returns:
      Indices into `labels`, class by class.

    Raises:
      MmjaxError: a class with fewer candidates than shots, or fewer than two classes.
    """
    check_classes(names)
    by_class = [np.flatnonzero(labels == c) for c in range(len(names))]
    few = {name: len(f) for name, f in zip(names, by_class, strict=True) if len(f) < shots}
    if few:
        worst = ", ".join(f"{name}: {count}" for name, count in sorted(few.items())[:5])
        raise MmjaxError(
            f"{len(few)} classes have fewer than {shots} training pictures ({worst}"
            f"{', ...' if len(few) > 5 else ''}); set fewer --{setting('fewshot.shots')}, or leave "
            f"small classes out with --{setting('fewshot.min_families')}"
        )
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(members)[:shots] for members in by_class])


def base_and_new(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Base and new classes: the first half and the second, as CoOp's successors split them.

    Raises:
      MmjaxError: a half with fewer than two classes.
    """
    middle = -(-len(names) // 2)
    parts = list(names[:middle]), list(names[middle:])
    for part in parts:
        check_classes(part)
    return parts


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1 / base + 1 / new), 0 where one of them is.

    Source: CoCoOp (arXiv 2203.05557), table 1.
    """
    return 2 * base * new / (base + new) if base > 0 and new > 0 else 0.0


@dataclass(frozen=True)
class FewShot:
    """Classification by the published function `score`."""

    def run(self, functions: Functions, data: EvalSet) -> dict[str, float]:
        """Returns `accuracy` over items and `class_accuracy`, the mean over classes."""
        right = self.predict(functions, data) == data.labels
        present = np.unique(data.labels)
        return {
            "accuracy": float(right.mean()),
            "class_accuracy": float(np.mean([right[data.labels == c].mean() for c in present])),
        }

    def predict(self, functions: Functions, data: EvalSet) -> Int[np.ndarray, " n"]:
        """The class that every picture goes to."""
        return functions["score"](data.images).argmax(axis=1)
