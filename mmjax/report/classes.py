"""How each class of a recipe fared: its items, the right answers, what it was taken for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from mmjax.data.labels import LeftOut
from mmjax.data.records import Corpus

EXAMPLES = 10  # right ones, and as many wrong ones


@dataclass(frozen=True)
class ClassFigures:
    """The classes of a recipe, as its main system tells them apart.

    Attributes:
      system: whose answers they are.
      names: of the classes.
      items: of each class.
      train: [seed][class] of them on the training side.
      asked: [seed][class] of them asked about.
      right: [seed][class] right answers.
      said: class -> answer -> how often, over all seeds.
      examples: [item, class, answer] of the first seed, right ones before wrong ones.
      left_out: classes of the source that are neither learnt nor asked about.
    """

    system: str
    names: Sequence[str]
    items: Sequence[int]
    train: Sequence[Sequence[int]]
    asked: Sequence[Sequence[int]]
    right: Sequence[Sequence[int]]
    said: Mapping[str, Mapping[str, int]]
    examples: Sequence[Sequence[str]]
    left_out: Sequence[LeftOut] = ()

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> "ClassFigures":
        """What `dataclasses.asdict` made of one."""
        left_out = [LeftOut(**fields) for fields in values["left_out"]]
        return cls(**{**values, "left_out": left_out})


@dataclass(frozen=True)
class Answered:
    """What a system said of one seed's items.

    Attributes:
      items: numbers of the items in the corpus.
      predicted: the class that each goes to.
      train: numbers of the items on the training side.
    """

    items: Int[np.ndarray, " n"]
    predicted: Sequence[str]
    train: Int[np.ndarray, " t"]


def class_figures(
    system: str,
    names: Sequence[str],
    corpus: Corpus,
    seeds: Sequence[Answered],
    left_out: Sequence[LeftOut],
) -> ClassFigures:
    """Counts what was said.

    Args:
      system: whose answers they are.
      names: of the classes.
      corpus: all items.
      seeds: the answers.
      left_out: what is not asked about.

    Returns:
      The figures.
    """

    def count(labels: Sequence[str]) -> list[int]:
        counts = Counter(labels)
        return [counts[name] for name in names]

    confusions: dict[str, Counter[str]] = {name: Counter() for name in names}
    support, right, train = [], [], []
    for answers in seeds:
        labels = [corpus.items[i].label for i in answers.items]
        support.append(count(labels))
        right.append(count([a for a, b in zip(labels, answers.predicted, strict=True) if a == b]))
        train.append(count([corpus.items[i].label for i in answers.train]))
        for label, answer in zip(labels, answers.predicted, strict=True):
            confusions[label][answer] += 1
    return ClassFigures(
        system,
        list(names),
        count([item.label for item in corpus.items]),
        train,
        support,
        right,
        {name: dict(counts.most_common()) for name, counts in confusions.items()},
        _examples(corpus, seeds[0]) if seeds else [],
        list(left_out),
    )


def _examples(corpus: Corpus, answers: Answered) -> list[list[str]]:
    """Right and wrong ones, spread evenly over the items: neither list is hand-picked."""
    rows = [
        [corpus.items[i].id, corpus.items[i].label, answer]
        for i, answer in zip(answers.items, answers.predicted, strict=True)
    ]
    examples = []
    for is_right in (True, False):
        part = [row for row in rows if (row[1] == row[2]) == is_right]
        chosen = np.linspace(0, len(part) - 1, min(EXAMPLES, len(part))).round().astype(int)
        examples += [part[i] for i in np.unique(chosen)]
    return examples
