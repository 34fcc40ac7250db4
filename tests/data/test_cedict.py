import pytest

from mmjax.data.builders.cedict_entries import clean_gloss, read_entries, read_hsk
from mmjax.errors import DataError


@pytest.mark.parametrize(
    ("gloss", "clean"),
    [
        ("apple", "apple"),
        ("to split the bill (where the male pays)", "to split the bill"),
        ("to give sb sth", "to give somebody something"),
        ("(coll.) to hang out", "to hang out"),
        ('so-called "free" lunch', "so-called free lunch"),
        ("lit. to add feet to a snake; fig. to overdo it", "to overdo it"),
        ("greater flamingo (Phoenicopterus roseus) [big (red)]", "greater flamingo"),
        ("county", "county"),
        ("particle (physics)", "particle"),
        ("radical", "radical"),
    ],
)
def test_translations_are_kept_and_made_plain(gloss, clean):
    assert clean_gloss(gloss) == clean


@pytest.mark.parametrize(
    "gloss",
    [
        "variant of 屄[bi1]",
        "old variant of 愛|爱[ai4]",
        "see 蘋果|苹果[ping2 guo3]",
        "see also 蘋果|苹果",
        "surname Li",
        "abbr. for computers, communications",
        "CL:個|个[ge4],顆|颗[ke1]",
        "classifier for round things",
        "(particle used for comparison)",
        "used before a verb",
        "Taiwan pr. [qi2]",
        "also written 蘋果|苹果",
        "lit. to look for a bone in an egg",
        "(archaic) to die",
        "(bird species of China) some bird",
        "phonetic component of 某",
        "one two three four five six",
        "a thing, e.g. a cup",
        "(modal particle)",
        "蘋果",
        "re-",
        "x",
        "",
    ],
)
def test_pointers_descriptions_and_long_texts_are_dropped(gloss):
    assert clean_gloss(gloss) is None


@pytest.fixture
def folder(tmp_path):
    lines = [
        "# CC-CEDICT",
        "蘋果 苹果 [ping2 guo3] /apple/CL:個|个[ge4],顆|颗[ke1]/",
        "北京 北京 [Bei3 jing1] /Beijing, capital of China/Peking/",
        "濟南 济南 [Ji3 nan2] /Jinan/",
        "行 行 [hang2] /row/",
        "行 行 [xing2] /to walk/OK!/to go; to travel/",
        "A片 A片 [A pian4] /adult movie/",
        "龘 龘 [da2] /flying dragon/",
        "异 异 [yi4] /variant of 異|异[yi4]/",
        "一二三四五六七 一二三四五六七 [yi1] /counting/",
    ]
    (tmp_path / "cedict.txt").write_text("\n".join(lines), "utf-8")
    (tmp_path / "hsk2.txt").write_text(
        "\ufeff// HSK 1\n苹果\tping2guo3\n北京\tBei3jing1\n", "utf-8"
    )
    (tmp_path / "hsk3.txt").write_text(
        "// Entry\n苹果\n// Intermediate\n行\n// Advanced\n龙\n", "utf-8"
    )
    return tmp_path


def _read(folder):
    return read_entries(folder / "cedict.txt", folder / "hsk2.txt", folder / "hsk3.txt")


def test_one_entry_a_headword(folder):
    entries = {entry.zh: entry for entry in _read(folder)}
    # A city only where learners must know it; no Latin letters, rare characters or long headwords.
    assert sorted(entries) == sorted(["苹果", "北京", "行"])
    assert entries["苹果"].glosses == ("apple",)
    assert entries["苹果"].common == 1
    assert entries["北京"].glosses == ("Beijing, capital of China", "Peking")
    # Readings are joined, the one with more senses first; semicolons part senses.
    assert entries["行"].glosses == ("to walk", "OK", "to go", "to travel", "row")
    assert (entries["行"].pinyin, entries["行"].common) == ("xing2", 6)


def test_the_older_list_decides_the_level(folder):
    levels = read_hsk(folder / "hsk2.txt", folder / "hsk3.txt")
    assert levels == {"苹果": 1, "北京": 1, "行": 6, "龙": 9}


def test_a_broken_line_is_named(folder):
    with (folder / "cedict.txt").open("a", encoding="utf-8") as file:
        file.write("\nno entry at all\n")
    with pytest.raises(DataError, match=r"cedict\.txt, line 11: expected 'traditional simplified"):
        _read(folder)


def test_an_empty_dictionary_is_refused(folder):
    (folder / "cedict.txt").write_text("# nothing\n", "utf-8")
    with pytest.raises(DataError, match="is it CC-CEDICT"):
        _read(folder)
