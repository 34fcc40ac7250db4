"""A training that makes no step ends in a sentence; where its time goes is written down."""

import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

from mmjax.processes import peers
from mmjax.runs import pace


def run(body):
    script = "import time\nfrom mmjax.processes import interrupts, watchdog\n"
    script += textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )


def test_a_stuck_training_ends_with_a_sentence_and_where_it_stands():
    done = run("""
        def a_loader_that_waits():
            time.sleep(30)
        watchdog.set_limit(0.5)
        with interrupts.held():
            a_loader_that_waits()
    """)
    assert done.returncode == peers.LOST
    assert "error: no step was made for 0.5 s" in done.stderr
    assert "a_loader_that_waits" in done.stderr


def test_whoever_makes_progress_goes_on():
    done = run("""
        from mmjax.progress import track
        watchdog.set_limit(0.6)
        with interrupts.held():
            for _ in range(4):
                time.sleep(0.3)
                assert interrupts.stop_here() is None
            for _ in track(range(4), "evaluating"):
                time.sleep(0.3)
        time.sleep(1.0)  # elsewhere nobody looks
        print("done")
    """)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


def test_nobody_looks_where_there_is_no_limit():
    done = run("""
        watchdog.set_limit(0.0)
        with interrupts.held():
            time.sleep(1.0)
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_shares_of_the_time_are_written_at_every_record(tmp_path, monkeypatch):
    now = iter([0.0, 0.0, 1.0, 2.0, 5.0, 10.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(now))
    with pace.Pace(tmp_path, 3) as timed:
        timed._since = 0.0
        with timed.spent_on("loader"):
            pass
        with timed.spent_on("saving"):
            pass
        timed.record(8)
    (line,) = [json.loads(x) for x in (tmp_path / pace.FILE).read_text().splitlines()]
    assert line["step"] == 8
    assert line["seconds_per_step"] == pytest.approx(10 / 5, rel=0.6)
    assert 0 < line["loader_share"] < line["saving_share"] < 1
    assert line["memory_bytes"] > 1 << 20


def test_a_trace_of_some_steps_is_left_for_perfetto(tmp_path):
    pace.trace_steps(2)
    try:
        double = jax.jit(lambda x: x * 2)
        with pace.Pace(tmp_path, 0) as timed:
            for step in range(1, 7):
                timed.begin(step)
                double(jnp.ones(8)).block_until_ready()
                assert timed._tracing == (step in (3, 4)), step
    finally:
        pace.trace_steps(0)
    assert list(tmp_path.glob("trace/**/perfetto_trace.json.gz"))
