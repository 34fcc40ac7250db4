"""Plans every recipe on every topology, and makes one table of them.

    python -m tools.plan_all --folder runs/plans --table plans.md
    python -m tools.plan_all --folder runs/plans --only lavin --topologies v5e-8

Of each recipe the programs of its main stage are planned twice a topology, in processes of their
own: by Google's compiler (extra `plan`) and by arithmetic; both figures stand beside each other.
Where a recipe does not fit, the change that `mmjax plan` names is planned too. A stopped table goes
on from FOLDER, whose plans are read and not made again: give a new one for another commit. Needs no
weights, no data and no TPU.
"""

import argparse
import functools
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmjax.commands.recipes import find_recipe, load_recipe, names
from mmjax.errors import MmjaxError, first_line
from mmjax.files import write_atomic
from mmjax.plan.chips import read_topology
from mmjax.specs.build import as_dict
from mmjax.specs.recipe import Recipe, resolve_recipe

TOPOLOGIES = ("v5e-8", "v5e-256", "v5p-256", "v6e-8", "cuda:h100:8")
UNKNOWN = "not planned yet"
_GIB = 2**30


@dataclass(frozen=True)
class Row:
    """A recipe that is planned.

    Attributes:
      name: shown.
      source: the recipe's name.
      overrides: dotted name -> value of its own.
    """

    name: str
    source: str
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The recipe, whole.

        Raises:
          MmjaxError: it is none that trains, as `synthesize_emoji`.
        """
        return resolve_recipe(as_dict(load_recipe(self.source, self.overrides)))

    @property
    def base(self) -> tuple[str, ...]:
        """Flags for the recipe of the finished run that it stands on, runs/NAME."""
        return ("--base", Path(self.recipe.base).name) if self.recipe.base else ()

    def meshes(self, devices: int) -> Iterator[str]:
        """DATAxMODEL: as many rows as divide the micro-batch, then half as many, ..."""
        train = self.recipe.main.train
        data = math.gcd(devices, train.batch_size // train.accumulate)
        while data:
            yield f"{data}x{devices // data}"
            data //= 2


@dataclass(frozen=True)
class Planned:
    """What one process of `mmjax plan` said.

    Attributes:
      plan: its JSON; None where it made none.
      why: its last words then.
    """

    plan: dict[str, Any] | None
    why: str = ""

    @property
    def peak(self) -> float:
        """GiB of the program that takes most of a device."""
        assert self.plan is not None
        return max(line["peak"] for line in self.plan["lines"]) / _GIB


def rows() -> Iterator[Row]:
    """All recipes, and the largest batch."""
    for name in names():
        yield Row(name, name)
    yield Row("base_emoji, 1,048,576 pairs", "base_emoji", {"train.batch_size": 1 << 20})


@dataclass(frozen=True)
class Shelf:
    """Plans that were made.

    Attributes:
      folder: holds them.
      closed: whether none is added.
    """

    folder: Path
    closed: bool


def plan(row: Row, topology: str, shelf: Shelf, extra: Sequence[str], how: str) -> Planned:
    """Plans in a process of its own, unless it is there.

    Args:
      row: what.
      topology: where.
      shelf: of all plans.
      extra: further flags.
      how: part of the file's name.
    """
    place = shelf.folder / f"{row.name.replace(' ', '_')}.{topology.replace(':', '_')}.{how}.json"
    said = place.with_suffix(".log")
    if not said.is_file() and shelf.closed:
        return Planned(None, UNKNOWN)
    if not said.is_file():
        flags = [
            "--config",
            find_recipe(row.source),
            "--topology",
            topology,
            "--json",
            str(place),
            *(f"--config.{name}={value}" for name, value in row.overrides.items()),
            *row.base,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "mmjax.plan", *flags, *extra],
            capture_output=True,
            text=True,
        )
        lines = (done.stderr if done.returncode == 1 else done.stdout).strip().splitlines()
        write_atomic(said, "\n".join([shlex.join([*flags, *extra]), *lines]) + "\n")
    if place.is_file():
        return Planned(json.loads(place.read_text("utf-8"))[0])
    lines = said.read_text("utf-8").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return Planned(None, (errors or lines)[-1].removeprefix("error: ")[:200])


def cell(row: Row, topology: str, shelf: Shelf) -> tuple[str, str]:
    """(what the table shows, what a note below it must tell)."""
    devices = read_topology(topology).devices
    shown, extra, made = "", (), Planned(None)
    try:
        only = ("--only", f"{row.recipe.main.name}: ")
        for mesh in row.meshes(devices):
            own = mesh == f"{devices}x1"
            shown, extra = ("", only) if own else (f"{mesh}: ", (*only, "--mesh", mesh))
            made = plan(row, topology, shelf, extra, mesh)
            if made.plan is not None or "divide" not in made.why:
                break
    except MmjaxError as error:
        return "–", first_line(error, 200)
    if made.plan is None:
        return "–", made.why
    change = made.plan["change"]
    if not made.plan["fits"]:
        if not change:
            return f"{shown}**{made.peak:.1f} GiB**", ""
        extra = (*extra, *change.split())
        before, made = made.peak, plan(row, topology, shelf, extra, "changed")
        if made.plan is None:
            return "–", made.why
        changes = change.replace("--config.", "")
        shown = f"**{before:.1f} GiB**; `{changes}`: "
    hours = f", {_hours(made.plan['hours'])}" if made.plan["hours"] else ""
    if all(line["how"] == "arithmetic" for line in made.plan["lines"]):
        return f"{shown}({made.peak:.2f}) GiB{hours}", ""
    counted = plan(row, topology, shelf, (*extra, "--nocompile"), "arithmetic")
    beside = f" ({counted.peak:.2f})" if counted.plan is not None else ""
    return f"{shown}{made.peak:.2f}{beside} GiB{hours}", counted.why


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    if hours * 60 >= 0.1:
        return f"{hours * 60:.1f} min"
    return f"{hours * 3600:.1f} s" if hours * 3600 >= 0.1 else "< 0.1 s"


def main() -> None:
    """Plans, prints row by row, writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/plans"), help="keeps all plans")
    parser.add_argument("--only", default="", help="recipes whose names hold this text")
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--known", action="store_true", help="show what lies in FOLDER alone")
    parser.add_argument("--table", type=Path, help="write it here, as a Markdown table")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(options.folder, options.known)
    table = [f"| recipe | {' | '.join(options.topologies)} |"]
    table.append("|---" * (1 + len(options.topologies)) + "|")
    notes: dict[str, list[str]] = {}
    for row in rows():
        if options.only not in row.name:
            continue
        found = [cell(row, topology, shelf) for topology in options.topologies]
        if all(why == UNKNOWN for _, why in found):
            notes.setdefault(UNKNOWN, []).append(f"`{row.name}`")
            continue
        cells = [shown for shown, _ in found]
        for topology, (_, why) in zip(options.topologies, found, strict=True):
            if why:
                notes.setdefault(f"{row.name}: {why}", []).append(topology)
        table.append(f"| `{row.name}` | {' | '.join(cells)} |")
        print(table[-1], flush=True)
    table.append("")
    table += [f"- {note} ({', '.join(where)})" for note, where in notes.items()]
    if options.table:
        write_atomic(options.table, "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
