"""Parallel text of a stage, and what a seed holds out of it."""

import numpy as np

from mmjax.data.library import Library
from mmjax.data.records import Pair
from mmjax.errors import MmjaxError, setting
from mmjax.rng import seed_for
from mmjax.specs.spec import Stage


def pairs_of(stage: Stage, library: Library) -> list[Pair]:
    """All parallel text of a stage other than captions.

    Raises:
      MmjaxError: the stage names no source at all.
    """
    spec = stage.parallel
    if not spec.sources:
        raise MmjaxError(
            f"{setting('parallel.sources')} is empty; expected 'captions', 'cedict' or .jsonl paths"
        )
    sources = [source for source in spec.sources if source != "captions"]
    return [pair for source in sources for pair in library.parallel(source, spec.limit)]


def held_out(stage: Stage, seed: int, library: Library) -> tuple[list[Pair], list[Pair]]:
    """Parallel text to train on, and what a seed holds out to choose the best step by.

    Raises:
      MmjaxError: as `pairs_of`; so many are to be held out that none is left.
    """
    pairs, count = pairs_of(stage, library), stage.parallel.val_pairs
    if not count:
        return pairs, []
    order = np.random.default_rng(seed_for(seed, "parallel")).permutation(len(pairs))
    held_pairs: list[Pair] = [pairs[i] for i in np.sort(order[:count])]
    # A sentence that stands twice would else be on both sides.
    sources = {pair.source for pair in held_pairs}
    targets = {text for pair in held_pairs for text in pair.targets}
    kept = [p for p in pairs if p.source not in sources and targets.isdisjoint(p.targets)]
    if not kept:
        raise MmjaxError(
            f"{setting('parallel.val_pairs')} is {count}, which leaves nothing of {len(pairs)} "
            "pairs to train on; expected fewer"
        )
    return kept, held_pairs
