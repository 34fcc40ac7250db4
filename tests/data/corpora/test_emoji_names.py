"""Emoji in languages that the table does not have, and what their classes are called."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from configs.language_emoji import get_config
from mmjax import assets
from mmjax.data import sources
from mmjax.data.builders.emoji_table import read_table
from mmjax.data.captions import caption_pairs
from mmjax.data.corpora.emoji import load_emoji
from mmjax.data.corpora.emoji_names import GROUPS, SUBGROUPS_ZH, names_of
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec
from mmjax.specs.recipe import resolve_recipe


class Table(list):
    """Records as `sources.load_source` gives them."""

    fingerprint = "f"


def record(emoji, name, group, subgroup):
    words = {"keywords_en": "round|red", "keywords_zh": "圆|红"}
    where = {"group": group, "subgroup": subgroup, "style": "openmoji", "image": b"png"}
    return (
        {"id": name, "emoji": emoji, "name_en": name, "name_zh": "名", "family": name}
        | words
        | where
    )


@pytest.fixture
def emoji(tmp_path, monkeypatch):
    rows = [
        record("🍎", "red apple", "food-drink", "food-fruit"),
        record("❤️", "red heart", "smileys-emotion", "heart"),
    ]
    monkeypatch.setattr(sources, "load_source", lambda name, styles: Table(rows))
    names = {"🍎": ":roter_apfel:", "❤": ":rotes_herz:"}
    (tmp_path / "emoji_de.json").write_text(json.dumps(names))
    monkeypatch.setattr(assets, "path", lambda name: tmp_path)
    return SimpleNamespace(rows=rows, folder=tmp_path)


def test_names_of_another_language_stand_beside_english_ones(emoji):
    corpus = load_emoji("", PairsSpec(), ("de", "en"))
    assert [item.captions["de"] for item in corpus.items] == [("roter apfel",), ("rotes herz",)]
    assert corpus.items[0].captions["en"] == ("red apple", "round", "red")
    assert corpus.labels["food-drink"]["de"] == "Essen und Trinken"
    assert corpus.fingerprint != load_emoji("", PairsSpec(), ("zh", "en")).fingerprint == "f"
    # A name is a name's twin; keywords that one language alone has are no translation of it.
    assert caption_pairs(corpus, np.arange(1), "de", "en") == [(("roter apfel",), ("red apple",))]
    assert (
        len(caption_pairs(load_emoji("", PairsSpec(), ("zh", "en")), np.arange(1), "zh", "en")) == 2
    )


def test_an_emoji_without_a_name_and_an_unknown_language_are_told(emoji):
    (emoji.folder / "emoji_de.json").write_text(json.dumps({"🍎": ":apfel:"}))
    with pytest.raises(MmjaxError, match="emoji-names has no name in 'de' for ❤"):
        load_emoji("", PairsSpec(), ("de", "en"))
    with pytest.raises(MmjaxError, match=r"config\.languages names \['xx'\]; the emoji source has"):
        load_emoji("", PairsSpec(), ("xx", "en"))


def test_every_subgroup_has_a_chinese_name_of_its_own_and_every_group_four():
    table = read_table()
    assert {row.subgroup for row in table} == set(SUBGROUPS_ZH)
    assert len(set(SUBGROUPS_ZH.values())) == len(SUBGROUPS_ZH)
    assert {row.group for row in table} == set(GROUPS)
    assert {tuple(names) for names in GROUPS.values()} == {("en", "zh", "de", "ja")}
    assert names_of("subgroup", ["food-fruit"], ("zh", "en")) == {
        "food-fruit": {"zh": "水果", "en": "food fruit"}
    }
    assert names_of("subgroup", ["food-fruit"], ("de", "en"))["food-fruit"] == {"en": "food fruit"}


def test_languages_that_nobody_tuned_for_are_the_same_recipe(emoji):
    chinese, german = (resolve_recipe(get_config(size)) for size in ("full", "german"))
    assert german.languages == ("de", "en")
    assert german.main.adapter == chinese.main.adapter
    assert german.main.optim == chinese.main.optim
    assert german.main.train == chinese.main.train
    assert german.main.parallel.sources == ("captions",)
    assert {stage.pairs.development for stage in german.stages} == {0.2}
    assert {stage.pairs.development for stage in chinese.stages} == {0.0}  # as it was measured
    with pytest.raises(ValueError, match="expected 'full'"):
        get_config("german,japanese")
