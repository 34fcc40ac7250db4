"""What all sides are given, whatever framework computes with it: pairs, and attention's inputs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

WIDTH = 512
SCALE = 14.3  # inverse temperature


def towers(batch: int, width: int = WIDTH) -> Float[np.ndarray, "2 b d"]:
    """Unit vectors whose pairs are told apart neither at once nor never."""
    rng = np.random.default_rng(0)
    image, noise = rng.normal(size=(2, batch, width)).astype(np.float32)
    both = np.stack([image, 0.2 * image + noise])
    return both / np.linalg.norm(both, axis=-1, keepdims=True)


def attended(shape: Sequence[int]) -> list[Float[np.ndarray, "b h l c"]]:
    """Queries, keys and values of attention.

    Args:
      shape: rows, heads, tokens, width of a head.
    """
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for _ in "qkv"]
