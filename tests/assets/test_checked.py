"""Files of a ready asset that are not as they were made: seen, told and made again."""

import json
import logging
import os

import pytest

from mmjax import files as disk
from mmjax.assets import checked, store
from mmjax.errors import AssetError


@pytest.fixture
def asset(workshop, monkeypatch):
    """A ready asset, as a later process finds it."""
    found = workshop.asset(workshop.wheel())
    store.ensure(found)
    monkeypatch.setattr(checked, "_SEEN", {})
    return found


def flip(folder, name="a.txt", keep_time=False):
    """Changes one bit of a file, its size left alone."""
    path = folder / name
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_one_flipped_bit_is_named_and_the_asset_made_again(workshop, asset, caplog):
    folder = store.folder_of(asset)
    flip(folder)
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert store.ensure(asset) == folder
    assert f"asset fake: a.txt is damaged in {folder}" in caplog.text
    assert (folder / "a.txt").read_bytes() == workshop.files["fake_pkg/data/a.txt"]
    assert workshop.leftovers() == []


def test_without_its_wheel_one_sentence_names_the_file_and_the_command(workshop, asset):
    folder = store.folder_of(asset)
    next(workshop.wheels.iterdir()).unlink()
    flip(folder)
    with pytest.raises(AssetError) as caught:
        store.ensure(asset)
    said = str(caught.value)
    assert f"a.txt is damaged in {folder}" in said
    assert "python -m mmjax.assets fetch fake" in said
    assert "\n" not in said
    assert folder.is_dir()  # what is left is left alone


def test_a_file_is_hashed_once_and_not_at_every_start(asset, monkeypatch):
    hashed = []
    real = disk.sha256_of
    monkeypatch.setattr(disk, "sha256_of", lambda path: hashed.append(path.name) or real(path))
    store.ensure(asset)
    assert hashed == []  # they were hashed when they were made
    os.utime(store.folder_of(asset) / "a.txt")
    for _ in range(2):
        monkeypatch.setattr(checked, "_SEEN", {})
        store.ensure(asset)
    assert hashed == ["a.txt"]


@pytest.mark.parametrize("record", ["", "[]", "null", '{"a.txt": "x"}'])
def test_a_damaged_record_is_no_record(asset, record):
    folder = store.folder_of(asset)
    place = folder.parent / ".checked" / f"{folder.name}.json"
    place.write_text(record)
    store.ensure(asset)
    assert json.loads(place.read_text()).keys() == {"a.txt", "images/0.png", "images/deep/1.png"}


def test_a_cache_that_cannot_be_written_is_hashed_once_a_process(asset, monkeypatch):
    folder = store.folder_of(asset)
    (folder.parent / ".checked" / f"{folder.name}.json").unlink()
    (folder.parent / ".checked").rmdir()
    (folder.parent / ".checked").write_text("")  # no folder can be made there
    hashed = []
    real = disk.sha256_of
    monkeypatch.setattr(disk, "sha256_of", lambda path: hashed.append(path) or real(path))
    store.ensure(asset)
    store.ensure(asset)
    assert len(hashed) == 3


def test_a_folder_of_an_earlier_version_is_checked_when_it_is_first_used(asset, caplog):
    folder = store.folder_of(asset)
    (folder.parent / ".checked" / f"{folder.name}.json").unlink()
    flip(folder, keep_time=True)
    store.ensure(asset)
    assert "a.txt is damaged" in caplog.text
