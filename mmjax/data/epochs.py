"""The order in which an epoch's rows make batches: neighbours in length, and nothing left over."""

import bisect
import functools
import itertools
from collections.abc import Sequence

import numpy as np

LENGTHS = tuple(n << i for i in range(11) for n in (16, 24))  # columns that rows are padded to


@functools.cache
def walk(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sorts buckets so that neighbours are alike in columns and in answer tokens.

    Answers grow with one length and shrink with the next, as rows of a field are ploughed.

    Args:
      shape: columns, answer tokens, and tiles of the picture, 0 where there is none.

    Returns:
      What to sort by.
    """
    columns, answers, tiles = shape
    forth = bisect.bisect_left(LENGTHS, columns) % 2 == 0
    return tiles, columns, answers if forth else -answers


def divide(
    groups: Sequence[list[int]], size: int, rng: np.random.Generator | None
) -> list[list[list[int]]]:
    """Cuts groups into batches, all of one size but for one that has what is left over.

    Args:
      groups: in the order that they are cut in.
      size: groups a batch.
      rng: draws which batch has fewer; None takes the last.

    Returns:
      The batches, in order.
    """
    count = -(-len(groups) // size)
    lacking = count * size - len(groups)
    short = count - 1 if rng is None or not count else int(rng.integers(count))
    ends = [size * (k + 1) - lacking * (k >= short) for k in range(count)]
    return [list(groups[at:end]) for at, end in itertools.pairwise([0, *ends])]
