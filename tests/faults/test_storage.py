"""A cache that cannot be written, and data that changes under it."""

import json
import os

import pytest


@pytest.mark.faults
def test_a_cache_that_cannot_be_written_is_one_sentence(toy, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the cache would be")
    done = toy.run(tmp_path / "run", MMJAX_CACHE=str(blocked / "cache"))
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert str(blocked) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_full_cache_may_be_read_only(toy, straight, tmp_path):
    for path in (toy.cache, *toy.cache.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = toy.run(tmp_path / "run")
    finally:
        for path in (toy.cache, *toy.cache.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.returncode == 0, done.stderr
    assert toy.fingerprints(tmp_path / "run") == toy.fingerprints(straight)


@pytest.mark.faults
def test_data_that_changes_under_a_cache_is_read_anew(toy, straight, tmp_path):
    """Its features have another name: what is cached of the old data is neither used nor lost."""
    before = {path.name for path in (toy.cache / "features").iterdir()}
    pairs = toy.folder / "pairs.jsonl"
    kept = pairs.read_bytes()
    rows = toy.rows()
    rows[0]["zh"] = "w24 w30 w31"
    try:
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = toy.run(tmp_path / "run")
    finally:
        pairs.write_bytes(kept)
    assert done.returncode == 0, done.stderr
    assert toy.fingerprints(tmp_path / "run") != toy.fingerprints(straight)
    after = {path.name for path in (toy.cache / "features").iterdir()}
    assert before < after
