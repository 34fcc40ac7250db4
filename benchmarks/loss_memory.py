"""How much memory do the loss and its gradients take? The compiler's own plan, nothing is run."""

import math

from benchmarks.harness import Grid, Options, Points, Report
from benchmarks.loss_forms import FORMS, WEIGHTED, step, temporary_bytes
from benchmarks.pairs import WIDTH
from mmjax.losses import contrastive
from mmjax.progress import track

MIB = 2**20


def run(options: Options) -> Report:
    """Compiles every form at every batch size.

    Args:
      options: batch sizes.

    Returns:
      MiB of each, and how they grow when the batch doubles.
    """
    batches = options.sizes((1024, 4096, 16384), (1024, 4096, 16384, 32768, 65536))
    steps = {name: step(form) for name, form in FORMS.items()}
    steps |= {name: step(contrastive.info_nce, **more) for name, more in WEIGHTED.items()}
    lines: dict[str, Points] = {name: [] for name in steps}
    for batch in track(batches, "compiling for memory"):
        for name, loss_and_grad in steps.items():
            lines[name].append((batch, temporary_bytes(loss_and_grad, batch) / MIB))
    rows = []
    for name, points in lines.items():
        growth = "-"
        if len(points) > 1:
            (b0, m0), (b1, m1) = points[-2:]
            growth = f"x{2 ** (math.log(m1 / m0) / math.log(b1 / b0)):.2f}"
        rows.append((name, *(f"{mib:,.1f}" for _, mib in points), growth))
    columns = ("form", *(f"B={batch:,}" for batch in batches), "when B doubles")
    grid = Grid(f"Temporary MiB of loss and gradients, D={WIDTH}, f32", columns, tuple(rows))
    return Report([grid], {"mib": lines}, curves={"temporary memory, MiB": lines})
