"""What does a step cost with each kind of adapter inside both encoders, and how much memory?

The recipe `base_emoji` with its two heads, whose encoders run in every step: DINOv2-small and
MiniLM-L6 with LoRA first, then without an adapter, with each other kind of `adapters_emoji`, and
all weights. LoRA is what the others are measured by.
"""

from typing import Any

from benchmarks.apart import compare
from benchmarks.harness import Grid, Options, Report
from benchmarks.training import side

CONFIG = "configs/base_emoji.py"
FIRST, FROZEN = "lora", "no adapter"


def changed(batch: int) -> dict[str, dict[str, Any]]:
    """Side -> changes of the recipe, at so many pairs a step."""
    from configs.adapters_emoji import KINDS, SOME

    train = {"train": {"batch_size": batch, "cache_features": False}}
    kinds = {name: KINDS[name] for name in (FIRST, *SOME)} | {"full": {"kind": "full"}}
    adapted = {
        name: {**train, "adapters": {"image": own, "text": own}} for name, own in kinds.items()
    }
    return {FIRST: adapted.pop(FIRST), FROZEN: train, **adapted}


def run(options: Options) -> Report:
    """Times a step with every kind.

    Args:
      options: the first of `batches` replaces a batch of 16.

    Returns:
      Seconds, memory of the process and parameters of each.
    """
    (batch, *_) = options.sizes((16,), (16,))
    sides = [side(name, options, own, CONFIG) for name, own in changed(batch).items()]
    comparison = compare(sides, options)
    work = f"a step of base_emoji on {batch} pairs, {FIRST}"
    rows = tuple((name, f"{facts['trained']:,}") for name, facts in comparison.facts.items())
    counts = Grid("Parameters that learn, two heads among them", ("side", "trained"), rows)
    grids = [comparison.grid(work), counts]
    return Report(grids, comparison.samples(), comparison.lines(work))
