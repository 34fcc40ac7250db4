"""Two processes train for half an hour: memory, threads and files stay as many as they were.

  python -m tests.faults.soak --minutes 30 --config configs/language_emoji.py --workdir runs/soak

Needs Linux (/proc). Every second it reads what each process holds; in the end it prints, for each,
the slope of resident memory after the first fifth of the time, and how many threads and open files
there were at first and at last. Exit code 1 where memory grows by more than 1 MiB a minute, threads
or files by more than 8, or more checkpoints lie there than the recipe keeps.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
MOST_GROWTH = 1.0  # MiB a minute
MOST_MORE = 8


@dataclass(frozen=True)
class Sample:
    """What a process holds.

    Attributes:
      minute: since the start.
      memory: resident, MiB.
      threads: how many.
      files: open ones.
    """

    minute: float
    memory: float
    threads: int
    files: int


def sample(pid: int, began: float) -> Sample | None:
    """Reads /proc; None where the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    said = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    memory = int(said.get("VmRSS", "0 kB").split()[0]) / 1024
    return Sample((time.monotonic() - began) / 60, memory, int(said["Threads"]), files)


def judge(samples: list[Sample], minutes: float) -> tuple[str, bool]:
    """A sentence, and whether all stayed flat once things had settled."""
    settled = [one for one in samples if one.minute > minutes / 5]
    if len(settled) < 10:
        return f"only {len(settled)} samples after {minutes / 5:g} minutes", False
    at, memory = (np.array([getattr(x, name) for x in settled]) for name in ("minute", "memory"))
    slope = float(np.polyfit(at, memory, 1)[0])
    first, last = settled[0], settled[-1]
    good = slope < MOST_GROWTH and last.threads - first.threads <= MOST_MORE
    good = good and last.files - first.files <= MOST_MORE
    return (
        f"{len(settled)} samples: {memory[0]:.0f} to {memory[-1]:.0f} MiB, {slope:+.3f} MiB a "
        f"minute; threads {first.threads} to {last.threads}; files {first.files} to {last.files}"
    ), good


def main() -> int:
    """Trains, looks, stops, judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--config", default="configs/language_emoji.py")
    parser.add_argument("--workdir", type=Path, default=Path("runs/soak"))
    options, flags = parser.parse_known_args()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    common = [sys.executable, "-m", "mmjax.main", "--config", options.config]
    common += ["--workdir", str(options.workdir), "--coordinator", place, "--num_processes", "2"]
    # Many steps, and a save, a record and an evaluation every few of them.
    common += ["--config.train.steps=1000000", "--config.train.save_every=50"]
    common += flags
    children = [
        subprocess.Popen(
            [*common, "--process_id", str(i)], cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}
        )
        for i in range(2)
    ]
    began, samples = time.monotonic(), [list[Sample](), list[Sample]()]
    try:
        while time.monotonic() - began < 60 * options.minutes:
            for child, own in zip(children, samples, strict=True):
                found = sample(child.pid, began)
                if found is None or child.poll() is not None:
                    print(f"process {children.index(child)} ended early", file=sys.stderr)
                    return 1
                own.append(found)
            time.sleep(1)
        children[0].send_signal(signal.SIGTERM)
        codes = [child.wait(120) for child in children]
    finally:
        for child in children:
            child.kill()
    judged = [judge(own, options.minutes) for own in samples]
    for number, (sentence, good) in enumerate(judged):
        print(f"process {number}: {sentence}: {'flat' if good else 'GROWS'}")
    kept = [len(list(p.iterdir())) for p in options.workdir.glob("seed_*/*/checkpoints")]
    print(f"checkpoints kept: {kept}; exit codes {codes}")
    return int(
        not all(good for _, good in judged) or max(kept, default=0) > 2 or codes != [143] * 2
    )


if __name__ == "__main__":
    sys.exit(main())
