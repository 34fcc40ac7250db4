"""The features that every side of `projection-fit` learns from, and how."""

import numpy as np
from jaxtyping import Float, Int

WIDTH, CLASSES, EPOCHS, BATCH = 768, 4, 10, 128


def made_up(rows: int) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    """Features with classes that can be learnt, and those classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows).astype(np.int32)
    centres = 0.3 * rng.normal(size=(CLASSES, WIDTH))
    return (centres[labels] + rng.normal(size=(rows, WIDTH))).astype(np.float32), labels
