"""A plan on the terminal, as JSON, and as a page."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmjax.files import write_atomic, write_json
from mmjax.plan.planning import Line, Plan

_COLUMNS = (
    "program",
    "how",
    "memory a device",
    "of it",
    "FLOPs",
    "HBM",
    "sent",
    "time *",
    "bound by",
    "of peak *",
    "a day *",
)


def cells_of(line: Line) -> tuple[str, ...]:
    """One program's figures, printed."""
    t = line.times
    return (
        line.program,
        line.how,
        f"{line.peak / 2**20:,.0f} MiB",
        f"{line.share:.0%}",
        _si(line.flops),
        _si(line.hbm_bytes, "B") if line.hbm_bytes else "–",
        _si(line.wire_bytes, "B") if line.wire_bytes else "–",
        _seconds(t.step),
        t.bound,
        f"{t.utilisation:.0%}" if line.how == "compiled" else "–",
        f"{_si(line.per_day)} {line.unit}",
    )


def print_line(line: Line) -> None:
    """Says that a program is done: compiling takes minutes."""
    seconds = f" in {line.seconds:.0f} s" if line.seconds else ""
    print(f"{line.program}: {line.how}{seconds}", flush=True)


def verdict(plan: Plan) -> str:
    """Whether it fits, and what would make it fit."""
    where = f"{plan.topology}, mesh {plan.data}x{plan.model}, accumulate {plan.accumulate}"
    if plan.fits:
        hours = f"; {plan.hours:,.2f} h of training at the published peaks *" if plan.hours else ""
        return f"{plan.recipe} fits on {where}{hours}"
    worst = max(plan.lines, key=lambda line: (not line.fits, line.share))
    if worst.how == "failed":
        return f"{plan.recipe} does not compile for {where}: {worst.program}: {worst.notes[0]}"
    reason = f"{worst.program} takes {worst.peak / 2**30:.2f} GiB of a device, {worst.share:.0%}"
    if plan.change:
        return (
            f"{plan.recipe} does not fit on {where}: {reason}; it fits with {plan.change} (tried)"
        )
    return (
        f"{plan.recipe} does not fit on {where}: {reason}; of the meshes and micro-batches that "
        "divide none fits, so take more devices, int8 (--config.encoders.language.quantize=int8) "
        "or --config.instruct.remat=True"
    )


def print_plans(plans: Sequence[Plan]) -> None:
    """The tables, and what stands out."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    for plan in plans:
        table = Table(title=f"{plan.recipe} on {plan.topology}, mesh {plan.data}x{plan.model}")
        for column in _COLUMNS:
            table.add_column(column, justify="left" if column in _COLUMNS[:2] else "right")
        for line in plan.lines:
            table.add_row(*map(escape, cells_of(line)))
        console.print(table)
        for line in plan.lines:
            for name, size in line.held.items():
                console.print(f"  {line.program}: {name} {size / 2**20:,.1f} MiB", highlight=False)
            for sentence in (*line.collectives, *line.notes):
                console.print(
                    f"  {line.program}: {escape(sentence)}", highlight=False, soft_wrap=True
                )
        for fault in plan.faults:
            console.print(f"fault: {escape(fault)}", highlight=False, soft_wrap=True)
        print(verdict(plan))
    if len(plans) > 1 and plans[0].fits:
        best = plans[0]
        flags = f"--config.mesh.data={best.data} --config.mesh.model={best.model}"
        print(f"best of {len(plans)}: {flags} --config.train.accumulate={best.accumulate}")
    print(f"{plans[0].compiler}\n* estimated from published peaks: nothing was run")


def write_plans_json(path: Path, plans: Sequence[Plan]) -> None:
    """All figures.

    Args:
      path: a file.
      plans: the best first.
    """
    write_json(path, [as_plain(plan) for plan in plans])


def as_plain(plan: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""
    plain = dataclasses.asdict(plan)
    for line, made in zip(plan.lines, plain["lines"], strict=True):
        made |= {"fits": line.fits, "step_seconds": line.times.step, "bound": line.times.bound}
    return {**plain, "fits": plan.fits, "hours": plan.hours, "verdict": verdict(plan)}


def write_plans_page(path: Path, plans: Sequence[Plan]) -> None:
    """A page for any browser, in the style of the reports.

    Args:
      path: a file.
      plans: the best first.
    """
    # The style is the report's own.
    places = [jinja2.PackageLoader(package) for package in ("mmjax.plan", "mmjax.report")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(places), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("plan.html.j2").render(
        plans=[(plan, verdict(plan), [cells_of(x) for x in plan.lines]) for plan in plans],
        columns=_COLUMNS,
        title=f"Plan of {plans[0].recipe}",
    )
    write_atomic(path, page)


def _si(value: float, unit: str = "") -> str:
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
