"""Whoever is lost is named by the others: process 0 too, whose loss makes JAX's client abort."""

import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from mmjax.processes import peers

JOIN = """
import os, sys, time
from pathlib import Path
from mmjax.processes import launchers, starting
index, port, nowhere = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
launch = launchers.Launch("test", f"localhost:{port}", 2, index)
starting.set_up(1, launch, nowhere, peer_timeout=10)
print("joined", flush=True)
if sys.stdin.readline():
    os.abort()
time.sleep(60)
"""


@pytest.fixture
def pair(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, str(i), str(port), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.readline() == "joined\n", child.stderr.read()
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_the_loss_of_process_0_is_named_although_jax_aborts(pair):
    pair[0].kill()
    began = time.monotonic()
    said = pair[1].communicate(timeout=60)[1]
    assert time.monotonic() - began < 20
    assert pair[1].returncode == peers.LOST, said
    assert re.findall("^error: .*$", said, re.MULTILINE) == [
        "error: process 0 of 2 was lost; the run goes on from its last checkpoint when all are "
        "started again with the same command"
    ]


def test_another_abort_stays_one(pair):
    pair[1].stdin.write("\n")
    pair[1].stdin.flush()
    said = pair[1].communicate(timeout=60)[1]
    assert pair[1].returncode == -signal.SIGABRT, said
    assert "lost" not in said
