"""Options in an answer: what published scripts take for one, and what names one."""

import pytest

from mmjax.evals.options import conclusion, legacy_choice, legacy_named, named, strict_choice
from mmjax.evals.scienceqa import NONE

CHOICES = ("CT scan", "MRI", "X-ray", "Ultrasound")


def _legacy(said, options=CHOICES, keys="ABCD"):
    return legacy_choice(said, options, list(keys), "seed")


@pytest.mark.parametrize(
    ("said", "legacy", "strict"),
    [
        ("B", 1, 1),
        ("(B) MRI", 1, 1),
        ("b. mri", None, 1),  # no key, and too short for its words to be looked for
        ("The answer is option C.", 2, 2),
        ("It shows a heart, as an MRI does", 1, 1),
        ("A heart on MRI", 0, 1),  # the article is taken for option A
        ("MRI", None, 1),
        ("MRI or CT scan", None, NONE),
        ("I do not know", None, NONE),
        ("", None, NONE),
    ],
)
def test_letters(said, legacy, strict):
    found = _legacy(said)
    assert found == (_legacy("no idea") if legacy is None else legacy)
    assert strict_choice(said, CHOICES, "ABCD") == strict


def test_what_cannot_be_read_is_drawn_by_legacy():
    drawn = [legacy_choice("no idea", CHOICES, "ABCD", f"0:{i}") for i in range(2000)]
    assert drawn == [legacy_choice("no idea", CHOICES, "ABCD", f"0:{i}") for i in range(2000)]
    shares = [drawn.count(i) / len(drawn) for i in range(4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.04)


def test_a_number_is_an_option_of_food101_for_legacy():
    dishes = tuple(f"dish {'abcdefghij'[i]}" for i in range(10))
    keys = [str(i) for i in range(10)]
    said = "There are 3 pieces of dish a here"
    assert legacy_choice(said, dishes, keys, "") == 3
    assert strict_choice(said, dishes) == 0


def test_shorter_options_do_not_count_within_longer_ones():
    foods = ("egg", "egg tart", "ice cream", "cream", "corn")
    said = "An eggplant, popcorn, ice cream and an egg tart"
    assert named(said, foods) == {1, 2}
    assert legacy_named(said, foods) == {0, 1, 2, 3, 4}
    assert strict_choice("It is non-flooded", ("flooded", "non flooded")) == 1
    assert strict_choice("13 houses", ("3", "13")) == 1
    assert strict_choice("three", ("3", "13")) == 0


def test_the_conclusion_comes_first():
    assert conclusion("Is the answer: MRI? No, the answer is CT scan") == "CT scan"
    assert conclusion("MRI") == "MRI"
    assert strict_choice("MRI shows water; the answer is: CT scan.", CHOICES) == 0
    assert strict_choice("The answer is", CHOICES) == NONE
