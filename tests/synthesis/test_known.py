"""Files that did not change are not read again; those that did are."""

import hashlib
import os
import time

import pytest

from mmjax.synthesis import known
from mmjax.synthesis.known import KnownFiles


def settled(path, seconds=10.0):
    """As if it was written a while ago."""
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


@pytest.fixture
def reads(monkeypatch):
    found = []
    read = known.sha256_of
    monkeypatch.setattr(known, "sha256_of", lambda path: found.append(path) or read(path))
    return found


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_an_unchanged_file_is_read_once_by_whoever_asks(tmp_path, reads):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    settled(path)
    for _ in range(2):  # another process has the same memory
        files = KnownFiles(tmp_path / "memory.json")
        for _ in range(2):
            assert files.sha256(path) == sha256('{"a": 1}\n{"a": 2}\n')
            assert files.rows(path) == 2
    assert len(reads) == 1


@pytest.mark.parametrize("how", ["written in place", "replaced, as old as before"])
def test_a_change_of_the_same_size_is_seen(how, tmp_path, reads):
    path, files = tmp_path / "rows.jsonl", KnownFiles(tmp_path / "memory.json")
    path.write_text('{"a": 1}\n')
    settled(path)
    old = path.stat().st_mtime_ns
    assert files.sha256(path) == sha256('{"a": 1}\n')
    if how == "written in place":
        path.write_text('{"a": 2}\n')
    else:
        (tmp_path / "other").write_text('{"a": 2}\n')
        os.utime(tmp_path / "other", ns=(old, old))
        os.replace(tmp_path / "other", path)
    assert files.sha256(path) == sha256('{"a": 2}\n')
    assert len(reads) == 2


def test_what_may_still_change_within_the_clocks_tick_is_not_remembered(tmp_path, reads):
    path, files = tmp_path / "rows.jsonl", KnownFiles(tmp_path / "memory.json")
    path.write_text("one")
    stamp = path.stat().st_mtime_ns
    assert files.sha256(path) == sha256("one")
    path.write_text("two")
    os.utime(path, ns=(stamp, stamp))
    assert files.sha256(path) == sha256("two")


def test_a_damaged_memory_costs_a_reading(tmp_path, reads):
    path, memory = tmp_path / "rows.jsonl", tmp_path / "memory.json"
    path.write_text("one")
    settled(path)
    KnownFiles(memory).sha256(path)
    memory.write_text("{")
    assert KnownFiles(memory).sha256(path) == sha256("one")
    assert len(reads) == 2
