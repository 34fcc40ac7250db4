"""Data sets come from a hub by name: from a stand-in that speaks the real one's API."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmjax.data import hub_sets
from mmjax.data.own import files_of, own_rows
from mmjax.errors import DataError, MmjaxError
from tests.run.hub_server import Hub, serving

NAME = "datasets/somebody/apples"
OWN = "hf:somebody/apples"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    hub_sets.data_files.cache_clear()
    with serving(tmp_path, monkeypatch) as server:
        yield server
    hub_sets.data_files.cache_clear()


def parquet(*captions: str) -> bytes:
    picture = (EXAMPLES / "photos" / "1.png").read_bytes()
    images = [{"bytes": picture, "path": None}] * len(captions)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": images, "text": list(captions)}), buffer)
    return buffer.getvalue().to_pybytes()


def read(source: str) -> list[tuple[str, str]]:
    rows = [row for _, row in own_rows(source)]
    assert all(Path(row["image"]).is_file() for row in rows)
    return [(row["split"], row["caption"]) for row in rows]


def test_a_data_set_is_read_by_its_name_and_later_without_a_network(hub, monkeypatch):
    hub.repos[NAME] = {
        "data/train-00000-of-00001.parquet": parquet("a red apple", "a green apple"),
        "data/test-00000-of-00001.parquet": parquet("no apple"),
        "apples.py": b"raise SystemExit",
        "README.md": b"# Apples",
    }
    there = [("test", "no apple"), ("train", "a red apple"), ("train", "a green apple")]
    assert read(OWN) == there
    assert [path.suffix for path in files_of(OWN)] == [".parquet"] * 2
    assert not [path for path in hub.asked if path.endswith((".py", ".md"))]
    hub.asked.clear()
    hub_sets.data_files.cache_clear()  # as another process
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert read(OWN) == there
    hub_sets.data_files.cache_clear()
    monkeypatch.setenv("MMJAX_OFFLINE", "1")
    assert read(OWN) == there
    assert hub.asked == []


def test_what_the_hub_made_of_it_stands_in(hub, monkeypatch):
    hub.repos[NAME] = {"apples.csv": b"text\na red apple\n"}
    with pytest.raises(DataError, match=r"has no Parquet files; .*hf download somebody/apples"):
        read(OWN)
    hub.repos[f"{NAME}@refs/convert/parquet"] = {"default/train/0000.parquet": parquet("made")}
    assert read(OWN) == [("train", "made")]
    monkeypatch.setenv("MMJAX_OFFLINE", "1")
    hub_sets.data_files.cache_clear()
    assert read(OWN) == [("train", "made")]


def test_of_several_configurations_one_is_named(hub, caplog, monkeypatch):
    sets = {
        f"{kind}/{side}-0.parquet": parquet(f"{kind} {side}")
        for kind in ("de", "en")
        for side in ("train", "test")
    }
    hub.repos[NAME] = sets
    with pytest.raises(DataError, match=r"has 2 configurations; give one: .*/de, .*apples/en$"):
        read(OWN)
    assert not [path for path in hub.asked if "resolve" in path and path.startswith("GET")]
    monkeypatch.setattr("mmjax.runs.hub.TOLD", 1)
    with caplog.at_level(logging.INFO, "mmjax"):
        assert read(f"{OWN}/en") == [("test", "en test"), ("train", "en train")]
    assert "hf:somebody/apples: fetching 2 files, " in caplog.text
    assert not [path for path in hub.asked if path.startswith("GET") and "/de/" in path]


def test_sides_in_folders_are_no_configurations(hub):
    hub.repos[NAME] = {f"{s}/0.parquet": parquet(s) for s in ("train", "validation")}
    assert read(OWN) == [("train", "train"), ("val", "validation")]


def test_a_revision(hub):
    hub.repos[NAME] = {"data/train-0.parquet": parquet("now")}
    hub.repos[f"{NAME}@v1"] = {"data/train-0.parquet": parquet("before")}
    assert read(f"{OWN}@v1") == [("train", "before")]
    assert read(OWN) == [("train", "now")]
    with pytest.raises(DataError, match=r"cannot get hf:somebody/apples@v2 from the Hugging Face"):
        read(f"{OWN}@v2")


@pytest.mark.parametrize(
    "name", ["no/where", "one", "a/b/c/d", "../../etc", "", "a/../../b", "a/b/../../c"]
)
def test_what_is_not_there_is_one_sentence(hub, name):
    with pytest.raises(MmjaxError) as caught:
        read(f"hf:{name}")
    assert "\n" not in str(caught.value)
