"""Data sets that others made, damaged in every way: a sentence with file and row, or a reading."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from mmjax.assets import wheels
from mmjax.assets.manifest import Asset, Member
from mmjax.data import classes, dialogues, easy_vqa, feature_cache, scienceqa, sources
from mmjax.data.builders.cedict_entries import read_entries
from mmjax.data.builders.emoji_table import read_table
from mmjax.data.files import LONGEST_LINE
from mmjax.data.records import load_corpus, load_parallel
from mmjax.evals.plain_text import read_text
from mmjax.pairs_spec import PairsSpec

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5_000
HALF = "\\ud83d"  # of a surrogate pair, as JSON writes it
LONG = "x" * 5_000


def png(size=(4, 4)):
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, "PNG")
    return out.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- JSON lines


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
    if mark < " ":  # a control character is written as an escape
        content = row(en=json.dumps(f"dark{mark}blue"))
    else:
        content = row(en=f'"dark{mark}blue"')
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
    assert [item.label for item in found][0] == "colour"


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
    refused(lambda: classes.load(tmp_path, ("label.txt",)), "label.txt has 1 names")


# ---- Questions and instructions


@pytest.fixture
def vqa(tmp_path):
    """Returns `vqa(rows, pictures)`: the questions of a folder with these pictures."""

    def read(rows, names=("0",)):
        for name in names:
            write(tmp_path / "test" / "images" / f"{name}.png", png())
        write(tmp_path / "test" / "questions.json", rows)
        return easy_vqa.load(f"easy_vqa:{tmp_path}", "test")

    return read


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([["q", "a", 10**9]], ("0", "1000000000"), "row 0: asks about picture 1000000000"),
        ([["q", "a", 10**9]], ("0",), "picture 1000000000"),
        ([["q", "a", -1]], ("-1",), "row 0: asks about picture -1"),
        ([["q", "a", True]], ("0",), "row 0: expected [question, answer, picture number]"),
        ([["q", "a", 0.0]], ("0",), "row 0: expected"),
        ([["q", "\ud83d", 0]], ("0",), "row 0 holds half"),
        ([[["q"], "a", 0]], ("0",), "row 0: expected"),
        ({"0": ["q", "a", 0]}, ("0",), "holds no list of questions"),
        (f'[["q", "a", {DIGITS}]]', ("0",), "thousands of digits"),
        (DEEP, ("0",), "nested too deep"),
        ("", ("0",), "cannot read"),
    ],
)
def test_easy_vqa_damaged(rows, names, message, vqa, refused):
    refused(lambda: vqa(rows, names), "questions.json", message)


def test_easy_vqa_with_a_gap_in_its_numbers(vqa):
    found = vqa([["q", "a", 0], ["q", "b", 3]], ("0", "3"))
    assert [found.pictures[q.picture].name for q in found.questions] == ["0.png", "3.png"]


PROBLEM = {
    "question": "Which?",
    "choices": ["a", "b"],
    "answer": 1,
    "hint": "",
    "image": None,
    "grade": "grade2",
    "subject": "natural science",
    "lecture": "",
    "solution": "",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grade": "grade" + DIGITS}, "'grade' is 'grade999"),
        ({"grade": "grade٣"}, "'grade' is"),
        ({"grade": ["grade2"]}, "'grade' is ['grade2']; expected a text"),
        ({"answer": True}, "'answer' is True"),
        ({"answer": 10**30}, "'answer' is 1000"),
        ({"answer": 0.0}, "'answer' is 0.0"),
        ({"choices": [1, 2]}, "'choices' is 1; expected a text"),
        ({"choices": "ab"}, "'choices' is 'ab'"),
        ({"choices": [{"a": 1}, "b"]}, "'choices' is {'a': 1}"),
        ({"subject": ["natural science"]}, "'subject' is ['natural science']"),
        ({"image": ["image.png"]}, "'image' is ['image.png']"),
        ({"image": "../image.png"}, "'image': '../image.png' cannot be the name of a file"),
        ({"image": LONG}, "its picture"),
        ({"image": True}, "'image' is True"),
        ({"question": None}, "an empty question"),
        ({"question": "\ud83d"}, "'question' holds half"),
        ({"lecture": 5}, "'lecture' is 5"),
        (None, "expected an object, got None"),
        ([], "expected an object, got []"),
    ],
)
def test_scienceqas_problems_damaged(changes, message, tmp_path, refused):
    problem = PROBLEM | changes if isinstance(changes, dict) else changes
    write(tmp_path / "problems.json", {"7": problem})
    write(tmp_path / "pid_splits.json", {"train": ["7"]})
    refused(lambda: scienceqa.load(f"scienceqa:{tmp_path}", "train"), "problem 7", message)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": "7"}, "lists no 'train' problems"),
        ({"train": [["7"]]}, "'train' lists ['7']"),
        ({"train": [None]}, "'train' lists None"),
        ({"train": ["7", 7]}, "lists it twice"),
        ({"train": ["../7"]}, "'../7' cannot be the name of a file"),
        ({"train": [LONG]}, "pid_splits.json lists it as train, but it is not there"),
        ([], "expected a JSON object"),
    ],
)
def test_scienceqas_lists_damaged(splits, message, tmp_path, refused):
    write(tmp_path / "problems.json", {"7": PROBLEM})
    write(tmp_path / "pid_splits.json", splits)
    refused(lambda: scienceqa.load(f"scienceqa:{tmp_path}", "train"), message)


TALK = [{"from": "human", "value": "<image> what?"}, {"from": "gpt", "value": "a cat"}]
INSTRUCTIONS = {
    "an image of 5,000 letters": ("llava", [{"image": LONG, "conversations": TALK}], "row 0: its"),
    "an image with NUL": ("llava", [{"image": "a\0", "conversations": TALK}], "row 0: its picture"),
    "an image that is a number": ("llava", [{"image": 5, "conversations": TALK}], "'image' is 5"),
    "an image that is an object": (
        "llava",
        [{"image": [{"a": 1}], "conversations": TALK}],
        "'image' is {'a': 1}",
    ),
    "a turn that is a text": ("llava", [{"conversations": ["a", "b"]}], "row 0, turn 0: expected"),
    "a role that is a list": (
        "llava",
        [{"conversations": [{"from": ["human"], "value": "a"}] * 2}],
        "row 0, turn 0: expected",
    ),
    "an answer that is a number": (
        "llava",
        [{"conversations": [TALK[0], {"from": "gpt", "value": 5}]}],
        "row 0, turn 1: expected",
    ),
    "half a surrogate": (
        "alpaca",
        [{"instruction": "a", "input": "", "output": "\ud83d"}],
        "row 0: not UTF-8 text",
    ),
    "an output of null": (
        "alpaca",
        [{"instruction": "a", "output": None}],
        "row 0: expected texts",
    ),
    "a row that is a list": ("alpaca", [[1]], "row 0: expected an object, got [1]"),
    "nested deep": ("alpaca", f'[{{"instruction": {DEEP}}}]', "nested too deep"),
    "a number of 5,000 digits": ("alpaca", f'[{{"input": {DIGITS}}}]', "thousands of digits"),
    "no list": ("llava", {"a": 1}, "holds no list of rows"),
    "nothing": ("llava", "", "cannot read"),
    "an empty list": ("llava", [], "holds no list of rows"),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_damaged(name, tmp_path, refused):
    kind, rows, message = INSTRUCTIONS[name]
    path = write(tmp_path / "rows.json", rows)
    refused(lambda: dialogues.load([f"{kind}:{path}"], str(tmp_path)), "rows.json", message)


# ---- Texts, tables, caches, archives


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "not UTF-8"), ("no entry\n", "line 1: expected"), ("", "has no entry")],
)
def test_a_dictionary_damaged(content, message, tmp_path, refused):
    files = [write(tmp_path / name, "") for name in ("hsk2.txt", "hsk3.txt")]
    path = write(tmp_path / "cedict.txt", content)
    refused(lambda: read_entries(path, *files), "cedict.txt", message)


@pytest.mark.parametrize("content", [b"\xff", "", "a\tb\n", "\0"])
def test_a_table_of_emoji_damaged(content, tmp_path, refused):
    refused(lambda: read_table(write(tmp_path / "table.tsv", content)), "table.tsv")


@pytest.mark.parametrize("name", ["latin.txt", "gone.txt", LONG, "a\0", "."])
def test_plain_text_that_is_none(name, tmp_path, refused):
    write(tmp_path / "latin.txt", "é".encode("latin-1"))
    refused(lambda: read_text(str(tmp_path / name)), "config.questions.text", "cannot be read")


@pytest.mark.parametrize(
    "card",
    [
        "",
        "[]",
        "null",
        DEEP,
        '{"fingerprint": 5, "length": 1}',
        '{"fingerprint": "x", "length": "1"}',
        '{"fingerprint": "x", "length": -1}',
        '{"fingerprint": "x", "length": true}',
        b"\xff",
    ],
)
def test_a_data_set_with_a_damaged_card_is_not_there(card, tmp_path):
    write(tmp_path / "source.json", card)
    assert sources._find("emoji", tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 70_000])
def test_a_data_set_with_damaged_records(content, tmp_path, refused):
    write(tmp_path / "source.json", '{"fingerprint": "x", "length": 3}')
    write(tmp_path / "data" / "dataset_info.json", content)
    write(tmp_path / "data" / "features.json", content)
    found = sources._find("emoji", tmp_path)
    assert found is not None
    refused(lambda: found[0], str(tmp_path), "it is made again on the next run", seconds=60)


def whole(path, rows, **changes):
    """Writes a shard whose header says something else."""
    header = {"shapes": [row.shape for row in rows], "dtype": "float32"} | changes
    writer = feature_cache._array_record().ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    writer.write(json.dumps(header).encode())
    for one in rows:
        writer.write(one.tobytes())
    writer.close()


VECTORS = [np.arange(4, dtype=np.float32)] * 3
SHARDS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 300),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "no header": lambda path: whole(path, VECTORS, shapes=None),
    "a header of texts": lambda path: whole(path, VECTORS, shapes=["a", "b", "c"]),
    "an absurd shape": lambda path: whole(path, VECTORS, shapes=[[10**12]] * 3),
    "a negative shape": lambda path: whole(path, VECTORS, shapes=[[-1, -1]] * 3),
    "another dtype": lambda path: whole(path, VECTORS, dtype="float16"),
    "objects": lambda path: whole(path, VECTORS, dtype="object"),
    "a row too few": lambda path: whole(path, VECTORS[:2]),
    "widths that differ": lambda path: whole(path, [*VECTORS[:2], VECTORS[0][:3]]),
    "no number": lambda path: whole(path, [*VECTORS[:2], VECTORS[0] * np.nan]),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_shard_of_features_is_computed_again(name, tmp_path):
    path = tmp_path / "a.array_record"
    whole(path, VECTORS)
    assert len(feature_cache._read_shard(path, 3, "float32") or []) == 3
    SHARDS[name](path)
    assert feature_cache._read_shard(path, 3, "float32") is None


ASSET = Asset(
    name="fake",
    kind="data",
    package="fake-pkg",
    version="1.2",
    wheel_sha256=None,
    members=(Member("fake/a.txt", "a.txt", 5000, "0" * 64),),
    converter="copy",
    conversion=1,
    licence="none",
    attribution="nobody",
)


def archive(path, name="fake/a.txt", data=b"hello" * 1000, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as found:
        found.writestr(name, data)
    return path


def damaged(path, at, content):
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


def headers(path, at, content):
    """Overwrites a field of both of the member's headers."""
    data = path.read_bytes()
    damaged(path, at, content)
    damaged(path, data.index(b"PK\x01\x02") + at + 2, content)


WHEELS = {
    "a damaged LZMA stream": (
        lambda path: damaged(archive(path, method=zipfile.ZIP_LZMA), 60, b"\xff" * 20),
        "method 14",
    ),
    "LZMA": (lambda path: archive(path, method=zipfile.ZIP_LZMA), "compressed as no wheel is"),
    "bzip2": (lambda path: archive(path, method=zipfile.ZIP_BZIP2), "method 12"),
    "an unknown method": (lambda path: headers(archive(path), 8, b"\x63\0"), "method 99"),
    "a damaged stream": (lambda path: damaged(archive(path), 45, b"\xff" * 8), "no whole wheel"),
    "cut short": (lambda path: path.write_bytes(archive(path).read_bytes()[:-30]), "whole wheel"),
    "empty": (lambda path: path.write_bytes(b""), "no whole wheel"),
    "no archive": (lambda path: path.write_bytes(b"PK" + b"\0" * 300), "no whole wheel"),
    "a bomb": (
        lambda path: archive(path, data=b"\0" * 2 * 10**6),
        "has 2000000 bytes, expected 5000",
    ),
    "a bomb that lies": (
        lambda path: headers(
            archive(path, data=b"\0" * 2 * 10**6), 22, (5000).to_bytes(4, "little")
        ),
        "fake/a.txt",
    ),
    "another member": (lambda path: archive(path, "fake/b.txt"), "has no fake/a.txt"),
    "other bytes": (lambda path: archive(path, data=b"hellO" * 1000), "has sha256"),
    "encrypted": (lambda path: headers(archive(path), 6, b"\x01\0"), "(unencrypted)"),
}


@pytest.mark.parametrize("name", WHEELS)
def test_a_damaged_wheel(name, tmp_path, refused):
    path, folder = tmp_path / "fake.whl", tmp_path / "out"
    make, message = WHEELS[name]
    make(path)
    refused(lambda: wheels.extract(ASSET, path, folder), "fake.whl", message)
