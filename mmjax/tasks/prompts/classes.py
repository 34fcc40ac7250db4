"""The classes of a few-shot run: which are learnt, from which items, and which are left out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mmjax.data.labels import LeftOut
from mmjax.data.library import Library
from mmjax.data.records import Corpus
from mmjax.data.splits import Split
from mmjax.evals.accuracy import base_and_new, check_classes, choose_shots
from mmjax.rng import seed_for
from mmjax.specs.spec import Stage


def language_of(stage: Stage, languages: tuple[str, str]) -> str:
    """The one of (added, known) languages in which classes are named."""
    return languages[0 if stage.text_role == "foreign" else 1]


def split_of(stage: Stage, seed: int, library: Library) -> Split:
    """The sides that a seed deals: of the domain, or of all that is none."""
    return library.split(stage.pairs, seed, stage.fewshot.domain)


def classes_of(stage: Stage, corpus: Corpus) -> tuple[list[str], list[str]]:
    """Labels that are trained on, and those that are new, sorted.

    Raises:
      MmjaxError: fewer than two of them.
    """
    families, spec = _families(stage, corpus), stage.fewshot
    labels = sorted(x for x, f in families.items() if x and len(f) >= spec.min_families)
    check_classes(labels)
    return (labels, []) if spec.half == "all" else base_and_new(labels)


def left_out(stage: Stage, corpus: Corpus) -> tuple[LeftOut, ...]:
    """Classes of the source that are neither learnt nor asked about."""
    least, count = stage.fewshot.min_families, Counter(item.label for item in corpus.items)
    few = f"fewer families than config.fewshot.min_families={least}"
    found = [
        LeftOut(label, count[label], few if label else "no class to learn")
        for label, members in sorted(_families(stage, corpus).items())
        if len(members) < least or not label
    ]
    return (*corpus.left_out, *found)


def _families(stage: Stage, corpus: Corpus) -> dict[str, set[str]]:
    """Label -> its families: of the domain, or of all that is none."""
    found: dict[str, set[str]] = {}
    labels = stage.pairs.domain.labels
    for item in corpus.items:
        if not labels or (item.label in labels) == stage.fewshot.domain:
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
