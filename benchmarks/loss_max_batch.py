"""Which batch fits into a memory budget? Searched by compiling; nothing is run."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.harness import Grid, Options, Report
from benchmarks.loss_forms import FORMS, step, temporary_bytes
from benchmarks.pairs import WIDTH
from mmjax.losses import contrastive
from mmjax.progress import track
from mmjax.sharding import make_mesh

STEP = 512  # batches are searched in multiples of this


def run(options: Options) -> Report:
    """Searches the largest batch of every form.

    Args:
      options: `full` raises the budget from 256 MiB to 4 GiB a device; `batches` bounds the search.

    Returns:
      The largest batch whose loss and gradients keep to the budget, beside inputs and outputs.
    """
    budget = (4096 if options.full else 256) * 2**20
    limit = max(options.batches, default=2**22) // STEP
    mesh = make_mesh()
    steps: dict[str, tuple[Any, Any]] = {n: (step(form), None) for n, form in FORMS.items()}
    ring = step(contrastive.info_nce, mesh=mesh), NamedSharding(mesh, PartitionSpec("data"))
    steps[f"mmjax, {jax.device_count()} devices"] = ring
    batches = {}
    for name, (one, sharding) in track(steps.items(), "searching the largest batch", len(steps)):

        def fits(k: int, one: Callable[..., Any] = one, sharding: Any = sharding) -> bool:
            return temporary_bytes(one, k * STEP, sharding) <= budget

        batches[name] = STEP * largest(fits, limit)
    rows = tuple((name, f"{batch:,}") for name, batch in batches.items())
    title = f"Largest batch within {budget / 2**20:,.0f} MiB a device, D={WIDTH}, f32"
    return Report([Grid(title, ("form", "batch"), rows)], {"budget": budget, "batch": batches})


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest k in 0..limit that fits, to within 1/8 of it; what fits, fits when smaller."""
    good, bad = 0, 1
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > max(good // 8, 1):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
