"""Chinese-CLIP's layout, small but true; and every way in which it can be wrong."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from mmjax.data.corpora.catalog import load_corpus
from mmjax.data.records import Query
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec


def jpeg(colour, alphabet=base64.b64encode):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "JPEG")
    return alphabet(buffer.getvalue()).decode()


PICTURES = {
    "train": [(1000002, jpeg("red")), (1000016, jpeg("#fbef7e", base64.urlsafe_b64encode))],
    "valid": [(1000020, jpeg("blue"))],
}
QUERIES = {
    "train": [
        {"text_id": 1, "text": "高级感托特包斜挎", "image_ids": [1000002, 1000016]},
        {"text_id": 2, "text": "红色包", "image_ids": [1000002]},
    ],
    "valid": [{"text_id": 3, "text": "蓝色手机壳", "image_ids": [1000020]}],
}


@pytest.fixture
def muge(tmp_path):
    """Returns `muge()`: reads what lies in the folder, which a test may spoil before."""
    for split, pictures in PICTURES.items():
        rows = "".join(f"{name}\t{content}\n" for name, content in pictures)
        (tmp_path / f"{split}_imgs.tsv").write_text(rows)
        lines = [json.dumps(query, ensure_ascii=False) for query in QUERIES[split]]
        (tmp_path / f"{split}_texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lambda: load_corpus(PairsSpec(source=f"muge:{tmp_path}"), ("zh", "en"))


def test_pictures_with_queries_become_items(muge):
    first, second, third = muge().items
    assert [item.id for item in (first, second, third)] == [
        "train/1000002",
        "train/1000016",
        "valid/1000020",
    ]
    assert first.captions == {"zh": ("高级感托特包斜挎", "红色包")}
    assert first.family == second.family != third.family
    assert [item.side for item in (first, second, third)] == ["train", "train", "test"]
    for item, colour in ((first, (254, 0, 0)), (second, (251, 239, 126)), (third, (0, 0, 254))):
        picture = item.picture("photo")
        assert picture.size == (40, 30)
        np.testing.assert_allclose(picture.getpixel((5, 5)), colour, atol=2)


def test_the_fingerprint_follows_queries_and_pictures(muge, tmp_path):
    before = muge().fingerprint
    assert muge().fingerprint == before
    path = tmp_path / "train_texts.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("红色", "绿色"), encoding="utf-8")
    changed = muge().fingerprint
    assert changed != before
    path = tmp_path / "valid_imgs.tsv"
    path.write_text(f"1000020\t{jpeg('green')}\n")
    assert muge().fingerprint not in (before, changed)


def query(**changes):
    return json.dumps({"text_id": 7, "text": "包", "image_ids": [1000002], **changes}) + "\n"


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("train_imgs.tsv", "1000030\tabc!\n", "row 3: the picture is not base64"),
        ("train_imgs.tsv", "1000030\t\n", "row 3: the picture is empty"),
        ("train_imgs.tsv", f"\t{jpeg('red')}\n", "row 3: begins with .* the ID a number"),
        ("train_imgs.tsv", "1000030\n", "row 3: begins with b'1000030"),
        ("train_imgs.tsv", f"1000002\t{jpeg('red')}\n", "row 3: the picture 1000002 stands twice"),
        (
            "train_texts.jsonl",
            query(image_ids=[5]),
            "row 3: 'image_ids' names the picture 5, which",
        ),
        ("train_texts.jsonl", query(image_ids=[]), r"row 3: 'image_ids' is \[\]; expected a list"),
        ("train_texts.jsonl", query(text="  "), "row 3: 'text' is '  '; expected a text"),
        ("train_texts.jsonl", query(text_id=None), "row 3: 'text_id' None is no number"),
        ("train_texts.jsonl", query(text_id=2), "row 3: 'text_id' 2 stands twice"),
        ("train_texts.jsonl", "{\n", "row 3: expected one JSON object a line"),
    ],
)
def test_a_bad_row_is_named(muge, tmp_path, file, row, message):
    with (tmp_path / file).open("a") as rows:
        rows.write(row)
    with pytest.raises(MmjaxError, match=f"{file}, {message}"):
        muge()


def test_base64_of_no_picture_is_told_when_it_is_opened(muge, tmp_path):
    (tmp_path / "valid_imgs.tsv").write_text(f"1000020\t{base64.b64encode(b'no').decode()}\n")
    with pytest.raises(MmjaxError, match=r"item valid/1000020, style photo: .* cannot be read"):
        muge().items[2].picture("photo")


def test_missing_and_empty_files(muge, tmp_path):
    (tmp_path / "valid_imgs.tsv").write_text("")
    with pytest.raises(MmjaxError, match=r"valid_imgs.tsv has no rows"):
        muge()
    (tmp_path / "valid_imgs.tsv").unlink()
    with pytest.raises(MmjaxError, match=r"cannot read .*valid_imgs.tsv: No such file"):
        muge()


def test_pictures_without_a_query_are_left_out_of_training_and_stay_in_the_gallery(
    muge, tmp_path, caplog
):
    for split in ("train", "valid"):
        with (tmp_path / f"{split}_imgs.tsv").open("a") as rows:
            rows.write(f"1000030\t{jpeg('red')}\n")
    corpus = muge()
    assert [item.id for item in corpus.items[2:]] == ["valid/1000020", "valid/1000030"]
    assert corpus.items[3].captions == {"zh": ()}
    assert "1 pictures of train have no query; they are left out" in caplog.text
    assert "1 pictures of valid have no query; they stand in its gallery" in caplog.text


def test_a_query_keeps_all_its_pictures(muge):
    first, *_, last = muge().queries
    assert first == Query("zh", "高级感托特包斜挎", ("train/1000002", "train/1000016"))
    assert last == Query("zh", "蓝色手机壳", ("valid/1000020",))


@pytest.fixture
def coco(muge, tmp_path):
    """COCO-CN has a test set of its own; English is beside it in the same form."""
    (tmp_path / "test_imgs.tsv").write_text(f"7\t{jpeg('red')}\n9\t{jpeg('blue')}\n")
    write_queries(tmp_path / "test_texts.jsonl", ["红", "红色", "蓝"], [[7], [7], [9]])
    write_queries(tmp_path / "test_texts_en.jsonl", ["red", "blue"], [[7], [9]])
    return muge


def write_queries(path, texts, images):
    rows = [
        {"text_id": n, "text": text, "image_ids": ids}
        for n, (text, ids) in enumerate(zip(texts, images, strict=True))
    ]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


def test_a_test_set_with_answers_is_the_test_set(coco):
    corpus = coco()
    assert [item.side for item in corpus.items] == ["train", "train", "val", "test", "test"]
    assert corpus.items[3].captions == {"zh": ("红", "红色"), "en": ("red",)}
    assert corpus.speaks("zh")
    assert corpus.speaks("en")
    assert not corpus.speaks("de")


def test_the_test_alone_needs_no_other_file(coco, tmp_path):
    for path in tmp_path.glob("[tv][ra]*"):
        path.unlink()
    spec = PairsSpec(source=f"cn_clip:{tmp_path}", sides=("test",))
    corpus = load_corpus(spec, ("zh", "en"))
    assert [item.id for item in corpus.items] == ["test/7", "test/9"]
    assert [q.text for q in corpus.queries] == ["红", "红色", "蓝", "red", "blue"]


def test_a_test_set_without_answers_is_no_test_set(coco, tmp_path):
    write_queries(tmp_path / "test_texts.jsonl", ["红"], [[]])
    assert [item.side for item in coco().items] == ["train", "train", "test"]
    (tmp_path / "test_texts.jsonl").write_text("[]\n")
    with pytest.raises(MmjaxError, match=r"test_texts.jsonl, row 1: expected a JSON object"):
        coco()
