"""How long do the loss and its gradients take, beside the naive form, torch and open_clip?"""

from collections.abc import Mapping
from typing import Any

from benchmarks.apart import Side, compare
from benchmarks.harness import Grid, Options, Points, Report, check_equal
from benchmarks.loss_forms import FORMS, WEIGHTED
from benchmarks.pairs import WIDTH

PEERS = {"torch, plain form": "plain", "open_clip": "open_clip"}


def sides(batch: int, torch: bool) -> list[Side]:
    """All forms of the loss.

    Args:
      batch: pairs.
      torch: whether torch's are among them.

    Returns:
      mmjax first.
    """
    names = (*FORMS, *WEIGHTED)
    arguments = {"batch": batch}
    forms = [Side(n, "benchmarks.loss_forms:side", {"form": n, **arguments}) for n in names]
    if torch:
        peer = "benchmarks.peers.torch_loss"
        forms += [Side(name, f"{peer}:{form}", arguments) for name, form in PEERS.items()]
    return forms


def check(values: Mapping[str, Any]) -> None:
    """The forms agree; weighted ones are other losses."""
    check_equal({name: value for name, value in values.items() if name not in WEIGHTED})


def run(options: Options) -> Report:
    """Times all forms in turn, after checking that they agree.

    Args:
      options: batch sizes, rounds, peer.

    Returns:
      Seconds of each form and the blockwise loss's ratio to it.
    """
    report = Report(curves={"seconds": {}})
    for batch in options.sizes((1024, 4096), (4096, 8192)):
        comparison = compare(sides(batch, options.peer == "torch"), options, check)
        work = f"contrastive loss and gradients, B={batch:,}, D={WIDTH}"
        report.grids.append(comparison.grid(f"{work}, f32"))
        report.lines += comparison.lines(work)
        report.samples[str(batch)] = comparison.samples()
        for name, seconds in comparison.seconds.items():
            points: Points = report.curves["seconds"].setdefault(name, [])
            points.append((batch, min(seconds) / 2))
    if options.peer != "torch":
        report.grids.append(Grid("torch: skipped (--peer torch)", (), ()))
    return report
