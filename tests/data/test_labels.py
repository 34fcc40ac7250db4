"""Classes: their names by language, and which of them a recipe leaves out."""

import json
from typing import Any

import pytest
from PIL import Image

from mmjax.data.corpora.catalog import load_corpus
from mmjax.data.labels import LeftOut, check_names, sentences
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

LANGUAGES = ("de", "en")


@pytest.fixture
def corpus(tmp_path):
    """Returns `corpus(labels, **spec)`: one picture an item, with what is said of its class."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def read(labels: list[dict[str, Any]], **spec: Any):
        path = tmp_path / "photos.jsonl"
        rows = [
            {"id": str(i), "image": "a.png", "de": "x", "en": "x", **row}
            for i, row in enumerate(labels)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load_corpus(PairsSpec(source=str(path), **spec), LANGUAGES)

    return read


def test_a_label_has_a_name_in_each_language(corpus):
    found = corpus(
        [
            {"label": "fruit", "label_de": "Obst"},
            {"label": "fruit"},  # named once is enough
            {"label": {"de": "Gemüse", "en": "vegetables"}},
            {"label": 0},  # a number is a class too
            {},
            {"label": ""},
            {"label": None},
        ]
    )
    labels = [item.label for item in found.items]
    assert labels == ["fruit", "fruit", "vegetables", "0", "", "", ""]
    assert found.labels == {
        "fruit": {"de": "Obst", "en": "fruit"},
        "vegetables": {"de": "Gemüse", "en": "vegetables"},
        "0": {"en": "0"},
    }
    check_names(found, "en")
    with pytest.raises(MmjaxError, match=r"row 4: the label '0' has no name in 'de'; write it th"):
        check_names(found, "de")


def test_english_names_do_not_go_in_as_german(corpus):
    found = corpus(
        [{}, {"label": "fruit"}, {"label": "tool"}, {"label": "car", "label_de": "Auto"}]
    )
    with pytest.raises(MmjaxError) as info:
        check_names(found, "de")
    for part in (
        "photos.jsonl, row 2: the label 'fruit' has no name in 'de' (nor have 1 other labels)",
        '"label_de"',
        "--config.evals=\"('retrieval',)\"",
    ):
        assert part in str(info.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"label": 1.5}], r"row 1: 'label' is 1\.5; expected a text"),
        ([{"label": True}], "row 1: 'label' is True"),
        ([{"label": ["fruit"]}], r"row 1: 'label' is \['fruit'\]"),
        ([{"label": " "}], "row 1: 'label' is ' '; expected a text that is not empty"),
        ([{"label": "x", "label_de": ""}], "row 1: 'label_de' is ''"),
        ([{"label_de": "Obst"}], "row 1: 'label_de' has no 'label' beside it"),
        ([{"label": {"en": "fruit"}}], "row 1, label: 'de' is None"),
        (
            [{"label": "fruit", "label_de": "Obst"}, {}, {"label": "fruit", "label_de": "Frucht"}],
            r"row 3: the label 'fruit' is 'Frucht' in 'de', but 'Obst' at .*photos\.jsonl, row 1",
        ),
    ],
)
def test_labels_that_are_none(labels, message, corpus):
    with pytest.raises(MmjaxError, match=message):
        corpus(labels)


def test_what_is_left_out_is_kept_count_of(corpus):
    rows = [
        *({"label": "apple", "family": str(i)} for i in range(4)),
        *({"label": "pear", "family": "one"} for _ in range(3)),
        {"label": "flag"},
        {},
        {},
    ]
    assert corpus(rows).left_out == ()
    found = corpus(rows, exclude_labels=("flag",), min_families=3)
    few = "fewer families than config.pairs.min_families=3"
    assert found.left_out == (
        LeftOut("flag", 1, "config.pairs.exclude_labels", wanted=True),
        LeftOut("", 2, few),
        LeftOut("pear", 3, few),
    )
    assert {item.label for item in found.items} == {"apple"}
    assert sentences(found.left_out) == [
        "Left out (config.pairs.exclude_labels): flag (1).",
        f"Left out ({few}): (no label) (2), pear (3).",
    ]
    (limited,) = corpus(rows[:8], limit=2).left_out
    assert limited == LeftOut("flag", 1, "config.pairs.limit=2")
