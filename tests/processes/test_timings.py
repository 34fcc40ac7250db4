"""A start says where its time went: every second once, and how many programs were compiled."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.processes import timings
from mmjax.processes.timings import COMPILING, REST, Timings, phase, recorded


@pytest.fixture
def clock(monkeypatch):
    """Moves when it is told to."""
    now = [0.0]
    monkeypatch.setattr(timings.time, "monotonic", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


def stopped(clock):
    with phase("evaluation"):
        clock(16)
        raise ValueError("stopped")


def test_every_second_is_counted_once(clock):
    with recorded() as found:
        clock(1)
        with phase("training"):
            clock(2)
            with phase("features"):
                clock(4)
            clock(8)
            with pytest.raises(ValueError, match="stopped"):
                stopped(clock)
        with phase("features"):
            clock(32)
    assert found.table() == {"features": 36, "evaluation": 16, "training": 10, REST: 1}
    assert sum(found.table().values()) == 63


def test_compiling_is_counted_apart_from_what_it_is_for(clock):
    found = Timings()
    found.enter("training")
    clock(10)
    found.compiled(3)
    found.compiled(4)
    found.leave()
    assert found.table() == {f"{COMPILING} 2 programs": 7, "training": 3}


def test_programs_are_told_by_jax():
    x = jnp.arange(7)  # compiled before
    jax.block_until_ready(x)
    with recorded() as found:
        step = jax.jit(lambda x: x * 3 + 1)
        jax.block_until_ready(step(x))
        once = found.programs
        jax.block_until_ready(step(x))
    assert once == found.programs == 1
    jax.block_until_ready(jax.jit(lambda x: x * 5 + 2)(x))
    assert found.programs == 1  # nobody listens any more


def test_a_phase_outside_of_a_start_is_nothing():
    with phase("features"):
        pass
