"""The cache gives room back: what was not used goes, what a run may be reading stays."""

import os
import time

import pytest

from mmjax.assets import __main__ as door
from mmjax.assets import cleaning
from mmjax.errors import MmjaxError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path))
    for kind, name, days in (
        ("features", "old", 9),
        ("features", "new", 0),
        ("features", ".locks", 9),
        ("compiled", "program", 3),
        ("assets", "weights", 9),
    ):
        file = tmp_path / kind / name / "data"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(1_000_000))
        when = time.time() - days * 86400
        os.utime(file, (when, when))
    return tmp_path


def left(cache):
    return {f"{p.parent.parent.name}/{p.parent.name}" for p in cache.glob("*/*/data")}


def test_what_was_not_used_goes_and_the_rest_stays(cache, capsys):
    assert door.main(["clean", "--days", "5"]) == 0
    assert left(cache) == {"features/new", "features/.locks", "compiled/program", "assets/weights"}
    said = capsys.readouterr().out
    assert "features: 1 of 1 MB removed, 1 MB stay" in said
    assert door.main(["clean"]) == 0
    assert left(cache) == {"features/new", "features/.locks", "assets/weights"}


def test_a_dry_run_removes_nothing(cache, capsys):
    assert door.main(["clean", "--dry-run", "assets", "features"]) == 0
    assert "assets: 1 of 1 MB would go, 0 MB stay" in capsys.readouterr().out
    assert len(left(cache)) == 5


def test_a_link_to_nothing_is_an_entry_too(cache):
    (cache / "features" / "gone").symlink_to(cache / "nothing")
    assert "gone" in {entry.path.name for entry in cleaning.entries(("features",))}


def test_a_kind_that_there_is_not(cache, capsys):
    with pytest.raises(MmjaxError, match="no 'runs'; it has features, compiled"):
        cleaning.clean(["runs"])
    assert door.main(["clean", "runs"]) == 1
    assert capsys.readouterr().err.startswith("error: the cache has no 'runs'")
