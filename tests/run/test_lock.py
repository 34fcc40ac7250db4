"""A run folder belongs to one run at a time, whoever dies and wherever the others are."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmjax import study
from mmjax.errors import MmjaxError
from mmjax.runs import lock
from mmjax.specs.recipe import resolve_recipe

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
from pathlib import Path
from mmjax.runs import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def owner(workdir):
    """Another process that holds the folder until the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(workdir)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "PATIENCE", 0.4)


def write(workdir, **owner):
    (workdir / lock.LOCK).write_text(json.dumps(owner))


def test_the_second_is_told_of_the_first_and_takes_over_when_it_is_killed(tmp_path):
    workdir = tmp_path / "runs" / "a"
    with owner(workdir) as child:
        sentence = rf"^{workdir} is in use by process {child.pid} on {socket.gethostname()} \(since"
        with pytest.raises(MmjaxError, match=sentence), lock.hold(workdir):
            pass
        child.kill()
        child.wait()
        assert (workdir / lock.LOCK).exists()
        with lock.hold(workdir):
            assert json.loads((workdir / lock.LOCK).read_bytes())["pid"] == os.getpid()
    assert list(workdir.iterdir()) == []


def test_a_second_of_the_same_process_is_refused_and_takes_nothing_away(tmp_path):
    with lock.hold(tmp_path):
        for _ in range(2):
            with pytest.raises(MmjaxError, match=f"process {os.getpid()} on"), lock.hold(tmp_path):
                pass
    with lock.hold(tmp_path):
        pass


def test_an_owner_on_another_host_is_dead_when_it_beats_no_more(tmp_path):
    write(tmp_path, pid=7, host="elsewhere", since="yesterday", beat="000000001")
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / lock.LOCK).read_bytes())["host"] == socket.gethostname()


def test_an_owner_on_another_host_that_beats_is_left_alone(tmp_path):
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(0.02):
            count += 1
            write(tmp_path, pid=7, host="elsewhere", since="yesterday", beat=f"{count:09d}")

    write(tmp_path, pid=7, host="elsewhere", since="yesterday", beat="000000000")
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        sentence = r"in use by process 7 on elsewhere \(since yesterday\); .* another --workdir"
        with pytest.raises(MmjaxError, match=sentence), lock.hold(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()


def test_where_the_disk_has_no_locks_the_beat_tells(tmp_path, monkeypatch):
    def unknown(file: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unknown)
    host = socket.gethostname()
    refused = pytest.raises(MmjaxError, match=f"{os.getpid()} on {host}")
    with lock.hold(tmp_path), refused, lock.hold(tmp_path):
        pass
    write(tmp_path, pid=7, host=host, since="yesterday", beat="000000001")
    with lock.hold(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"[1]", b'{"pid": 7}'])
def test_a_file_that_says_nothing_locks_nothing(content, tmp_path):
    (tmp_path / lock.LOCK).write_bytes(content)
    with lock.hold(tmp_path):
        pass


def test_a_folder_that_was_made_in_vain_goes_again(tmp_path):
    workdir = tmp_path / "runs" / "a"
    with pytest.raises(ZeroDivisionError), lock.hold(workdir):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with lock.hold(workdir):
        (workdir / "config.json").touch()
    assert [path.name for path in workdir.iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(MmjaxError, match="cannot make the run folder")
    with refused, lock.hold(tmp_path / "file" / "a"):
        pass


def test_a_folder_that_can_only_be_read_needs_no_lock(tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, *arguments, **settings):
        if Path(path).name == lock.LOCK:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(lock.os, "open", refuse)
    with lock.hold(tmp_path):
        assert not (tmp_path / lock.LOCK).exists()


def test_a_run_and_an_evaluation_hold_their_folder(toy, tmp_path, monkeypatch):
    recipe, seen = resolve_recipe(toy.config), []

    def look(*arguments):
        with pytest.raises(MmjaxError, match="is in use by process"):
            study.run(*arguments[:4])  # without the clock
        seen.append(arguments)

    monkeypatch.setattr(study, "_run", look)
    monkeypatch.setattr(study, "_evaluate", look)
    monkeypatch.setattr(study.run_folder, "check_same", lambda *_: None)
    study.run(recipe, toy.config, tmp_path, "")
    study.evaluate(recipe, toy.config, tmp_path, "")
    assert len(seen) == 2
