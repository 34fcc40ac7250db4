"""Plots of the report, as SVG that takes the page's own colours and fonts."""

import html
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Shaped

# After Okabe and Ito: told apart by colour-blind readers, readable on white and on black.
COLOURS = ("#2b87c8", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#7b5fc2")
Values: TypeAlias = "Sequence[float] | Shaped[np.ndarray, ' n']"
# Stands for "the text colour of the page" in matplotlib's SVG, which knows no currentColor.
_INK = "#010203"


@dataclass(frozen=True)
class Curve:
    """One metric of one run over steps; runs called `group/seed` share the group's colour."""

    run: str
    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    xlabel: str = "step"


@dataclass(frozen=True)
class Figure:
    """A drawing with its heading and what a reader must know of it."""

    title: str
    svg: str
    caption: str = ""


def groups(curves: Iterable[Curve]) -> dict[str, str]:
    """Maps each group of runs to its colour, in order of appearance."""
    names = dict.fromkeys(_group(curve) for curve in curves)
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def _group(curve: Curve) -> str:
    return curve.run.rpartition("/")[0] or curve.run


def curves(every: Iterable[Curve], colours: Mapping[str, str]) -> dict[str, str]:
    """Draws one small SVG a metric with the curves of all runs in it."""
    by_metric: dict[str, list[Curve]] = {}
    for curve in every:
        by_metric.setdefault(curve.metric, []).append(curve)
    return {metric: _curves(metric, members, colours) for metric, members in by_metric.items()}


def as_csv(every: Iterable[Curve]) -> dict[str, str]:
    """The numbers of each metric's curves, for whoever draws them anew.

    Args:
      every: curves.

    Returns:
      metric -> CSV with the columns run, step (or what the curve is over) and value.
    """
    tables: dict[str, list[str]] = {}
    for curve in every:
        head = f"run,{curve.xlabel.replace(' ', '_')},value"
        rows = tables.setdefault(curve.metric, [head])
        name = '"' + curve.run.replace('"', '""') + '"'
        rows += [f"{name},{s},{v!r}" for s, v in zip(curve.steps, curve.values, strict=True)]
    return {metric: "\n".join(rows) + "\n" for metric, rows in tables.items()}


def _curves(metric: str, members: list[Curve], colours: Mapping[str, str]) -> str:
    with _axes(metric, members[0].xlabel, f"{metric} over {members[0].xlabel}") as (axes, page):
        for curve in members:
            single = len(curve.steps) == 1
            axes.plot(
                curve.steps,
                curve.values,
                color=colours[_group(curve)],
                linewidth=1.4,
                alpha=0.85,
                marker="o" if single else "",
                markersize=4,
            )
    return "".join(page)


def picture_of(series: Sequence[tuple[str, Sequence[int], Sequence[float]]]) -> bytes:
    """Draws curves beside each other for pages that show pictures alone.

    Args:
      series: (metric, steps, values) of each.

    Returns:
      A PNG; nothing for no curves.
    """
    if not series:
        return b""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(3.2 * len(series), 2.4), layout="constrained", dpi=100)
    for axes, (metric, steps, values) in zip(
        np.atleast_1d(drawing.subplots(1, len(series))), series, strict=True
    ):
        axes.plot(steps, values, color=COLOURS[0], marker="o" if len(steps) == 1 else "")
        axes.set(title=metric, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    page = io.BytesIO()
    drawing.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()


def histogram(name: str, series: Mapping[str, Values], bins: int = 24) -> str:
    """Draws how several series of values are spread, over one another.

    Args:
      name: of the values.
      series: name -> values; those of one length compare best.
      bins: of equal width, the same for all.

    Returns:
      An SVG element.
    """
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(v) for v in series.values()]), bins)
    with _axes(name, name, f"how often each {name} is there") as (axes, page):
        for (label, values), colour in zip(series.items(), COLOURS, strict=False):
            style = {"color": colour, "alpha": 0.45, "label": label}
            axes.hist(values, edges, histtype="stepfilled", **style)
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)
    return "".join(page)


def lines(
    name: str,
    series: Mapping[str, tuple[Values, Values]],
    mark: float | None = None,
    marked: str = "used",
) -> str:
    """Draws what depends on a number.

    Args:
      name: of the number.
      series: name -> (numbers, values); one series alone needs no name.
      mark: where a dashed line stands upright.
      marked: what it is.

    Returns:
      An SVG element.
    """
    about = " and ".join(filter(None, series))
    with _axes(name + "".join(series), name, f"{about or 'what comes'} over {name}") as (
        axes,
        page,
    ):
        for (label, (xs, ys)), colour in zip(series.items(), itertools.cycle(COLOURS)):
            axes.plot(xs, ys, color=colour, linewidth=1.6, label=label or "_")
        if mark is not None:
            style = {"color": _INK, "linestyle": "--", "linewidth": 1, "alpha": 0.7}
            axes.axvline(mark, label=marked, **style)
        if mark is not None or len(series) > 1:
            axes.legend(frameon=False, labelcolor=_INK, fontsize=8)
    return "".join(page)


@contextmanager
def _axes(salt: str, xlabel: str, about: str) -> Iterator[tuple[Any, list[str]]]:
    """Yields axes to draw on, and a list that holds the SVG afterwards; `about` names it."""
    # Here, so that reading the data classes costs no matplotlib; no pyplot, so no global state.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    page: list[str] = []
    # The salt keeps the identifiers of several plots on one page apart and every page repeatable.
    with matplotlib.rc_context(
        {
            "font.size": 9,
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "text.parse_math": False,
        }
    ):
        figure = Figure(figsize=(3.5, 2.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        yield axes, page
        axes.set_xlabel(xlabel, color=_INK)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        axes.tick_params(colors=_INK, length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=xlabel in ("step", "shots a class")))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_edgecolor(_INK)
            spine.set_alpha(0.4)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    # Inline SVG starts at its element, takes the page's colour and fonts, and the width of its box.
    named = f'<svg role="img" aria-label="{html.escape(about)}"'
    page.append(named + svg[svg.index("<svg") + 4 :].replace(_INK, "currentColor"))
