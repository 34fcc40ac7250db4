"""Is a fit of the projection as quick as the same in plain torch? 5,000 x 768, ten epochs.

Both sides run the paper's recipe on one array: batches of 128, Adam, pairwise BCE. torch comes in
two forms: with the matrix of all dot products, and gathering every pair as the released code does.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.apart import Side, compare
from benchmarks.features import BATCH, EPOCHS, WIDTH, made_up
from benchmarks.harness import Grid, Options, Report, check_equal
from mmjax.specs.projection import ProjectionSpec
from mmjax.tasks.projection import fit


def ours(rows: int) -> tuple[Callable[[], float], dict[str, float]]:
    """Whole fits; a run returns the loss of the last epoch.

    Args:
      rows: of the array.

    Returns:
      (the run; the seconds of the first fit, which compiles).
    """
    x, labels = made_up(rows)
    data = fit.Modalities([x], [np.ones(len(x), bool)])
    how = fit.FitSpec(EPOCHS, BATCH, 1e-3, 0.0, 1)

    def run() -> float:
        rng = np.random.RandomState(0)
        return fit.fit(ProjectionSpec(), how, data, labels, rng).losses[-1]

    began = time.perf_counter()
    run()
    return run, {"first": time.perf_counter() - began}


def run(options: Options) -> Report:
    """Times whole fits in turn, the compilation apart.

    Args:
      options: the first of `batches` replaces 5,000 rows.

    Returns:
      Seconds of the first fit, which compiles, and of every side after it.

    Raises:
      MmjaxError: the sides do not learn the same.
    """
    (rows, *_) = options.sizes((5000,), (5000,))
    sides = [Side("mmjax", "benchmarks.projection_fit:ours", {"rows": rows})]
    if options.peer == "torch":
        make = "benchmarks.peers.torch_projection:side"
        sides += [
            Side(name, make, {"rows": rows, "gathered": gathered})
            for name, gathered in (("torch", False), ("torch, pair by pair", True))
        ]
    comparison = compare(sides, options, check)
    first = comparison.facts["mmjax"]["first"]
    work = f"a fit of the projection, {rows:,} x {WIDTH}, {EPOCHS} epochs"
    return Report(
        [
            comparison.grid(work),
            Grid("The first fit compiles", ("side", "seconds"), (("mmjax", f"{first:.2f}"),)),
        ],
        {**comparison.samples(), "rows": rows},
        comparison.lines(work),
    )


def check(values: Mapping[str, Any]) -> None:
    """Other initial values and order: the losses agree in size, not in digits."""
    check_equal({name: 1 + value for name, value in values.items()}, 0.05)
