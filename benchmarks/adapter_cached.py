"""How much quicker is a step that reads the feature cache than one that runs the encoders?

Both sides train the recipe's base with the same batch size, batch by batch in turn; the ratio of an
epoch is the ratio of a step, since both have the same number of steps.
"""

from benchmarks.apart import compare
from benchmarks.harness import Options, Report, check_equal
from benchmarks.training import read, side


def run(options: Options) -> Report:
    """Times a cached and an uncached step in turn.

    Args:
      options: the recipe, which must have a base, and rounds.

    Returns:
      Seconds of both; the first losses must agree.

    Raises:
      MmjaxError: no such recipe.
    """
    read(options.config)
    sides = [
        side(name, options, {"train": {"cache_features": cached}})
        for name, cached in (("cached", True), ("uncached", False))
    ]
    comparison = compare(sides, options, lambda values: check_equal(values, 1e-3))
    work = f"a step of {options.config}, features cached"
    return Report([comparison.grid(work)], comparison.samples(), comparison.lines(work))
