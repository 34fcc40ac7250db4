"""Duplicates: the first stays, whatever is alike is dropped by name, and nothing else is."""

import builtins
import itertools
import random

import pytest

from mmjax.errors import MmjaxError
from mmjax.synthesis.dedup import check_installed, drop_duplicates, words_of

LONG = "Which of the two animals on the left side of the picture has the longer tail and ears"


def rows(*questions: str, **more):
    return [
        {"id": f"r{i}", "number": 0, "question": q, "keep": True, "why": "", **more}
        for i, q in enumerate(questions)
    ]


def whys(found) -> list[str]:
    found = list(found)
    assert all(row["keep"] == (not row["why"]) for row in found)
    return [row["why"] for row in found]


def test_nearly_the_same_question_is_dropped_and_names_the_first():
    found = rows(
        LONG,
        LONG.replace("picture", "image"),
        "Where does the path end?",
        f"{LONG.upper()}?!",
        LONG.replace("tail", "neck").replace("picture", "photo"),  # nearer to none than 0.8
    )
    expected = ["", "near-duplicate of r0", "", "duplicate of r0", ""]
    assert whys(drop_duplicates(found)) == expected
    assert whys(drop_duplicates(found, 0.5))[4] == "near-duplicate of r0"
    assert found[1]["keep"]  # rows are copied, not changed


def test_one_word_makes_another_question_of_a_short_one():
    assert whys(drop_duplicates(rows("How many dogs are there?", "How many cats are there?"))) == [
        "",
        "",
    ]


def test_exact_duplicates_need_no_package(monkeypatch):
    found = rows("What is it?", "what IS  it", "What is this?", LONG, LONG + " too")
    real = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("datasketch"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    expected = ["", "duplicate of r0", "", "", ""]
    assert whys(drop_duplicates(found, 1)) == expected
    with pytest.raises(MmjaxError, match=r"datasketch: .*'mmjax\[synthesis\]', or set the thresh"):
        list(drop_duplicates(found, 0.8))


def test_what_is_not_kept_passes_and_drops_nothing():
    found = rows(LONG, LONG)
    found[0] |= {"keep": False, "why": "label no"}
    assert list(drop_duplicates(found)) == found


def test_domains_are_apart():
    found = [*rows(LONG, domain="x-ray"), *rows(LONG, LONG, domain="ct")]
    assert whys(drop_duplicates(found)) == ["", "", "duplicate of r0"]


def test_with_answers_a_question_may_be_asked_again():
    found = rows("What is it?", "What is it?", "What is it?")
    for row, precise in zip(found, ("a cat", "a dog", "A cat."), strict=True):
        row["precise"] = precise
    fields = ("question", "precise")
    assert whys(drop_duplicates(found, 1, fields=fields)) == ["", "", "duplicate of r0"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Is it RED, or 3.5 m?", ["is", "it", "red", "or", "3", "5", "m"]),
        ("图中有3只猫吗?", ["图", "中", "有", "3", "只", "猫", "吗"]),
        ("Ｆｕｌｌ e\u0301", ["full", "é"]),
        ("?!", []),
    ],
)
def test_words_of_any_language(text, words):
    assert words_of(text) == words


def test_a_script_without_spaces_has_near_duplicates_too():
    one = "图片左侧的两只动物当中哪一只的尾巴看起来更长一些"
    assert whys(drop_duplicates(rows(one, one + "呢", "这是什么"))) == [
        "",
        "near-duplicate of r0",
        "",
    ]


def test_the_index_finds_what_comparing_all_finds():
    # The slow, obvious twin: every question against every one that was kept.
    draw = random.Random(0)
    words = [f"w{i}" for i in range(400)]
    questions = []
    for _ in range(60):
        base = draw.choices(words, k=20)
        questions.append(" ".join(base))
        for _ in range(3):
            questions.append(" ".join([w for w in base if draw.random() > 0.03]))
    draw.shuffle(questions)

    pieces = [{*(w := text.split()), *itertools.pairwise(w)} for text in questions]
    kept: list[int] = []
    expected = []
    for i, own in enumerate(pieces):
        alike = [j for j in kept if len(own & pieces[j]) >= 0.8 * len(own | pieces[j])]
        expected.append(f"r{alike[0]}" if alike else "")
        kept += [] if alike else [i]
    found = [why.rpartition(" ")[2] for why in whys(drop_duplicates(rows(*questions)))]
    assert sum(map(bool, expected)) > 60
    missed = sum(a != b for a, b in zip(found, expected, strict=True))
    assert missed <= 0.1 * len(questions)  # hashes find most of those that are just alike enough
    assert found == [w.rpartition(" ")[2] for w in whys(drop_duplicates(iter(rows(*questions))))]


def test_the_seed_is_of_the_hashes():
    assert whys(drop_duplicates(rows(LONG, LONG + " too"), seed=5)) == ["", "near-duplicate of r0"]


@pytest.mark.parametrize("threshold", [0, 1.1, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(MmjaxError, match="threshold is"):
        list(drop_duplicates(rows("a"), threshold))


def test_the_package_is_there():
    check_installed()


def test_questions_without_words_are_alike():
    assert whys(drop_duplicates(rows("?", "!", "a"))) == ["", "duplicate of r0", ""]
