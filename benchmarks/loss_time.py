"""How long do the loss and its gradients take, beside the naive form and PyTorch?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness import Grid, Options, Points, Report, check_equal, compare
from benchmarks.loss_forms import FORMS, SCALE, WEIGHTED, WIDTH, step, towers
from mmjax.losses import contrastive
from mmjax.progress import track


def run(options: Options) -> Report:
    """Times all forms in turn, after checking that they agree.

    Args:
      options: batch sizes, rounds, peer.

    Returns:
      Seconds of each form and the blockwise loss's ratio to it.
    """
    report = Report(curves={"seconds": {}})
    batches = options.sizes((1024, 4096), (1024, 4096, 8192, 16384))
    for batch in track(batches, "timing the loss"):
        pair = towers(batch)
        sides: dict[str, Callable[[], Any]] = {
            name: _jax_side(step(form), pair) for name, form in FORMS.items()
        }
        if options.peer == "torch":
            from benchmarks.loss_torch import sides as torch_sides

            sides |= torch_sides(pair, SCALE)
        check_equal({name: side() for name, side in sides.items()})
        for name, more in WEIGHTED.items():
            sides[name] = _jax_side(step(contrastive.info_nce, **more), pair)
        found = compare(sides, options.num_rounds)
        report.grids.append(found.grid(f"Loss and gradients, B={batch:,}, D={WIDTH}, f32"))
        report.samples[str(batch)] = found.samples()
        for name, seconds in found.seconds.items():
            points: Points = report.curves["seconds"].setdefault(name, [])
            points.append((batch, min(seconds) / 2))
    if options.peer != "torch":
        report.grids.append(Grid("PyTorch: skipped (--peer torch)", (), ()))
    return report


def _jax_side(run: Callable[..., Any], pair: Any) -> Callable[[], float]:
    image, text = (jnp.asarray(x) for x in pair)
    logit_scale = jnp.log(jnp.float32(SCALE))

    def once() -> float:
        loss, _ = jax.block_until_ready(run(image, text, logit_scale))
        return float(loss)

    return once
