"""JSON-lines corpora and parallel text: what is read, and what is refused by file and row."""

import dataclasses
import json

import pytest
from PIL import Image

from mmjax.data.captions import asked_texts
from mmjax.data.corpora.catalog import load_corpus, load_parallel
from mmjax.data.records import Corpus, Item, Pair, Query
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

LANGUAGES = ("zh", "en")


@pytest.fixture
def corpus(tmp_path):
    """Returns `corpus(rows, **spec)`: the rows written beside two pictures, and read."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)

    def read(rows, **spec):
        path = tmp_path / "pairs.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_corpus(PairsSpec(source=str(path), **spec), LANGUAGES)

    return read


A = {"image": "a.png", "zh": "苹果", "en": "apple"}
B = {"image": "b.png", "zh": "梨", "en": " pear "}


def test_rows_become_items(corpus, tmp_path):
    found = corpus(
        [
            A
            | {"label": "fruit", "label_zh": "果", "keywords_en": ["red", "round"], "family": "x"},
            "",
            B | {"label": {"zh": "水果", "en": "food"}, "id": "p"},
        ]
    )
    first, second = found.items
    assert (first.id, first.family, first.label) == ("a.png", "x", "fruit")
    assert first.captions == {"zh": ("苹果",), "en": ("apple", "red", "round")}
    assert first.images == {"photo": tmp_path / "a.png"}
    assert (second.id, second.family, second.label) == ("p", "p", "food")
    assert second.captions["en"] == ("pear",)
    assert found.labels == {
        "fruit": {"zh": "果", "en": "fruit"},
        "food": {"zh": "水果", "en": "food"},
    }
    assert found.name == "pairs"


def test_a_list_of_captions_is_a_query_each(corpus):
    found = corpus([A | {"zh": ["苹果", " 红苹果"]}, B])
    assert found.items[0].captions == {"zh": ("苹果", "红苹果"), "en": ("apple",)}
    assert found.queries == (
        Query("zh", "苹果", ("a.png",)),
        Query("zh", "红苹果", ("a.png",)),
        Query("en", "apple", ("a.png",)),
        Query("zh", "梨", ("b.png",)),
        Query("en", "pear", ("b.png",)),
    )
    assert corpus([A, B]).queries == ()
    for wrong, message in (
        ({"zh": []}, r"row 1: 'zh\[0\]' is ''; expected a text"),
        ({"zh": ["苹果", 3]}, r"row 1: 'zh\[1\]' is 3; expected a text"),
        ({"zh": ["苹果"], "keywords_en": ["x"]}, "'keywords_en' beside a list of captions"),
    ):
        with pytest.raises(MmjaxError, match=message):
            corpus([A | wrong])


def test_the_fingerprint_follows_rows_and_pictures(corpus, tmp_path):
    first = corpus([A, B]).fingerprint
    assert corpus([A, B]).fingerprint == first
    assert corpus([B, A]).fingerprint != first
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert corpus([A, B]).fingerprint != first


def test_limits_and_labels_to_leave_out(corpus):
    rows = [A | {"id": str(i), "label": "xy"[i % 2]} for i in range(10)]
    assert [i.id for i in corpus(rows, limit=5).items] == ["0", "2", "4", "6", "8"]
    left = corpus(rows, exclude_labels=("x",))
    assert {i.label for i in left.items} == set(left.labels) == {"y"}
    with pytest.raises(MmjaxError, match=r"exclude_labels names \['z'\]; labels of pairs are"):
        corpus(rows, exclude_labels=("z",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"pairs\.jsonl, row 2: expected one JSON object a line"),
        ("[1]", r"row 2: expected a JSON object, found list"),
        ({"image": "a.png", "en": "x"}, r"row 2: 'zh' is None; expected a text"),
        (B | {"zh": " "}, r"row 2: 'zh' is ' '; expected a text that is not empty"),
        (B | {"zh": 3}, r"row 2: 'zh' is 3; expected a text"),
        ({"zh": "x", "en": "x"}, r"row 2: 'image' is None"),
        (B | {"image": "none.png"}, r"row 2: no picture at .*none\.png"),
        (B | {"keywords_en": "red"}, r"row 2: 'keywords_en' must be a list of texts"),
        (B | {"label": {"en": "x"}}, r"row 2, label: 'zh' is None"),
        (B | {"image": "a.png"}, r"row 2: the id 'a\.png' stands twice"),
    ],
)
def test_a_bad_row_is_named(row, message, corpus):
    with pytest.raises(MmjaxError, match=message) as info:
        corpus([A, row])
    assert "\n" not in str(info.value)


def test_files_that_hold_nothing(corpus, tmp_path):
    with pytest.raises(MmjaxError, match="has no rows"):
        corpus([])
    (tmp_path / "pairs.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(MmjaxError, match=r"cannot read .*pairs\.jsonl"):
        load_corpus(PairsSpec(source=str(tmp_path / "pairs.jsonl")), LANGUAGES)
    with pytest.raises(MmjaxError, match=r"cannot read .*none\.jsonl: .*No such file"):
        load_corpus(PairsSpec(source=str(tmp_path / "none.jsonl")), LANGUAGES)
    with pytest.raises(MmjaxError, match=r"expected 'emoji', 'digits', FILE\.jsonl"):
        load_corpus(PairsSpec(source="coco"), LANGUAGES)


def test_emoji_speak_the_languages_of_their_names_only():
    with pytest.raises(MmjaxError, match=r"config\.languages names \['sw'\]"):
        load_corpus(PairsSpec(), ("sw", "en"))


def test_parallel_text(tmp_path):
    path = tmp_path / "parallel.jsonl"
    rows = [{"source": f"{i}字", "target": f"{i} word "} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_parallel(str(path), 0)[1] == Pair("1字", ("1 word",))
    assert [p.source[0] for p in load_parallel(str(path), 3)] == ["0", "1", "2"]
    path.write_text(json.dumps({"source": "x", "target": ""}) + "\n")
    with pytest.raises(MmjaxError, match=r"row 1: 'target' is ''"):
        load_parallel(str(path), 0)
    path.write_text("")
    with pytest.raises(MmjaxError, match="has no pairs"):
        load_parallel(str(path), 0)
    with pytest.raises(MmjaxError, match="expected 'captions', 'cedict' or a path"):
        load_parallel("europarl", 0)


def test_what_is_asked_holds_the_classes_beside_queries():
    """As photographs with captions and groups do: both are read by one table of texts."""
    item = Item("a", "a", "food", {"en": ("an apple",)}, {"photo": b""})
    labels = {"food": {"en": "food", "zh": "食物"}}
    queries = (Query("en", "apple", ("a",)), Query("zh", "苹果", ("a",)))
    corpus = Corpus("x", (item,), labels, "")
    assert asked_texts(corpus, "en") == ["an apple", "food"]
    assert asked_texts(dataclasses.replace(corpus, queries=queries), "zh") == ["苹果", "食物"]
