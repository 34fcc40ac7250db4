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
        left_out = [LeftOut(**one) for one in values["left_out"]]
        return cls(**{**values, "left_out": left_out})


@dataclass(frozen=True)
class Answered:
    """What a system said of one seed's items.

    Attributes:
      items: numbers of the items in the corpus.
      said: the class that each goes to.
      train: numbers of the items on the training side.
    """

    items: Int[np.ndarray, " n"]
    said: Sequence[str]
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
        found = Counter(labels)
        return [found[name] for name in names]

    said: dict[str, Counter[str]] = {name: Counter() for name in names}
    asked, right, train = [], [], []
    for one in seeds:
        labels = [corpus.items[i].label for i in one.items]
        asked.append(count(labels))
        right.append(count([a for a, b in zip(labels, one.said, strict=True) if a == b]))
        train.append(count([corpus.items[i].label for i in one.train]))
        for label, answer in zip(labels, one.said, strict=True):
            said[label][answer] += 1
    return ClassFigures(
        system,
        list(names),
        count([item.label for item in corpus.items]),
        train,
        asked,
        right,
        {name: dict(found.most_common()) for name, found in said.items()},
        _examples(corpus, seeds[0]) if seeds else [],
        list(left_out),
    )


def _examples(corpus: Corpus, answers: Answered) -> list[list[str]]:
    """Right and wrong ones, spread evenly over the items: neither list is hand-picked."""
    rows = [
        [corpus.items[i].id, corpus.items[i].label, said]
        for i, said in zip(answers.items, answers.said, strict=True)
    ]
    found = []
    for is_right in (True, False):
        part = [row for row in rows if (row[1] == row[2]) == is_right]
        chosen = np.linspace(0, len(part) - 1, min(EXAMPLES, len(part))).round().astype(int)
        found += [part[i] for i in np.unique(chosen)]
    return found
