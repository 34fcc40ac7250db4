"""CoOp's layouts, small but true; and every way in which they can be wrong."""

import json

import pytest
from PIL import Image

from mmjax.data.corpora.catalog import load_corpus
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

SPLIT = {
    "train": [["Abyssinian_1.jpg", 0, "abyssinian"], ["basset_hound_9.jpg", 4, "basset_hound"]],
    "val": [["Abyssinian_2.jpg", 0, "abyssinian"]],
    "test": [["Abyssinian_3.jpg", 0, "abyssinian"]],
}


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "brown").save(path)


def read(folder):
    return load_corpus(PairsSpec(source=f"coop:{folder}"), ("en", "en"))


@pytest.fixture
def pets(tmp_path):
    """Oxford Pets: pictures in `images`, the list beside."""
    for rows in SPLIT.values():
        for row in rows:
            picture(tmp_path / "images" / row[0])
    (tmp_path / "split_zhou_OxfordPets.json").write_text(json.dumps(SPLIT))
    return tmp_path


def test_a_split_file_becomes_items(pets):
    corpus = read(pets)
    assert [(i.side, i.label, i.id) for i in corpus.items] == [
        ("train", "abyssinian", "images/Abyssinian_1.jpg"),
        ("train", "basset hound", "images/basset_hound_9.jpg"),
        ("test", "abyssinian", "images/Abyssinian_3.jpg"),
    ]
    assert corpus.labels["basset hound"] == {"en": "basset hound"}
    assert corpus.items[0].picture("photo").size == (8, 6)


@pytest.mark.parametrize("place", ["2750", "UCF-101-midframes", ""])
def test_pictures_lie_where_each_data_set_has_them(tmp_path, place):
    picture(tmp_path / place / "Forest/Forest_1.jpg")
    picture(tmp_path / place / "River/River_1.jpg")
    rows = {"train": [["Forest/Forest_1.jpg", 0, "Forest"]]}
    rows["test"] = [["River/River_1.jpg", 1, "River"]]
    (tmp_path / "split_zhou_Any.json").write_text(json.dumps(rows))
    assert [item.label for item in read(tmp_path).items] == ["Forest", "River"]


def test_aircraft_and_imagenet_have_lists_of_their_own(tmp_path):
    aircraft, imagenet = tmp_path / "fgvc_aircraft", tmp_path / "imagenet"
    for side, row in (("train", "1025794 707-320"), ("test", "0062765 Boeing 717")):
        picture(aircraft / "images" / f"{row.split()[0]}.jpg")
        (aircraft / f"images_variant_{side}.txt").write_text(f"{row}\n")
    assert [i.label for i in read(aircraft).items] == ["707-320", "Boeing 717"]
    for side, name in (("train", "n01440764_18"), ("val", "ILSVRC2012_val_00000293")):
        picture(imagenet / "images" / side / "n01440764" / f"{name}.JPEG")
    (imagenet / "classnames.txt").write_text("n01440764 tench\n")
    assert [(i.side, i.label) for i in read(imagenet).items] == [
        ("train", "tench"),
        ("test", "tench"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read .*split_zhou_OxfordPets.json"),
        (json.dumps([1]), "must hold an object with the lists 'train' and 'test'"),
        (json.dumps({**SPLIT, "test": [["a.jpg", 0]]}), "'test' row 1: found .*class name"),
        (json.dumps({**SPLIT, "test": [["a.jpg", 0, " "]]}), "'test' row 1: found"),
        (json.dumps({**SPLIT, "test": [["a.jpg", 0, "x"]]}), "'test' row 1: no picture at .*a.jpg"),
        (json.dumps({**SPLIT, "test": SPLIT["train"]}), "stands twice, first in .*'train' row 1"),
        (json.dumps({"train": [], "test": []}), "has no rows"),
    ],
)
def test_a_bad_list_is_named(pets, content, message):
    (pets / "split_zhou_OxfordPets.json").write_text(content)
    with pytest.raises(MmjaxError, match=message):
        read(pets)


def test_folders_that_are_none_of_these(tmp_path, pets):
    (pets / "split_zhou_Other.json").write_text("{}")
    with pytest.raises(MmjaxError, match="expected one split_zhou"):
        read(pets)
    with pytest.raises(MmjaxError, match="holds no split_zhou"):
        read(tmp_path / "nothing")
