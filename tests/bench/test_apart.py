"""Sides run in processes of their own, and nothing is claimed that the machine does not settle."""

import json
import os
import sys
import time

import numpy as np
import pytest

from benchmarks import apart, command, harness, side
from benchmarks.apart import Side, Worker
from benchmarks.harness import Comparison, Line, Options
from mmjax.errors import MmjaxError

WORK = "tests.bench.work"


def sleeping(name: str, seconds: float) -> Side:
    """A side whose work takes as long on a busy machine as on a quiet one."""
    return Side(name, f"{WORK}:sleep", {"seconds": seconds})


@pytest.fixture(scope="module")
def found() -> Comparison:
    """The same work, twice the work, and a side that cannot run here."""
    sides = [sleeping("a", 0.1), sleeping("the same", 0.1), sleeping("twice", 0.2)]
    sides.append(Side("elsewhere", f"{WORK}:absent"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "PAUSE", 0.01)
        return apart.compare(sides, Options(rounds=3))


def test_the_same_work_is_1_and_twice_the_work_is_2(found):
    assert found.noise.median == pytest.approx(1, abs=0.05)
    assert found.of("the same").median == pytest.approx(1, abs=0.05)
    assert 1 / found.of("twice").median == pytest.approx(2, abs=0.1)
    assert {len(seconds) for seconds in found.seconds.values()} == {3}


def test_a_peer_that_is_not_here_is_told_and_not_dropped(found):
    assert found.skipped == {"elsewhere": "skipped: the package 'no_such_package' is not here"}
    assert ("elsewhere", "", "", found.skipped["elsewhere"]) in found.grid("t").rows
    json.dumps(found.samples())


def test_sides_have_processes_cores_and_memory_of_their_own():
    cores = apart.cores_of()[:1]
    sizes = [(name, mib) for name, mib in (("small", 1), ("large", 200))]
    facts, peaks = {}, {}
    for name, mib in sizes:
        with Worker(Side(name, f"{WORK}:hold", {"mib": mib}), cores, 1) as worker:
            facts[name] = worker.facts
        peaks[name] = worker.peak / 2**20
    assert len({os.getpid(), *(fact["pid"] for fact in facts.values())}) == 3
    assert all(fact["cores"] == cores and fact["threads"] == "1" for fact in facts.values())
    # This process holds JAX; what started a side does not count as the side's.
    assert peaks["small"] < 60
    assert peaks["large"] - peaks["small"] == pytest.approx(199, abs=15)


def test_a_side_that_breaks_is_named(capfd):
    broken = Side("broken", f"{WORK}:broken")
    with pytest.raises(MmjaxError, match="the side 'broken' ended"):
        apart.compare([sleeping("a", 0.0), broken], Options(rounds=1))
    assert "out of order" in capfd.readouterr().err
    with pytest.raises(MmjaxError, match="no/python: No such file"):
        Worker(Side("a", f"{WORK}:sleep", {}, "no/python"), [0], 1)


def test_sides_that_disagree_are_not_timed():
    with pytest.raises(MmjaxError, match=r"do not agree.*a 0\.1, b 0\.2"):
        apart.compare(
            [sleeping("a", 0.1), sleeping("b", 0.2)], Options(rounds=1), harness.check_equal
        )
    harness.check_equal({"a": 1.0, "b": 1.00001})
    for wrong in (1.1, float("nan"), [1.0, 1.0]):
        with pytest.raises(MmjaxError, match="do not agree"):
            harness.check_equal({"a": 1.0, "b": wrong})
    harness.check_equal({"a": [1.0, 2.0], "b": [1.0, 2.00001]})
    harness.check_same({"a": ["x"], "b": ["x"]})
    with pytest.raises(MmjaxError, match="do not agree"):
        harness.check_same({"a": ["x"], "b": ["y"]})


def run(busy: float | None, own: float = 1.0) -> dict[str, float | None]:
    """A second's run on two cores that were busy for so long."""
    return {"seconds": 1.0, "own": own, "busy": busy, "stolen": 0.0}


def test_what_others_take_is_counted():
    assert apart.others([run(1.0)], 2) == 0
    assert apart.others([run(1.5)], 2) == pytest.approx(0.25)
    assert apart.others([run(0.9), run(1.1)], 2) == pytest.approx(0)  # a tick here and there
    assert apart.others([run(None)], 2) is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count it a core")
def test_this_process_counts_as_another():
    cores = apart.cores_of()
    before = side.cores_busy(cores)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after = side.cores_busy(cores)
    assert before is not None
    assert after is not None
    assert after[0] - before[0] > 0.25


def made(again: list[float], others: tuple[float | None, ...]) -> Comparison:
    """a beside b, which takes four times as long."""
    return Comparison({"a": [1.0] * 3, "b": [4.0] * 3}, ([1.0] * 3, again), others)


def test_noise_and_company_are_never_a_pass():
    steady = made([1.0, 1.01, 0.99], (0.0, 0.01))
    assert steady.refusal == ""
    assert steady.lines("w") == [Line("w", "b", "0.25 [0.25, 0.25]", "1.00 [0.99, 1.01]")]
    assert made([1.0] * 3, (None,)).refusal == ""
    for spoiled, why in (
        (made([1.0, 1.3, 0.8], (0.0,)), "noisy: a against itself"),
        (made([1.0] * 3, (0.0, 0.4)), "busy: others had 40% of the cores"),
    ):
        assert spoiled.refusal.startswith(why)
        shown = [cell for row in spoiled.grid("t").rows for cell in row]
        assert not any(cell.startswith("0.25") for cell in shown)
        assert [line.ratio for line in spoiled.lines("w")] == [spoiled.refusal]
        assert "0.25" not in command.table(spoiled.lines("w"))


def test_a_disturbed_round_is_measured_again(monkeypatch):
    shares = iter([0.0, 0.9, 0.9, 0.02, 0.01])
    monkeypatch.setattr(apart, "_round", lambda workers, cores: ([1.0], next(shares)))

    worker = object.__new__(Worker)  # without a process
    worker.side = sleeping("a", 0.0)
    seconds, told = apart._rounds([worker], Options(rounds=3), 2, "t")
    assert told == [0.0, 0.02, 0.01]
    assert seconds == {"a": [1.0] * 3}


def test_more_threads_than_cores_are_refused():
    with pytest.raises(MmjaxError, match="--threads 4096"):
        apart.cores_of(4096)


def test_arrays_of_any_library_are_told_as_lists():
    assert side.plain(np.ones(2)) == [1, 1]
    assert side.plain("x") == "x"
