"""The classes of a few-shot run: which are learnt, from which items, and which are left out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mmjax.data.labels import LeftOut
from mmjax.data.records import Corpus
from mmjax.data.splits import Split
from mmjax.evals.accuracy import check_classes, choose_shots, halves
from mmjax.rng import seed_for
from mmjax.specs.spec import Stage


def classes_of(stage: Stage, corpus: Corpus) -> tuple[list[str], list[str]]:
    """Labels that are trained on, and those that are new, sorted.

    Raises:
      MmjaxError: fewer than two of them.
    """
    families, spec = _families(corpus), stage.fewshot
    labels = sorted(x for x, f in families.items() if x and len(f) >= spec.min_families)
    check_classes(labels)
    return (labels, []) if spec.half == "all" else halves(labels)


def left_out(stage: Stage, corpus: Corpus) -> tuple[LeftOut, ...]:
    """Classes of the source that are neither learnt nor asked about."""
    least, count = stage.fewshot.min_families, Counter(item.label for item in corpus.items)
    few = f"fewer families than config.fewshot.min_families={least}"
    found = [
        LeftOut(label, count[label], few if label else "no class to learn")
        for label, members in sorted(_families(corpus).items())
        if len(members) < least or not label
    ]
    return (*corpus.left_out, *found)


def _families(corpus: Corpus) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in corpus.items:
        found.setdefault(item.label, set()).add(item.family)
    return found


def shots_of(
    stage: Stage, corpus: Corpus, split: Split, classes: Sequence[str], seed: int
) -> Int[np.ndarray, " n"]:
    """The items that are trained on, class by class: of the training side alone."""
    train = split["train"]
    labels = labels_of(corpus, train, classes)
    chosen = choose_shots(labels, classes, stage.fewshot.shots, seed_for(seed, "shots"))
    return train[chosen]


def labels_of(
    corpus: Corpus, items: Int[np.ndarray, " k"], classes: Sequence[str]
) -> Int[np.ndarray, " k"]:
    """The number of every item's class, -1 where it has none of them."""
    number = {label: c for c, label in enumerate(classes)}
    return np.asarray([number.get(item.label, -1) for item in corpus.at(items)], np.int64)
