"""Lengths that texts are padded to: few, since a program is compiled for each."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

# Lengths that batches are padded to. Fine where short texts live, so that little work is wasted;
# each length that occurs costs one compilation.
BUCKETS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def bucket(length: int, lengths: Sequence[int] = BUCKETS) -> int:
    """The least of `lengths` that is not below `length`, or `length` itself."""
    return min((size for size in lengths if size >= length), default=max(length, 1))


def pad_ids(
    ids: Sequence[Sequence[int]], length: int, pad_token_id: int
) -> tuple[Int[np.ndarray, "n l"], Int[np.ndarray, "n l"]]:
    """Pads on the right.

    Args:
      ids: n lists of token ids, none longer than `length`.
      length: l.
      pad_token_id: what fills the rest.

    Returns:
      (input_ids, attention_mask): both int32 [n, l].
    """
    input_ids = np.full((len(ids), length), pad_token_id, np.int32)
    mask = np.zeros((len(ids), length), np.int32)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return input_ids, mask
