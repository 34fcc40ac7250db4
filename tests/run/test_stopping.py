"""Asked to stop, or left alone by another process: nothing is lost, and one sentence says why."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmjax.processes import peers

ROOT = Path(__file__).parents[2]

# Only a signal can have saved what there is between two steps.
SELDOM = ("--config.train.save_every=100", "--config.base.train.save_every=100")
SELDOM += ("--config.base.train.eval_every=12", "--config.base.train.log_every=5")


def start(toy, workdir: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        toy.command(workdir, *arguments),
        cwd=toy.folder,
        env=toy.environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def when(child: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    limit = time.monotonic() + 200
    while not moment():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.005)


def lines_of(workdir: Path, stage: str = "base") -> int:
    metrics = workdir / "seed_0" / stage / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step(number, toy, tmp_path):
    workdir = tmp_path / "run"
    child = start(toy, workdir, *SELDOM)
    when(child, lambda: lines_of(workdir) >= 1)  # after five steps
    child.send_signal(number)
    said = child.communicate(timeout=100)[1]
    assert child.returncode == 128 + number, said
    assert "stopped; the same command goes on where it was" in said
    assert "Traceback" not in said
    saved = [int(p.name) for p in (workdir / "seed_0/base/checkpoints").iterdir()]
    assert len(saved) == 1
    assert 5 <= saved[0] < 12
    if number == signal.SIGINT:  # what goes on afterwards has no part in the signal
        return
    done = toy.run(workdir, *SELDOM)
    assert done.returncode == 0, done.stderr
    straight = tmp_path / "straight"
    assert toy.run(straight, *SELDOM).returncode == 0
    assert toy.fingerprints(workdir) == toy.fingerprints(straight)
    assert toy.losses(workdir, "base") == toy.losses(straight, "base")


SLOW = """
import os, time, pathlib

class Slow:
    def run(self, functions, data):
        mark = pathlib.Path(os.environ["MARK"])
        if os.environ.get("WAIT"):
            mark.touch()
            time.sleep(100)
        return {"slow": 1.0}

SLOW = Slow()
"""


@pytest.mark.slow
def test_a_signal_in_an_evaluation_waits_for_no_end_of_it(toy, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    more = {"MARK": str(tmp_path / "mark"), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    flags = (*SELDOM, '--config.evals=("retrieval", "slow:SLOW")')
    workdir = tmp_path / "run"
    child = start(toy, workdir, *flags, WAIT="1", **more)
    when(child, (tmp_path / "mark").exists)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=90)[1]
    assert child.returncode == 143, said
    assert time.monotonic() - began < 60
    saved = [int(p.name) for p in (workdir / "seed_0/base/checkpoints").iterdir()]
    assert saved == [12]  # the step whose evaluation was cut off
    done = toy.run(workdir, *flags, **more)
    assert done.returncode == 0, done.stderr
    straight = tmp_path / "straight"
    assert toy.run(straight, *flags, **more).returncode == 0
    assert toy.fingerprints(workdir) == toy.fingerprints(straight)
    rows = [(run / "seed_0/base/metrics.jsonl").read_text() for run in (workdir, straight)]
    assert values_of(rows[0]) == values_of(rows[1])


def values_of(lines: str) -> list[dict[str, float]]:
    """What was measured of each step, without clocks."""
    rows = [json.loads(line) for line in lines.splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k and "time" not in k} for row in rows]


def test_a_second_signal_ends_at_once(tmp_path):
    code = (
        "import time\n"
        "from mmjax.processes import interrupts\n"
        "with interrupts.installed(), interrupts.held():\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.01)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 143
    assert said.strip() == "stopped at once by a second signal"


def test_handlers_are_those_of_before_afterwards():
    from mmjax.processes import interrupts

    former = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.installed(), pytest.raises(interrupts.Interrupted):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == former
    with interrupts.held():
        assert interrupts.stop_here() is None


# ---- Several processes


def pair(toy, workdir: Path, *arguments: str, count: int = 2) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    return [
        start(toy, workdir, "--distributed", *arguments, JAX_PROCESS_ID=str(i), **env)
        for i in range(count)
    ]


def end(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        child.kill()
        child.communicate()


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(toy, tmp_path):
    children = pair(toy, tmp_path / "run", *SELDOM)
    try:
        when(children[0], lambda: lines_of(tmp_path / "run") >= 1)
        children[1].send_signal(signal.SIGTERM)  # one of them is enough
        said = [child.communicate(timeout=100)[1] for child in children]
        assert [child.returncode for child in children] == [143, 143], said
        assert len(list((tmp_path / "run/seed_0/base/checkpoints").iterdir())) == 1
    finally:
        end(children)


@pytest.mark.slow
def test_a_lost_process_is_named(toy, tmp_path):
    children = pair(toy, tmp_path / "run", "--peer_timeout=10", *SELDOM)
    try:
        when(children[0], lambda: lines_of(tmp_path / "run") >= 1)
        children[1].kill()
        began = time.monotonic()
        said = children[0].communicate(timeout=100)[1]
        assert time.monotonic() - began < 30
        assert children[0].returncode == peers.LOST, said
        errors = re.findall("^error: .*$", said, re.MULTILINE)
        assert len(errors) == 1
        assert "process 1 of 2 was lost" in errors[0]
        assert "Traceback" not in said
    finally:
        end(children)


@pytest.mark.slow
def test_a_process_that_never_comes_is_named(toy, tmp_path):
    (child,) = pair(toy, tmp_path / "run", "--peer_timeout=5", count=1)
    try:
        said = child.communicate(timeout=100)[1]
        assert child.returncode == peers.LOST, said
        assert "process 1 did not come within 5 s to where process 0 of 2 waits" in said
        assert "Traceback" not in said
    finally:
        end([child])
