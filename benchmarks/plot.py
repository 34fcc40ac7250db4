"""Draws what benchmarks found against the batch size."""

import io
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.harness import Points, Report
from mmjax.errors import MmjaxError
from mmjax.files import write_atomic


def draw(reports: Iterable[Report], path: Path) -> None:
    """Writes a picture, one panel a quantity, both axes logarithmic.

    Args:
      reports: those without curves are left out.
      path: its suffix names the format.

    Raises:
      MmjaxError: no report has a curve.
    """
    panels: dict[str, dict[str, Points]] = {}
    for report in reports:
        panels |= report.curves
    if not panels:
        raise MmjaxError("--plot: only loss-memory and loss-time can be drawn; name one of them")
    figure = Figure(figsize=(5.5 * len(panels), 4.2), layout="constrained")
    for axes, (quantity, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xlabel="batch size", ylabel=quantity, xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:] or "png")
    write_atomic(path, drawn.getvalue())
