"""Awkward data is described as a colleague would: what is wrong, how bad it is, in which rows."""

import json

import pytest

from mmjax.commands import check
from mmjax.errors import MmjaxError
from mmjax.inspection.look import Look, look_over
from mmjax.inspection.texts import language_of
from tests.inspection.conftest import GERMAN

SCENES = (
    "a red apple on the table",
    "two dogs play in the garden",
    "the old bridge over the river",
    "a child is reading a book",
    "the blue car before the house",
    "fresh bread from the oven",
    "snow lies on a mountain path",
    "an empty train station at night",
    "the boat returns with many fish",
    "a woman repairs her bicycle",
    "green tea in a white cup",
    "children wait for the school bus",
)


def rows_of(look: Look, kind: str) -> list[tuple[int | str, ...]]:
    return [finding.rows for finding in look.of(kind)]


def test_a_table_whose_training_rows_stand_in_its_test(leaky):
    look = look_over(str(leaky))
    (leak,) = [f for f in look.of("leak") if f.level == "error"]
    assert leak.rows == (42, 43)
    assert str(leak) == (
        "the picture stands in train and test too: what is tested was learned: rows 42, 43"
    )
    assert rows_of(look, "duplicate") == [(42,)]
    assert rows_of(look, "near-duplicate") == [(43,)]
    assert look.languages == {"de": "de", "en": "en"}
    assert ("split", "8 test, 34 train") in look.summary()
    assert not look.of("language")


def test_folders_of_classes_that_are_uneven_broken_and_spelt_twice(uneven):
    look = look_over(str(uneven))
    broken, rest = look.of("picture"), dict(look.summary())
    assert [f.rows for f in broken] == [("rose/99.png",)]
    assert broken[0].level == "error"
    assert rows_of(look, "blank") == [("rose/98.png",)]
    assert any("'Tulip' and 'tulip' are one class" in f.text for f in look.of("class"))
    assert any("'orchid' (1)" in f.text for f in look.of("rare"))
    assert any("'rose' has 46 rows, 'orchid' has 1" in f.text for f in look.of("uneven"))
    assert rest["classes"].startswith("5, 1 ('orchid') to 46 ('rose')")
    assert rest["pictures"] == "66, 64 x 64 pixels in the median"
    assert not look.of("same-text")  # names of classes are meant to repeat


def test_lines_with_texts_of_every_fault(mixed_up):
    look = look_over(str(mixed_up))
    wrong = [f for f in look.of("language") if f.level == "error"]
    assert [f.text for f in wrong] == ["'en' is in 'de', it seems, not in 'en'"]
    assert (5,) in rows_of(look, "empty")
    assert (10,) in rows_of(look, "long")
    assert rows_of(look, "encoding") == [(12,)]
    assert rows_of(look, "markup") == [(13,)]
    assert [f.level for f in look.of("row")] == ["error"]
    assert "row 21" in look.of("row")[0].text
    assert rows_of(look, "picture") == [(22,)]
    assert look.unreadable == {20}  # rows are counted from 0 there, and the torn one is none


def lines(tmp_path, rows):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return look_over(str(path))


def test_a_column_without_a_text(tmp_path):
    look = lines(tmp_path, [{"label": "a", "en": []} for _ in range(3)])
    assert ("texts under 'en'", "0") in look.summary()


def test_a_column_in_three_languages_is_told_once(tmp_path):
    french = (
        "une pomme rouge sur la table",
        "deux chiens jouent dans le jardin",
        "le vieux pont sur la rivière",
        "un enfant est en train de lire un livre",
        "la voiture bleue devant la maison",
        "du pain frais qui sort du four",
    )
    captions = [text for three in zip(GERMAN, SCENES, french, strict=False) for text in three]
    look = lines(tmp_path, [{"caption": text} for text in captions])
    assert look.languages == {"caption": ""}
    (finding,) = look.of("language")
    assert finding.level == "note"
    assert "in several languages, it seems: 'de'" in finding.text
    assert "'fr'" in finding.text


def test_shards_whose_captions_are_three_sentences(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path))
    look = look_over(str(shards))
    assert len(rows_of(look, "same-text")[0]) == 27
    assert len(rows_of(look, "small")[0]) == 30
    assert look.languages == {"caption": "en"}
    assert not look.errors


def test_few_pictures_one_of_them_in_two_classes(scarce):
    look = look_over(str(scarce))
    assert rows_of(look, "contradiction") == [(2,)]
    assert rows_of(look, "duplicate") == [(15,)]


def test_data_with_nothing_wrong_is_not_complained_of(tmp_path, draw_photo):
    rows = []
    for i in range(12):
        draw_photo(tmp_path / f"{i}.png", 5000 + i)
        rows.append({"image": f"{i}.png", "en": SCENES[i], "label": ("in", "out")[i % 2]})
    path = tmp_path / "good.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert look_over(str(path)).lines()[-1] == "Nothing to complain about."


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["ein roter Apfel", "zwei Hunde im Garten", "das alte Haus"], "de"),
        (["一只猫坐在垫子上", "两只狗在花园里玩"], "zh"),
        (["une pomme rouge", "deux chiens dans le jardin"], "fr"),
        (["123", "?!"], ""),
    ],
)
def test_a_columns_language_is_told_from_its_texts_together(texts, language):
    assert language_of(texts) == language


def test_the_command_says_it_to_people_and_to_programs(leaky, capsys):
    assert check.main([str(leaky)]) == check.FAULTY
    said = capsys.readouterr().out
    assert "error: the picture stands in train and test too" in said
    assert check.main([str(leaky), "--json"]) == check.FAULTY
    found = json.loads(capsys.readouterr().out)
    assert {"kind": "near-duplicate", "level": "warning"}.items() <= found["findings"][2].items()
    with pytest.raises(MmjaxError, match=r"nowhere\.xls' is no data that is known; expected FILE"):
        check.main(["nowhere.xls"])
