"""Memory that one run of a program freed serves the next: the kernel clears no page twice."""

import json
import os
import platform
import subprocess
import sys

import pytest

from mmjax.processes import allocator

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the settings are glibc's own"
)
RUNS, MEGABYTES = 20, 64
FAULTS = f"""
import json, resource, sys
import jax, jax.numpy as jnp
from mmjax.processes import allocator
done = allocator.keep_freed_memory() if sys.argv[1] == "kept" else None
x = jnp.arange({MEGABYTES << 18}, dtype=jnp.float32)
program = jax.jit(lambda x: x * 2.0)  # its result is memory that is freed as well
for _ in range(60):  # until blocks that are a little too small for another are taken
    program(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({RUNS}):
    program(x).block_until_ready()
after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(json.dumps([done, after - before]))
"""


def faults(mode, **more):
    known = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode],
        env={**known, "JAX_PLATFORMS": "cpu", **more},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_temporaries_are_used_again():
    pages = RUNS * (MEGABYTES << 20) // os.sysconf("SC_PAGE_SIZE")
    _, given_back = faults("given back")
    done, kept = faults("kept")
    assert given_back > pages / 2  # what is mended: all of it, in every run
    if done:  # not beside an accelerator
        assert kept < given_back / 4


def test_whoever_set_it_in_the_environment_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not allocator.keep_freed_memory()


def test_hosts_of_accelerators_keep_an_arena_for_each_thread(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(allocator.glob, "glob", lambda pattern: [pattern])
    assert not allocator.keep_freed_memory()
