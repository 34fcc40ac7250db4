"""A user's own data in every form gives the same rows, and the same corpus."""

import csv
import io
import json
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmjax.data.corpora.catalog import load_corpus, load_parallel
from mmjax.data.own import own_rows
from mmjax.errors import DataError, MmjaxError
from mmjax.specs.data import PairsSpec

COLOURS = ("red", "green", "blue", "gold")
ROWS = [
    {"image": f"{i}.png", "de": f"Bild {i}", "en": f"picture {i}", "label": COLOURS[i % 2]}
    for i in range(4)
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{i}.png")
    return tmp_path


def write_csv(path: Path, rows: list[dict[str, str]], separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def corpus_of(source: Path | str, languages: tuple[str, ...] = ("de", "en")):
    return load_corpus(PairsSpec(source=str(source)), languages)


def test_lists_tables_and_image_folders_say_the_same(pictures):
    wanted = corpus_of(write_jsonl(pictures / "data.jsonl", ROWS))
    assert [item.captions["de"] for item in wanted.items] == [(f"Bild {i}",) for i in range(4)]
    named = [{"file_name": row["image"], **row} for row in ROWS]
    for row in named:
        del row["image"]
    write_csv(pictures / "metadata.csv", named)
    found = [
        corpus_of(write_csv(pictures / "data.csv", ROWS)),
        corpus_of(write_csv(pictures / "data.tsv", ROWS, "\t")),
        corpus_of(f"folder:{pictures}"),
    ]
    for corpus in found:
        assert corpus.items == wanted.items
        assert corpus.labels == wanted.labels
    assert len({c.fingerprint for c in (wanted, *found)}) > 1  # other bytes, other cache


def test_cells_of_a_table_may_be_empty_or_hold_several(pictures):
    rows = [{**ROWS[0], "keywords_en": "one|two", "family": ""}, {**ROWS[1], "keywords_en": ""}]
    path = write_csv(pictures / "data.csv", [{"family": "", **row} for row in rows])
    first, second = corpus_of(path).items
    assert first.captions["en"] == ("picture 0", "one", "two")
    assert second.captions["en"] == ("picture 1",)
    assert (first.family, second.family) == ("0.png", "1.png")


def test_folders_of_classes_are_labels_and_captions_with_their_sides(pictures):
    for i, name in enumerate(("test/red_ball", "train/red_ball", "train/green_ball", "val/x")):
        (pictures / "set" / name).mkdir(parents=True)
        (pictures / f"{i}.png").rename(pictures / "set" / name / f"{i}.png")
    corpus = corpus_of(f"folder:{pictures / 'set'}", ("en", "en"))
    assert {(item.id, item.label, item.side) for item in corpus.items} == {
        ("test/red_ball/0.png", "red ball", "test"),
        ("train/red_ball/1.png", "red ball", "train"),
        ("train/green_ball/2.png", "green ball", "train"),
        ("val/x/3.png", "x", "val"),
    }
    assert corpus.labels["red ball"] == {"en": "red ball"}
    assert all(item.captions == {"en": (item.label,)} for item in corpus.items)
    alone = corpus_of(f"folder:{pictures / 'set' / 'train'}", ("en", "en"))
    assert {(item.label, item.side) for item in alone.items} == {
        ("red ball", ""),
        ("green ball", ""),
    }


def test_shards_of_a_tar(pictures, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(pictures / "cache"))
    with tarfile.open(pictures / "data.tar", "w") as tar:
        for i, row in enumerate(ROWS):
            tar.add(pictures / f"{i}.png", f"{i}.png")
            text = json.dumps({"caption": row["en"], "label": row["label"]}).encode()
            info = tarfile.TarInfo(f"{i}.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    corpus = corpus_of(pictures / "data.tar", ("en", "en"))
    assert [item.captions["en"] for item in corpus.items] == [(row["en"],) for row in ROWS]
    assert [item.label for item in corpus.items] == [row["label"] for row in ROWS]
    assert corpus.items[0].picture("photo").getpixel((0, 0)) == (255, 0, 0)
    # Whoever trains again finds the features that were computed.
    time.sleep(0.02)  # a tick of the file system's clock
    again = corpus_of(pictures / "data.tar", ("en", "en"))
    assert again.fingerprint == corpus.fingerprint


def test_rows_that_are_none_are_told_or_passed_over(pictures):
    path = pictures / "data.csv"
    path.write_text("image,en\n0.png,one\n1.png,two,too\n2.png,three\n")
    with pytest.raises(DataError, match=r"data\.csv, row 3: has 3 cells, its header 2"):
        list(own_rows(str(path)))
    faults: list[DataError] = []
    assert [row["en"] for _, row in own_rows(str(path), faults.append)] == ["one", "three"]
    assert len(faults) == 1
    lines = pictures / "data.jsonl"
    lines.write_text('{"image": "0.png"}\n[1]\n{"image"\n')
    faults.clear()
    assert len(list(own_rows(str(lines), faults.append))) == 1
    assert [str(f).partition(":")[0] for f in faults] == [f"{lines}, row 2", f"{lines}, row 3"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder:nowhere", "folder:nowhere: there is no such folder"),
        ("nowhere.csv", "cannot read nowhere.csv"),
        (
            "data.orc",
            "is 'data.orc'; expected .*FILE.tar, FILE.parquet, hf:ORG/NAME, tfds:NAME or folder:",
        ),
    ],
)
def test_what_is_no_source(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmjaxError, match=message):
        corpus_of(source)


def test_sides_and_parallel_text_of_a_table(pictures):
    path = write_csv(
        pictures / "data.csv", [{**ROWS[0], "split": "dev"}, {**ROWS[1], "split": "x"}]
    )
    with pytest.raises(
        MmjaxError, match=r"row 3: 'split' is 'x'; expected 'train', 'val' or 'test'"
    ):
        corpus_of(path)
    pairs = write_csv(pictures / "pairs.tsv", [{"source": "Apfel", "target": "apple"}], "\t")
    (pair,) = load_parallel(str(pairs), 0)
    assert (pair.source, pair.targets) == ("Apfel", ("apple",))


def write_arrow(path: Path, pictures: Path, cells: dict[str, list], names: list[str]) -> Path:
    """A file as `datasets` writes it: pictures as bytes, the names of its classes beside."""
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table(cells).replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return path
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return path


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "train/data-0.arrow"])
def test_data_sets_of_hugging_faces_in_either_form(name, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    encoded = [{"bytes": (pictures / f"{i}.png").read_bytes(), "path": None} for i in range(4)]
    labels = {"label": [0, 1, 0, 1]}
    write_arrow(folder / name, pictures, {"img": encoded} | labels, ["red_deer", "cow"])
    for part in ("test/data-0.arrow",) if name.endswith("arrow") else ("test-0.parquet",):
        write_arrow(folder / part, pictures, {"img": encoded[:1], "label": [1]}, ["x", "cow"])
    corpus = corpus_of(f"folder:{folder}", ("en", "en"))
    assert [item.side for item in sorted(corpus.items, key=lambda item: item.side)] == [
        "test",
        *["train"] * 4,
    ]
    learned = [item for item in corpus.items if item.side == "train"]
    assert [item.captions["en"] for item in learned[:2]] == [("red deer",), ("cow",)]
    assert [item.label for item in learned] == ["red_deer", "cow"] * 2
    assert learned[1].picture("photo").getpixel((0, 0)) == (0, 128, 0)
    assert corpus.fingerprint == corpus_of(f"folder:{folder}", ("en", "en")).fingerprint
    # With texts of its own a class is no caption.
    texts = {"image": encoded, "text": [f"picture {i}" for i in range(4)], **labels}
    one = write_arrow(tmp_path / "worded.parquet", pictures, texts, ["a", "b"])
    assert corpus_of(one, ("en", "en")).items[3].captions["en"] == ("picture 3",)


def test_data_sets_that_are_damaged_are_told_by_row(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cut.parquet.* a Parquet file"):
        list(own_rows(str(tmp_path / "cut.parquet")))
    for image, said in (({"bytes": b"no", "path": ""}, "a picture"), ({"path": ""}, "no picture")):
        bad = write_arrow(tmp_path / "bad.parquet", pictures, {"image": [image]}, [])
        with pytest.raises(DataError, match=f"bad.parquet, row 1.*{said}"):
            list(own_rows(str(bad)))
