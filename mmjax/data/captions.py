"""Captions to learn from: an item's name, and captions put together from its keywords."""

import functools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mmjax.data.records import Corpus, Item, Pair
from mmjax.specs.spec import Stage

CAPTIONS = 7  # keyword captions of an item
MOST_KEYWORDS = 3  # in one caption: long ones cost time and teach little


@functools.cache
def captions_of(captions: tuple[str, ...]) -> tuple[str, ...]:
    """Captions with keywords: all of them after the name, and random few with or without it.

    Args:
      captions: (name, keyword, keyword ...).

    Returns:
      Always the same for the same item; the name alone where there are no keywords.
    """
    name, *keywords = captions
    keywords = [k for k in keywords if k != name]
    if not keywords:
        return (name,)
    rng = np.random.default_rng(zlib.crc32("|".join(captions).encode()))
    texts = []
    for i in range(CAPTIONS):
        few = rng.permutation(len(keywords))[: 1 + rng.integers(min(MOST_KEYWORDS, len(keywords)))]
        texts.append(", ".join([name] * (i % 2 == 0) + [keywords[k] for k in few]))
    return tuple(texts)


def names_and_captions(item: Item, language: str) -> list[str]:
    """Captions to draw from; where there are keywords, half of the draws the name alone."""
    captions = item.captions.get(language, ())
    if not item.keywords or not captions:
        return list(captions)
    return [captions[0]] * CAPTIONS + list(captions_of(captions))


def caption_pairs(
    corpus: Corpus, items: Int[np.ndarray, " k"], source: str, target: str
) -> list[tuple[Sequence[str], Sequence[str]]]:
    """(sources, targets) of every item: its name in both languages, its keywords in both."""
    pairs: list[tuple[Sequence[str], Sequence[str]]] = []
    for i in items:
        item = corpus.items[i]
        mine, theirs = (item.captions.get(language, ()) for language in (source, target))
        if item.keywords:
            pairs.append(((mine[0],), (theirs[0],)))
            if len(mine) > 1 or len(theirs) == 1:  # keywords of one language alone say more
                pairs.append((captions_of(mine), captions_of(theirs)))
        elif mine and theirs:
            pairs.append((mine, theirs))
    return pairs


def all_captions(corpus: Corpus, language: str) -> list[str]:
    """Every caption that training or evaluation may read, and the labels' names."""
    captions = [text for item in corpus.items for text in names_and_captions(item, language)]
    return captions + asked_texts(corpus, language)


def text_turns(
    stage: Stage,
    corpus: Corpus,
    train: Int[np.ndarray, " k"],
    languages: tuple[str, str],
    pairs: Sequence[Pair],
) -> list[tuple[int, list[tuple[Sequence[str], Sequence[str]]]]]:
    """All parallel text, then, where the recipe says so, captions alone.

    Args:
      stage: names the sources.
      corpus: holds the items.
      train: items that are trained on.
      languages: (source, target).
      pairs: of the sources other than captions.

    Returns:
      (first step, (sources, targets) of every example), in turn.
    """
    spec = stage.parallel
    everything: list[tuple[Sequence[str], Sequence[str]]] = [
        ((pair.source,), pair.targets) for pair in pairs
    ]
    turns = [(0, everything)]
    if "captions" in spec.sources:
        own = caption_pairs(corpus, train, *languages)
        turns = [(0, own * spec.repeat_captions + everything)]
        if everything and spec.captions_from < 1:
            turns.append((round(stage.train.steps * spec.captions_from), own))
    return turns


def asked_texts(corpus: Corpus, language: str) -> list[str]:
    """The queries, or the items' names where there are none, and the labels' names."""
    if corpus.queries:
        asked = [query.text for query in corpus.queries if query.language == language]
    else:
        asked = [item.captions[language][0] for item in corpus.items if item.captions.get(language)]
    return asked + [names[language] for names in corpus.labels.values() if language in names]
