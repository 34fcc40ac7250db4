"""Runs every fault of the table and writes what came of it.

python -m tests.faults                             # all, an hour on two cores
python -m tests.faults --write docs/reliability.md
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# (what breaks, what is promised, the tests that show it).
CASES = (
    (
        "kill -9 of a process: filling the cache, in a step, saving, evaluating",
        "the same command ends with the same parameters, bit by bit; no temporary file is left",
        ("tests/run/test_kill.py",),
    ),
    (
        "kill -9 at 20 moments drawn by a seed, `language` (three stages)",
        "bit-identical parameters each time; at most one save's interval of steps is repeated, two "
        "where a save was still being written",
        ("tests/faults/test_kill_points.py::test_a_language_run",),
    ),
    (
        "kill -9 at 20 moments drawn by a seed, `instruct`",
        "the same",
        ("tests/faults/test_kill_points.py::test_an_instruct_run",),
    ),
    (
        "the clock jumps by a day, forward and back, in the middle",
        "the run goes on; bit-identical parameters",
        ("tests/faults/test_kill_points.py::test_a_language_run",),
    ),
    (
        "kill -9 of either of two processes: filling the cache, in a step, saving, evaluating",
        "the other ends within 60 s with code 75 and the name of the lost one; both started again "
        "end with the parameters of an undisturbed pair",
        ("tests/faults/test_two_processes.py",),
    ),
    (
        "SIGTERM or Ctrl-C, one process and two",
        "all save at the same next step and end with 143 (130); a second one ends at once",
        ("tests/run/test_stopping.py",),
    ),
    (
        "a stuck process, one that never comes",
        "a sentence and code 75 within the time that was set",
        (
            "tests/run/test_watchdog.py",
            "tests/run/test_stopping.py::test_a_process_that_never_comes_is_named",
        ),
    ),
    (
        "the disk is full: checkpoint, features",
        "one sentence; what was whole before stays whole",
        ("tests/run/test_full_disk.py",),
    ),
    (
        "a cache that cannot be written",
        "one sentence that names it; a full one may be read-only",
        ("tests/faults/test_storage.py",),
    ),
    (
        "two runs on one folder, on one host and on two",
        "the second is refused and told who holds it; a dead owner's lock is taken over",
        ("tests/run/test_lock.py",),
    ),
    (
        "a flipped bit in, or the loss of, each file of the latest checkpoint, iterator "
        "state among them",
        "seen and named; the checkpoint before it is used; what is not read does no harm",
        ("tests/faults/test_flips.py", "tests/test_checkpoint.py"),
    ),
    (
        "a shard of the feature cache is missing, cut or flipped",
        "only what is missing is computed again; nothing wrong is read",
        ("tests/data/test_feature_cache.py",),
    ),
    (
        "the data set changes under its cache",
        "its features are made anew",
        ("tests/faults/test_storage.py::test_data_that_changes_under_a_cache_is_read_anew",),
    ),
    (
        "adapter, report, results, metrics of a finished run damaged",
        "told, and made again from what is whole",
        ("tests/run/test_finished.py",),
    ),
)


def show(tests: tuple[str, ...]) -> tuple[str, float]:
    """Runs tests; pytest's own summary, and the seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=os.environ | {"MMJAX_FAULTS": "1"},
        capture_output=True,
        text=True,
    )
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    found = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", last)
    if done.returncode:
        print(done.stdout[-3000:], file=sys.stderr)
    return ", ".join(found) or last, time.monotonic() - began


def _row(what: str, promise: str, tests: tuple[str, ...], result: str) -> str:
    names = "<br>".join(f"`{name}`" for name in tests)
    return f"| {what} | {promise} | {names} | {result} |"


def _kept(page: Path | None) -> dict[str, str]:
    """What breaks -> the result that a page has of it."""
    lines = page.read_text().splitlines() if page else []
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[3] for row in cells if len(row) == 4}


def _write(page: Path, results: dict[str, str]) -> None:
    """Puts the table of all cases into a page."""
    rows = ["| What breaks | What is promised | Shown by | Result |", "|---|---|---|---|"]
    rows += [_row(*case, results.get(case[0], "not run")) for case in CASES]
    begin, end = "<!-- faults -->\n", "<!-- end of faults -->"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(before + begin + "\n".join(rows) + "\n" + end + rest.partition(end)[2])


def main() -> int:
    """Runs all, prints what came of each, writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="cases that hold one of these texts"
    )
    options = parser.parse_args()
    known: dict[tuple[str, ...], tuple[str, float]] = {}
    results = _kept(options.write)
    for what, _, tests in CASES:
        if not any(text in what for text in options.only):
            continue
        if tests not in known:
            known[tests] = show(tests)
        results[what], seconds = known[tests]
        print(f"{what}: {results[what]} in {seconds:.0f} s", flush=True)
        if options.write:  # after each: whoever stops this keeps what was run
            _write(options.write, results)
    bad = [result for result, _ in known.values() if "failed" in result or "error" in result]
    return len(bad)


if __name__ == "__main__":
    sys.exit(main())
