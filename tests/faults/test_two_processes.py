"""One of two processes is killed -9; the other ends in a sentence, and both go on together."""

import os
import signal
import socket
import subprocess
import time

import pytest

from mmjax.processes import peers

LIMIT = 60.0  # seconds in which the other one must have ended


def pair(toy, workdir, cache):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    children = []
    for index in range(2):
        flags = ["--coordinator", place, "--num_processes", "2", "--process_id", str(index)]
        children.append(
            subprocess.Popen(
                toy.command(workdir, *flags, "--peer_timeout=15"),
                cwd=toy.folder,
                env=toy.environment(MMJAX_CACHE=str(cache)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    return children


def reached(moment, workdir, cache):
    stage = workdir / "seed_0" / "language"
    if moment == "cache fill":
        return len(list(cache.glob("features/*"))) >= 2
    if moment == "step":
        metrics = stage / "metrics.jsonl"
        return metrics.is_file() and metrics.read_bytes().count(b"\n") >= 4
    if moment == "save":
        return (
            any("tmp" in p.name for p in (stage / "checkpoints").glob("*"))
            or (stage / "checkpoints" / "6").is_dir()
        )
    return (stage / "done.json").is_file()  # the evaluation at the end


def finish(children):
    said = [child.communicate(timeout=600)[1] for child in children]
    return [child.returncode for child in children], said


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pair") / "run"
    codes, said = finish(pair(toy, workdir, toy.folder / "cache_of_pairs"))
    assert codes == [0, 0], said
    assert "process 0 of 2 (flags)" in said[0]
    return toy.fingerprints(workdir)


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment", ["cache fill", "step", "save", "evaluation"])
def test_nothing_is_lost(moment, victim, toy, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    cache = tmp_path / "cache" if moment == "cache fill" else toy.folder / "cache_of_pairs"
    children = pair(toy, workdir, cache)
    try:
        limit = time.monotonic() + 600
        while not reached(moment, workdir, cache):
            assert time.monotonic() < limit
            assert all(child.poll() is None for child in children)
            time.sleep(0.005)
        os.kill(children[victim].pid, signal.SIGKILL)
        killed = time.monotonic()
        other = children[1 - victim]
        said = other.communicate(timeout=LIMIT + 60)[1]
        assert time.monotonic() - killed < LIMIT
        assert other.returncode == peers.LOST, said
        assert f"process {victim} of 2 was lost" in said
    finally:
        for child in children:
            child.kill()
            child.wait()
    codes, said = finish(pair(toy, workdir, cache))
    assert codes == [0, 0], said
    if moment != "cache fill":  # features of another start may differ in the last bit
        assert toy.fingerprints(workdir) == undisturbed
    assert (workdir / "results.json").is_file()
