"""Arrays out of files that others made: floating-point numbers, all of them finite."""

import numpy as np
from jaxtyping import Shaped

from mmjax.errors import WeightsError


def floating(where: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The array, if its numbers are floating-point ones: integers have a scale of their own.

    Raises:
      WeightsError: they are not.
    """
    if array.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise WeightsError(f"{where} holds {array.dtype.name}; expected floating-point numbers")
    return array


def finite(where: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The array, if all of its numbers are finite.

    Raises:
      WeightsError: it holds NaN or infinite numbers.
    """
    # What is computed with is float32, in which a large float64 is infinite.
    wide = array.dtype == np.float64
    if not np.isfinite(array.astype(np.float32) if wide else array).all():
        raise WeightsError(f"{where} holds NaN or infinite numbers")
    return array
