"""Runs a recipe and kills it -9 at chosen moments: `python -m tests.faults.killing`.

A moment is a number: of the training steps, saves, evaluations, renames, flushes and metrics that a
run makes, each counted before and after. Children are forked from a process that has imported all,
so that twenty runs take little longer than their own work. Reads one Python literal from stdin:
{"config", "folder", "cache", "seed", "kills", "hours"}; `hours` is how far the clock jumps halfway.
"""

import ast
import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmjax import assets, checkpoint, step, study, writer
from mmjax.processes import interrupts, starting
from mmjax.runs import adapter_files
from mmjax.specs.recipe import resolve_recipe
from mmjax.tasks import published


@dataclasses.dataclass
class Moments:
    """Counts what happens.

    Attributes:
      at: the moment of the kill; 0 for none.
      jump: the moment at which the clock jumps; 0 for none.
      hours: how far.
      seen: so far.
    """

    at: int = 0
    jump: int = 0
    hours: float = 0.0
    seen: int = 0

    def tick(self) -> None:
        """One more; perhaps the last."""
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.jump and self.seen == self.jump:
            real = time.time
            time.time = lambda: real() + 3600 * self.hours

    def watch(self, place: Any, name: str, also: Callable[[], None] = lambda: None) -> None:
        """Counts a function before and after each call."""
        inner = getattr(place, name)

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            also()
            result = inner(*args, **kwargs)
            self.tick()
            return result

        setattr(place, name, counted)


def run(config: dict[str, Any], workdir: Path, moments: Moments, steps: Path, seen: Path) -> None:
    """The whole command; ends the process."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        log = os.open(workdir.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(nowhere, 1)
        os.dup2(log, 2)
    counter = os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    moments.watch(step.TrainStep, "__call__", lambda: (os.write(counter, b"."), None)[1])
    moments.watch(checkpoint.Checkpoints, "save")
    moments.watch(writer.MetricsWriter, "write")
    moments.watch(published.Published, "bind")
    for name in ("replace", "rename", "fsync"):
        moments.watch(os, name)
    code = 1
    try:
        starting.set_up(0, None, assets.cache_dir() / "compiled")
        with interrupts.installed():
            study.run(resolve_recipe(config), config, workdir, "test")
        seen.write_text(str(moments.seen))
        code = 0
    finally:
        if code:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)


def child(*arguments: Any) -> int:
    """Forks a run; its exit status as `os.waitpid` gives it."""
    pid = os.fork()
    if not pid:
        run(*arguments)
    return os.waitpid(pid, 0)[1]


def fingerprints(workdir: Path) -> dict[str, str]:
    """Stage -> fingerprint of what was trained."""
    found = {}
    for card in sorted(workdir.glob(f"seed_*/*/adapter/{adapter_files.CARD}")):
        trainable = json.loads(card.read_text())["trainable"]
        found["/".join(card.parts[-4:-2])] = trainable["fingerprint"]
    return found


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """All runs; what each left."""
    folder, config = Path(asked["folder"]), asked["config"]
    os.environ["MMJAX_CACHE"] = str(asked["cache"])
    draw, seen = random.Random(asked["seed"]), folder / "seen"
    counts: list[int] = []

    def once(name: str, moments: Moments) -> tuple[int, int]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        steps = folder / name / "steps"
        status = child(config, folder / name / "run", moments, steps, seen)
        return status, steps.stat().st_size if steps.exists() else 0

    # The first fills the cache, whose writes are moments too; the second has what all others have.
    status, _ = once("first", Moments())
    assert status == 0, (folder / "first" / "log").read_text()[-2000:]
    status, straight = once("straight", Moments())
    assert status == 0, (folder / "straight" / "log").read_text()[-2000:]
    total, expected = int(seen.read_text()), fingerprints(folder / "straight" / "run")
    runs = []
    for number in range(asked["kills"]):
        name, at = f"kill_{number}", draw.randrange(1, total + 1)
        killed, _ = once(name, Moments(at=at))
        ended, taken = once(name, Moments())
        same = fingerprints(folder / name / "run") == expected
        runs.append(
            {
                "at": at,
                "killed": os.WIFSIGNALED(killed) and os.WTERMSIG(killed) == signal.SIGKILL,
                "ended": ended == 0,
                "same": same,
                "repeated": taken - straight,
            }
        )
        counts.append(taken)
    found = {"moments": total, "steps": straight, "stages": sorted(expected), "runs": runs}
    if asked.get("hours"):
        jumped = []
        for hours in asked["hours"]:
            name = f"clock_{hours}"
            status, _ = once(name, Moments(jump=total // 2, hours=hours))
            same = fingerprints(folder / name / "run") == expected
            jumped.append({"hours": hours, "ended": status == 0, "same": same})
        found["clock"] = jumped
    return found


if __name__ == "__main__":
    print(json.dumps(main(ast.literal_eval(sys.stdin.read()))))
