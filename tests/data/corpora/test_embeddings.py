"""Ready embeddings and columns of numbers: the same rows from every form; what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmjax.data.corpora.breast_cancer import load_breast_cancer
from mmjax.data.corpora.embeddings import load_embeddings
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

NOTE = np.asarray([[1, 2], [3, 4], [np.nan, np.nan], [7, 8]], np.float32)
AGE, DOSE = (61, 50, None, 40), (0.5, None, None, 1.5)
LABELS = ("ill", "well", "ill", "well")
TEXTS = ("a cough", "", "fever", "fine")


def load(path, languages=("en", "en")):
    return load_embeddings(str(path), PairsSpec(), languages)


def write_npz(path):
    columns = np.asarray(
        [[np.nan if v is None else v for v in c] for c in zip(AGE, DOSE, strict=True)]
    )
    np.savez(path, label=np.asarray(LABELS), note=NOTE, columns=columns, en=np.asarray(TEXTS))


def rows():
    for i in range(4):
        note = None if np.isnan(NOTE[i]).any() else NOTE[i].tolist()
        yield {"label": LABELS[i], "note": note, "age": AGE[i], "dose": DOSE[i], "en": TEXTS[i]}


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))


def write_parquet(path):
    found = list(rows())
    pq.write_table(pa.table({name: [row[name] for row in found] for name in found[0]}), path)


@pytest.mark.parametrize(
    "write", [write_npz, write_jsonl, write_parquet], ids=["npz", "jsonl", "parquet"]
)
def test_the_same_rows_come_from_every_form(tmp_path, write):
    path = tmp_path / f"cases.{write.__name__.removeprefix('write_')}"
    write(path)
    corpus = load(path)
    assert [item.label for item in corpus.items] == list(LABELS)
    assert [sorted(item.features) for item in corpus.items] == [
        ["columns", "note"],
        ["columns", "note"],
        [],
        ["columns", "note"],
    ]
    np.testing.assert_array_equal(corpus.items[0].features["columns"], [61, 0.5])
    np.testing.assert_array_equal(corpus.items[1].features["columns"], [50, np.nan])
    np.testing.assert_array_equal(corpus.items[3].features["note"], [7, 8])
    assert [item.captions.get("en") for item in corpus.items] == [
        ("a cough",),
        None,
        ("fever",),
        ("fine",),
    ]
    assert len({item.family for item in corpus.items}) == 4
    assert corpus.labels["ill"]["en"] == "ill"


def test_another_picture_beside_the_vectors_is_other_data(tmp_path):
    path, picture = tmp_path / "cases.csv", tmp_path / "a.png"
    path.write_text("label,age,image\nill,61,a.png\nwell,50,\n")
    picture.write_bytes(b"one")
    before = load(path).fingerprint
    assert load(path).fingerprint == before
    picture.write_bytes(b"another")
    assert load(path).fingerprint != before


def test_a_table_of_cells_is_read_as_numbers(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("label,age,dose,ward\nill,61,0.5,a\nwell,50,,b\n")
    corpus = load(path)
    np.testing.assert_array_equal(corpus.items[1].features["columns"], [50, np.nan])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"label": "a", "x": [1, 2]}', '{"label": "b", "x": [1]}'], r"'x' has 1 numbers, .* 2"),
        (['{"label": "a", "x": [[1]]}'], "'x' is .*; expected a list of numbers"),
        (['{"label": "a", "x": ["w"]}'], "'x' is .*; expected a list of numbers"),
        (['{"label": "a", "x": [1e99]}'], "'x' holds a number that float32 cannot"),
        (['{"label": "a", "x": 1}', '{"label": "b", "x": "two"}'], "'x' is 'two', but a number in"),
        (['{"label": "a", "id": "1", "x": 1}'] * 2, "the id '1' stands twice"),
        (['{"label": "a"}'], "holds no vectors and no numbers"),
    ],
)
def test_rows_that_are_none_are_told_by_name_and_place(tmp_path, lines, message):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(MmjaxError, match=message) as error:
        load(path)
    assert "bad.jsonl" in str(error.value)


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", note=NOTE)
    with pytest.raises(MmjaxError, match="expected 'label' among them"):
        load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", note=NOTE, label=np.asarray(["a"]))
    with pytest.raises(MmjaxError, match=r"'note' is \[4, 2\]; expected \[1\] or"):
        load(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", label=np.asarray([{}], object))
    with pytest.raises(MmjaxError, match=r"z\.npz"):  # a pickle
        load(tmp_path / "z.npz")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MmjaxError, match=r"x\.parquet"):
        load(tmp_path / "x.parquet")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(MmjaxError, match="expected a file of the kinds"):
        load(tmp_path / "x.txt")
    with pytest.raises(MmjaxError, match="there is no such file"):
        load(tmp_path / "none.npz")


def test_the_medical_stand_in_lacks_modalities_by_row_and_no_note_names_a_class():
    pytest.importorskip("sklearn")
    corpus = load_breast_cancer("", PairsSpec(), ("en", "en"))
    notes = [item.captions["en"][0] for item in corpus.items if item.captions]
    measured = [item for item in corpus.items if item.features]
    assert len(corpus.items) == 569
    assert 0.7 < len(notes) / 569 < 0.9
    assert 0.8 < len(measured) / 569 < 0.97
    assert all(item.captions or item.features for item in corpus.items)
    assert not any(name in note.lower() for note in notes for name in corpus.labels)
    again = load_breast_cancer("", PairsSpec(), ("en", "en"))
    assert again.fingerprint == corpus.fingerprint
    assert [item.captions for item in again.items] == [item.captions for item in corpus.items]
