"""A contrastive batch embedded in parts: what does the step cost in time, and save in memory?

The recipe `base_emoji` with LoRA inside both encoders. The gradient is that of the whole batch
either way (GradCache, `mmjax.tasks.gradient_cache`).
"""

from typing import Any

from benchmarks.apart import compare
from benchmarks.harness import Grid, Options, Report, check_equal
from benchmarks.training import Training, side

CONFIG = "configs/base_emoji.py"
LORA = {"kind": "lora", "rank": 18, "targets": ("query", "value")}
PART = 16


def changed(batch: int, parts: int) -> dict[str, Any]:
    """Changes of the recipe: a batch in so many parts, and no dropout."""
    still = {"dropout": 0.0, "hidden_dropout": 0.0}
    return {
        "adapters": {"image": LORA, "text": LORA},
        "train": {"batch_size": batch, "accumulate": parts, "cache_features": False},
        "image_head": still,
        "text_head": still,
    }


def run(options: Options) -> Report:
    """Times a step whole and in parts, and compiles both for larger batches.

    Args:
      options: the first of `batches` is timed, of all the memory is told.

    Returns:
      Seconds of both at one batch, whose losses must agree, and bytes that the steps need.

    Raises:
      MmjaxError: they do not.
    """
    batches = options.sizes((64, 128), (64, 128, 256, 512))
    whole, cut = "whole", f"in parts of {PART}"
    sides = [
        side(name, options, changed(batches[0], parts), CONFIG)
        for name, parts in ((cut, batches[0] // PART), (whole, 1))
    ]
    comparison = compare(sides, options, lambda values: check_equal(values, 1e-4))
    memory = {
        batch: [
            Training(CONFIG, changed(batch, parts), 1).temporary() for parts in (1, batch // PART)
        ]
        for batch in batches
    }
    rows = tuple(
        (f"{batch}", *(f"{held / 2**20:,.0f}" for held in both)) for batch, both in memory.items()
    )
    title = "Temporary memory of the compiled step, MiB"
    work = f"a step of LoRA on {batches[0]} pairs, {cut}"
    return Report(
        [comparison.grid(work), Grid(title, ("pairs", whole, cut), rows)],
        {**comparison.samples(), "memory": memory},
        comparison.lines(work),
    )
