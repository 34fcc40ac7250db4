"""`mmjax bench NAME ...`: the benchmarks of a checkout, as `python -m mmjax.bench`."""

import runpy
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Hands over to the benchmarks, which read the command line themselves.

    Args:
      arguments: behind `mmjax bench`.

    Returns:
      0; the benchmarks end with codes of their own.
    """
    sys.argv = ["mmjax bench", *arguments]
    runpy.run_module("mmjax.bench", run_name="__main__")
    return 0
