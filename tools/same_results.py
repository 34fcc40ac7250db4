"""Shows that a refactoring changed nothing: two commits run every recipe, and all must be the same.

    python -m tools.same_results OLD NEW
    python -m tools.same_results HEAD~9 HEAD --only language_emoji lavin_easyvqa --keep runs/same

Either commit trains every recipe in small, in a worktree and in processes of its own. Compared are
all that results.json measured (not how long it took, nor where) and each adapter's fingerprint, bit
for bit. Then NEW evaluates what OLD trained, which must give OLD's figures. Needs git, the assets
and the extra `test`: data that nobody can fetch are drawn, or are what this checkout's tests make.

Both commits use one cache. Where the frozen models or the data are touched say --fresh: then each
computes features of its own. Exits 1 when anything differs, or nothing was compared.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir
from rich.console import Console
from rich.table import Table

from tools.compare_runs import Failed, compare
from tools.small_recipes import FIXTURES, RECIPES, Small, command_line, draw_data

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Side:
    """One of the two commits.

    Attributes:
      tree: its worktree.
      runs: holds its run folders, and what they printed.
      environment: of its processes.
    """

    tree: Path
    runs: Path
    environment: Mapping[str, str]

    def start(self, name: str, *arguments: str) -> float:
        """Runs `python ARGUMENTS`, prints to NAME.log; returns seconds, raises `Failed`."""
        began = time.monotonic()
        log = self.runs / f"{name}.log"
        command, env = [sys.executable, *arguments], dict(self.environment)
        with log.open("w") as file:
            done = subprocess.run(command, cwd=self.tree, env=env, stdout=file, stderr=file)
        if done.returncode:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise Failed(lines[-1] if lines else f"exit code {done.returncode}")
        return time.monotonic() - began

    def train(self, name: str, data: Path) -> float:
        """Trains a recipe in small, and before it what it stands on; returns seconds."""
        base = RECIPES.get(name, Small()).base
        if base and not (self.runs / base / "results.json").is_file():
            self.train(base, data)
        return self.start(name, "-m", "mmjax.main", *command_line(name, self.runs, data))


@contextlib.contextmanager
def checked_out(commit: str, scratch: Path, runs: Path, fresh: bool) -> Iterator[Side]:
    """A commit in a worktree that is gone afterwards, however this ends."""
    git, tree = ("git", "-C", str(ROOT), "worktree"), (scratch / runs.name).resolve()
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    if fresh:
        usual = os.environ.get("MMJAX_CACHE") or user_cache_dir("mmjax", appauthor=False)
        cache = scratch / f"cache_{runs.name}"
        cache.mkdir()
        (cache / "assets").symlink_to(Path(usual).expanduser().absolute() / "assets")
        environment["MMJAX_CACHE"] = str(cache)
    runs.mkdir(parents=True)
    side = Side(tree, runs, environment)
    if subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit]).returncode:
        sys.exit(2)  # git says why
    try:
        # An installed mmjax must not come first: both sides would be the same code.
        side.start("where", "-c", "import mmjax; print(mmjax.__file__)")
        module_path = Path((runs / "where.log").read_text().strip())
        if not module_path.resolve().is_relative_to(tree):
            sys.exit(f"error: {module_path} is imported, not what was checked out in {tree}")
        yield side
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)])


def check(name: str, sides: Sequence[Side], data: Path, tolerance: float) -> list[str]:
    """Trains a recipe with both commits, evaluates OLD's run with NEW, and compares.

    Args:
      name: of the recipe.
      sides: OLD and NEW.
      data: folder of the data that are made here.
      tolerance: of figures.

    Returns:
      A row of the table: the seconds of all three, and "same", "N differ" or "not run: ...".
    """
    old, new = sides
    for side in sides:
        if not (side.tree / "configs" / f"{name}.py").is_file():
            return ["", "", "", f"not run: {side.runs.name} has no such recipe"]
    seconds, differences = [], []
    try:
        seconds.append(old.train(name, data))
    except Failed as error:
        return ["", "", "", f"not run: OLD fails: {error}"]
    try:
        seconds.append(new.train(name, data))
        differences += map(str, compare(old.runs / name, new.runs / name, tolerance))
        copy = shutil.copytree(old.runs / name, old.runs / f"{name}.evaluated_by_new")
        (copy / "results.json").unlink()
        arguments = ("-m", "mmjax.main", "--workdir", str(copy), "--mode", "evaluate")
        seconds.append(new.start(f"{name}.of_old", *arguments))
        again = compare(old.runs / name, copy, tolerance, adapters=False)
        differences += (f"OLD's run, evaluated by NEW: {difference}" for difference in again)
    except Failed as error:
        differences.append(f"NEW fails: {error}")
    for line in differences:
        print(f"{name}: {line}", flush=True)
    row = [f"{s:.0f}" for s in seconds] + [""] * (3 - len(seconds))
    return [*row, f"{len(differences)} differ" if differences else "same"]


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> worktrees -> runs -> table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", metavar="OLD", help="the commit before")
    parser.add_argument("new", metavar="NEW", help="the commit after")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these recipes of configs/")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keeps the runs here")
    parser.add_argument("--tolerance", type=float, default=0.0, help="of figures; usually none")
    parser.add_argument("--fresh", action="store_true", help="each computes its own features")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keep = (options.keep or scratch / "runs").absolute()
        if keep.exists() and any(keep.iterdir()):
            parser.error(f"{keep} is not empty; runs that are there already would be compared")
        sides = [
            stack.enter_context(checked_out(commit, scratch, keep / side, options.fresh))
            for side, commit in (("old", options.old), ("new", options.new))
        ]
        configs = {p.stem for side in sides for p in (side.tree / "configs").glob("[!_]*.py")}
        if unknown := set(options.only or ()) - configs:
            parser.error(f"no recipe is called {sorted(unknown)}; there are {sorted(configs)}")
        # What stands on another recipe's run comes after it.
        chosen = dict.fromkeys(options.only or sorted(configs))
        names = sorted(chosen, key=lambda name: name in RECIPES)
        data, missing = scratch / "data", ""
        if any(name in RECIPES for name in names):
            try:
                own = Side(ROOT, keep, {**os.environ, "PYTHONPATH": str(ROOT)})
                own.start(
                    "data", "-m", "pytest", "--setup-only", "--basetemp", str(data), *FIXTURES
                )
                draw_data(data)
            except Failed as error:
                missing = f"not run: needs fixtures of the tests: {error}"
        table = Table("recipe", "OLD, s", "NEW, s", "NEW on OLD's, s", "result")
        results = []
        for name in names:
            print(f"{name}: running ...", flush=True)
            row = ["", "", "", missing]
            if not missing or name not in RECIPES:
                row = check(name, sides, data, options.tolerance)
            print(f"{name}: {row[-1]}", flush=True)
            results.append(row[-1])
            table.add_row(name, *row)
    Console().print(table)
    same, left = results.count("same"), sum(r.startswith("not run") for r in results)
    differ = len(results) - same - left
    print(f"{same} the same, {differ} differ, {left} not run")
    return int(differ > 0 or same == 0)


if __name__ == "__main__":
    sys.exit(main())
