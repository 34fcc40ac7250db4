"""Pictures with captions, damaged in every way: a sentence with file and row."""

import base64
import json

import pytest

from mmjax.data.corpora import class_folders
from mmjax.data.corpora.catalog import load_corpus, load_parallel
from mmjax.data.files import LONGEST_LINE
from mmjax.specs.data import PairsSpec
from tests.hostile.files import DEEP, DIGITS, HALF, LONG, png, write

ROW = '{"image": "a.png", "zh": "红", "en": "red", "label": {"zh": "色", "en": "colour"}}'


@pytest.fixture
def pairs(tmp_path):
    """Returns `pairs(content)`: the corpus of pairs.jsonl with this content."""
    for name in ("a.png", "b.png"):
        write(tmp_path / name, png())

    def read(content):
        write(tmp_path / "pairs.jsonl", content)
        return load_corpus(PairsSpec(str(tmp_path / "pairs.jsonl")), ("zh", "en"))

    return read


def row(**changes):
    """A second row, raw: values are JSON."""
    parts = {"image": '"b.png"', "zh": '"蓝"', "en": '"blue"'} | changes
    return f"{ROW}\n{{{', '.join(f'{json.dumps(k)}: {v}' for k, v in parts.items())}}}\n"


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\x1c", "\x0b", "\u00a0"])
def test_separators_in_a_caption_do_not_end_its_row(mark, pairs):
    raw = json.dumps(f"dark{mark}blue", ensure_ascii=False)  # escapes control characters alone
    content = row(en=raw)
    assert [item.captions["en"][0] for item in pairs(content).items] == ["red", f"dark{mark}blue"]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + row(),
        row().replace("\n", "\r\n"),
        row().rstrip("\n"),
        "\n\n" + row() + "\n  \n",
        row(id="5"),
        row(label='"blues"'),
        row(label="null"),
        row(en='"blue\\u0000"'),
        row(extra=DIGITS[:4000]),
    ],
)
def test_rows_that_are_legal_are_read(content, pairs):
    found = pairs(content).items
    assert [item.captions["zh"][0] for item in found] == ["红", "蓝"]
    assert found[0].label == "colour"


ROWS = {
    "nested deep": (row(extra=DEEP), "row 2: JSON nested too deep"),
    "a number of 5,000 digits": (row(extra=DIGITS), "row 2: holds a number of thousands of digits"),
    "half a surrogate pair in a caption": (row(en=f'"a {HALF}"'), "row 2: 'en' holds half of a"),
    "half a surrogate pair in a label": (
        row(label=f'{{"zh": "x", "en": "{HALF}"}}'),
        "label: 'en' holds half",
    ),
    "half a surrogate pair in a keyword": (row(keywords_en=f'["{HALF}"]'), "'keywords_en' holds"),
    "half a surrogate pair in an id": (row(id=f'"{HALF}"'), "row 2: 'id' holds half"),
    "a label that is a list": (row(label='["x"]'), "row 2: 'label' is ['x']; expected a text"),
    "a label that is true": (row(label="true"), "row 2: 'label' is True; expected a text"),
    "a label of NaN": (row(label="NaN"), "row 2: 'label' is nan; expected a text"),
    "an id that is an object": (row(id='{"a": 1}'), "row 2: 'id' is {'a': 1}; expected a text"),
    "an id of null": (row(id="null"), "row 2: 'id' is None; expected a text"),
    "a family that is a list": (row(family="[]"), "row 2: 'family' is []"),
    "a caption that is a number": (row(en="5"), "row 2: 'en' is 5; expected a text"),
    "captions that are numbers": (row(en="[1]", zh='["x"]'), "row 2: 'en[0]' is 1"),
    "captions of different kinds": (row(en='{"a": 1}'), "row 2: 'en' is {'a': 1}"),
    "keywords that are a text": (row(keywords_en='"a"'), "'keywords_en' must be a list of texts"),
    "a picture that is a number": (row(image="5"), "row 2: 'image' is 5; expected a text"),
    "a picture of 5,000 letters": (row(image=f'"{LONG}"'), "row 2: no picture at"),
    "a picture with NUL": (row(image='"a\\u0000.png"'), "row 2: no picture at"),
    "a picture that is a folder": (row(image='"."'), "row 2: no picture at"),
    "the same id twice": (row(id='"a.png"'), "row 2: the id 'a.png' stands twice"),
    "no UTF-8": (row().encode("utf-16"), "is not UTF-8"),
    "latin-1 in row 2": (row(en='"é"').encode("latin-1", "replace"), "pairs.jsonl"),
    "a list instead of an object": (f"{ROW}\n[1]\n", "row 2: expected a JSON object"),
    "a text instead of an object": (f'{ROW}\n"x"\n', "row 2: expected a JSON object, found str"),
    "two objects in a line": (f"{ROW} {ROW}\n", "row 1: expected one JSON object a line"),
    "an object over two lines": (ROW.replace(",", ",\n", 1), "row 1: expected one JSON object"),
    "NUL bytes": (b"\0" * 100, "row 1: expected one JSON object"),
    "nothing": ("", "has no rows"),
    "blank lines": ("\n \n", "has no rows"),
    "a line without an end": ('{"image": "' + "x" * (LONGEST_LINE + 1), "row 1: is longer than"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_damaged(name, pairs, refused):
    content, message = ROWS[name]
    refused(lambda: pairs(content), "pairs.jsonl", message)


@pytest.mark.parametrize("name", ["folder.jsonl", LONG + ".jsonl", "a\0.jsonl", "gone.jsonl"])
def test_files_that_are_none(name, tmp_path, refused):
    (tmp_path / "folder.jsonl").mkdir()
    spec = PairsSpec(str(tmp_path / name))
    refused(lambda: load_corpus(spec, ("zh", "en")), "cannot read")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'{{"source": "a", "target": "{HALF}"}}', "row 1: 'target' holds half"),
        ('{"source": "a", "target": 5}', "row 1: 'target' is 5"),
        (f'{{"source": {DEEP}, "target": "b"}}', "row 1: JSON nested too deep"),
        (f'{{"source": {DIGITS}, "target": "b"}}', "row 1: holds a number"),
        ("", "has no pairs"),
    ],
)
def test_parallel_text_that_is_damaged(content, message, tmp_path, refused):
    path = write(tmp_path / "text.jsonl", content)
    refused(lambda: load_parallel(str(path), 0), "text.jsonl", message)


def test_parallel_text_with_a_separator_in_it(tmp_path):
    path = write(tmp_path / "text.jsonl", '{"source": "a\x85b", "target": "c\u2028d"}\n' * 2)
    assert [pair.source for pair in load_parallel(str(path), 0)] == ["a\x85b"] * 2


# ---- Chinese-CLIP's layout


@pytest.fixture
def muge(tmp_path):
    """Returns `muge(pictures, queries)`: the corpus with these test_* files."""

    def read(pictures, queries):
        write(tmp_path / "test_imgs.tsv", pictures)
        write(tmp_path / "test_texts.jsonl", queries)
        return load_corpus(PairsSpec(f"muge:{tmp_path}", sides=("test",)), ("zh", "en"))

    return read


PICTURE = f"7\t{base64.b64encode(png()).decode()}\n"
QUERY = '{"text_id": 1, "text": "红", "image_ids": [7]}\n'
MUGE = {
    "text_id a list": (PICTURE, QUERY.replace("1", "[1]", 1), "'text_id' [1] is no number"),
    "text_id true": (PICTURE, QUERY.replace("1", "true", 1), "'text_id' True is no number"),
    "text_id null": (PICTURE, QUERY.replace("1", "null", 1), "'text_id' None is no number"),
    "text_id twice": (PICTURE, QUERY * 2, "row 2: 'text_id' 1 stands twice"),
    "image_ids of lists": (PICTURE, QUERY.replace("7", "[7]"), "names the picture [7]"),
    "image_ids of true": (PICTURE, QUERY.replace("7", "true"), "names the picture True"),
    "image_ids a text": (PICTURE, QUERY.replace("[7]", '"7"'), "'image_ids' is '7'"),
    "image_ids deep": (PICTURE, QUERY.replace("[7]", DEEP), "row 1: JSON nested too deep"),
    "a picture of 5,000 digits": (PICTURE.replace("7", DIGITS, 1), QUERY, "row 1: begins with"),
    "a picture without base64": ("7\t!!\n", QUERY, "row 1: the picture is not base64"),
    "a picture without tab": ("7 abc\n", QUERY, "row 1: begins with b'7 abc"),
    "text that is a number": (PICTURE, QUERY.replace('"红"', "5"), "'text' is 5"),
    "half a surrogate": (PICTURE, QUERY.replace("红", HALF), "row 1: 'text' holds half"),
    "queries that are no objects": (PICTURE, "[]\n", "row 1: expected a JSON object"),
    "no pictures": ("", QUERY, "test_imgs.tsv has no rows"),
}


@pytest.mark.parametrize("name", MUGE)
def test_chinese_clips_layout_damaged(name, muge, refused):
    pictures, queries, message = MUGE[name]
    refused(lambda: muge(pictures, queries), "test_", message)


# ---- CoOp's, Food-101's, MM-IMDb's layouts and class folders


@pytest.fixture
def coop(tmp_path):
    write(tmp_path / "images" / "a.jpg", png())

    def read(content):
        write(tmp_path / "split_zhou_X.json", content)
        return load_corpus(PairsSpec(f"coop:{tmp_path}"), ("en", "en"))

    return read


GOOD_SPLIT = {"train": [["a.jpg", 0, "cat"]], "val": [], "test": []}
COOP = {
    "train a number": (GOOD_SPLIT | {"train": 5}, "'train' is 5; expected a list"),
    "train an object": (GOOD_SPLIT | {"train": {"a": 1}}, "'train' is {'a': 1}"),
    "test null": (GOOD_SPLIT | {"test": None}, "'test' is None"),
    "nested deep": ('{"train": ' + "[" * 200_000, "nested too deep"),
    "a number of 5,000 digits": (f'{{"train": {DIGITS}}}', "thousands of digits"),
    "a row that is a text": (GOOD_SPLIT | {"train": ["a.jpg"]}, "'train' row 1: found 'a.jpg'"),
    "a path that leads out": (
        GOOD_SPLIT | {"train": [["../a.jpg", 0, "cat"]]},
        "row 1: '../a.jpg' leads out",
    ),
    "an absolute path": (
        GOOD_SPLIT | {"train": [["/etc/hostname", 0, "cat"]]},
        "row 1: '/etc/hostname' leads out",
    ),
    "a path of 5,000 letters": (GOOD_SPLIT | {"train": [[LONG, 0, "cat"]]}, "no picture at"),
    "a path with NUL": (GOOD_SPLIT | {"train": [["a\0.jpg", 0, "cat"]]}, "no picture at"),
    "half a surrogate": (GOOD_SPLIT | {"train": [["a.jpg", 0, "\ud83d"]]}, "holds half"),
    "the same picture twice": (GOOD_SPLIT | {"test": GOOD_SPLIT["train"]}, "stands twice"),
    "no rows": ({"train": [], "test": []}, "has no rows"),
    "no UTF-8": (b'{"train": "\xff"}', "not UTF-8"),
    "a list": ([1], "must hold an object"),
}


@pytest.mark.parametrize("name", COOP)
def test_coops_layout_damaged(name, coop, refused):
    content, message = COOP[name]
    refused(lambda: coop(content), message)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta/train.txt", f"pie/{LONG}\n", "train.txt, row 1: no picture at"),
        ("meta/train.txt", "pie/a\0\n", "row 1: no picture at"),
        ("meta/train.txt", "pie\n", "row 1: found 'pie'"),
        ("meta/train.txt", "\n", "row 1: is empty"),
        ("meta/train.txt", "", "train.txt has no rows"),
        ("meta/train.txt", b"pie/\xff\n", "row 1 is not UTF-8"),
        ("meta/classes.txt", "x" * (LONGEST_LINE + 1), "row 1: is longer than"),
    ],
)
def test_food101s_layout_damaged(file, content, message, tmp_path, refused):
    for name, text in {"classes": "pie\n", "labels": "Pie\n", "train": "", "test": ""}.items():
        write(tmp_path / "meta" / f"{name}.txt", text or "pie/a\n")
    write(tmp_path / file, content)
    refused(lambda: load_corpus(PairsSpec(f"food101:{tmp_path}"), ("zh", "en")), message)


@pytest.mark.parametrize(
    ("ids", "film", "message"),
    [
        (["../../x"], {}, "split.json, 'train': '../../x' cannot be the name of a file"),
        (["/etc/x"], {}, "cannot be the name of a file"),
        (["a\0"], {}, "cannot be the name of a file"),
        ([5], {}, "'train' is [5]; expected a list of film ids"),
        (["1"], {"genres": "Drama", "plot": ["x"]}, "1.json: 'genres' is 'Drama'"),
        (["1"], {"genres": ["Drama"], "plot": [5]}, "1.json: 'plot' is [5]"),
        (["1"], {"genres": ["Drama"], "plot": ["\ud83d"]}, "1.json: 'plot' holds half"),
        (["1"], [], "1.json: expected a JSON object"),
        (["1"], f'{{"genres": {DEEP}}}', "1.json: JSON nested too deep"),
        (["1", "1"], {}, "stand twice"),
    ],
)
def test_mmimdbs_layout_damaged(ids, film, message, tmp_path, refused):
    write(tmp_path / "split.json", {"train": ids, "dev": [], "test": []})
    write(tmp_path / "dataset" / "1.json", film)
    write(tmp_path / "dataset" / "1.jpeg", png())
    refused(lambda: load_corpus(PairsSpec(f"mmimdb:{tmp_path}"), ("en", "en")), message)


@pytest.mark.parametrize("folders", [("0", "9" * 200), ("0", "00"), ("a", "b", "c"), ("٠", "1")])
def test_class_folders_that_fit_no_names(folders, tmp_path, refused):
    write(tmp_path / "label.txt", "cat\u2028kin\n")
    for name in folders:
        write(tmp_path / name / "a.png", png())
    refused(
        lambda: class_folders.load_class_folder(tmp_path, ("label.txt",)), "label.txt has 1 names"
    )
