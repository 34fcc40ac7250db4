"""Food-101's layout, small but true; and every way in which it can be wrong."""

import pytest
from PIL import Image

from mmjax.data.corpora.catalog import load_corpus
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

META = {
    "classes.txt": ["apple_pie", "baby_back_ribs"],
    "labels.txt": ["Apple pie", "Baby back ribs"],
    "train.txt": ["apple_pie/1005649", "baby_back_ribs/1005293"],
    "test.txt": ["apple_pie/1011328"],
}


@pytest.fixture
def food(tmp_path):
    """Returns `food()`: reads what lies in the folder, which a test may spoil before."""
    (tmp_path / "meta").mkdir()
    for name, rows in META.items():
        (tmp_path / "meta" / name).write_text("\n".join(rows) + "\n")
    for row in META["train.txt"] + META["test.txt"]:
        path = tmp_path / "images" / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "brown").save(path)
    return lambda: load_corpus(PairsSpec(source=f"food101:{tmp_path}"), ("zh", "en"))


def test_rows_become_items(food, tmp_path):
    corpus = food()
    first, ribs, test = corpus.items
    assert [item.id for item in corpus.items] == META["train.txt"] + META["test.txt"]
    assert [item.side for item in corpus.items] == ["train", "train", "test"]
    assert first.captions == test.captions == {"en": ("a photo of apple pie, a type of food.",)}
    assert ribs.label == "baby_back_ribs"
    assert corpus.labels[ribs.label] == {"en": "a photo of baby back ribs, a type of food."}
    assert first.picture("photo").size == (8, 6)
    assert first.images["photo"] == tmp_path / "images" / "apple_pie" / "1005649.jpg"


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("train.txt", "apple_pie", "row 3: found 'apple_pie'; expected CLASS/ID"),
        ("train.txt", "apple_pie/", "row 3: found 'apple_pie/'; expected CLASS/ID"),
        ("train.txt", "beignets/1", "row 3: .*classes.txt has no class 'beignets'"),
        ("train.txt", "apple_pie/1", "row 3: no picture at .*1.jpg"),
        ("test.txt", "apple_pie/1005649", "row 2: .* stands twice, first in .*train.txt, row 1"),
        ("test.txt", " ", "row 2: is empty"),
    ],
)
def test_a_bad_row_is_named(food, tmp_path, file, row, message):
    with (tmp_path / "meta" / file).open("a") as rows:
        rows.write(row + "\n")
    with pytest.raises(MmjaxError, match=f"{file}, {message}"):
        food()


def test_files_that_lack_or_do_not_fit(food, tmp_path):
    with (tmp_path / "meta" / "labels.txt").open("a") as rows:
        rows.write("Beignets\n")
    with pytest.raises(
        MmjaxError, match=r"labels.txt has 3 rows, .*classes.txt has 2; expected one"
    ):
        food()
    (tmp_path / "meta" / "labels.txt").unlink()
    with pytest.raises(MmjaxError, match=r"cannot read .*labels.txt.*No such file"):
        food()
