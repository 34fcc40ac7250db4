"""Traps of published metrics: `legacy` falls into each as published, `strict` into none."""

import pytest

from mmjax.evals import answers


@pytest.mark.parametrize(
    ("said", "truth", "legacy", "strict"),
    [
        ("Yes, the heart is abnormal", "no", True, False),
        ("It is normal.", "No", True, False),
        ("I cannot tell", "no", True, False),
        ("This is a known lesion, so yes.", "no", True, False),
        ("Yes, there is no mass.", "yes", True, True),
        ("No. On second thoughts, yes.", "yes", True, True),
        ("There is no effusion. Therefore, the answer is yes.", "no", True, False),
        ("There is no effusion. Therefore, the answer is **No**.", "no", True, True),
        ("NO", "no", True, True),
        ("It is the left lung", "left", True, True),
        ("Cleft palate", "left", True, False),
        ("", "yes", False, False),
    ],
)
def test_closed_answers(said, truth, legacy, strict):
    assert answers.legacy_closed(said, truth) is legacy
    assert answers.strict_closed(said, truth) is strict


def test_repeats_pay_in_legacy_recall_alone():
    assert answers.legacy_recall("left left left left", "left lung") == pytest.approx(0.8)
    assert answers.strict_recall("left left left left", "left lung")[0] == 0.5
    assert answers.legacy_recall("lung", "left lung") == 0.5
    assert answers.legacy_recall("heart", "left lung") == 0
    assert answers.legacy_recall("", "the") == 0


def test_long_answers_cost_f1():
    recall, f1 = answers.strict_recall("left lung", "the left lung")
    assert (recall, f1) == (1, 1)
    recall, f1 = answers.strict_recall("left lung or right heart or head", "left lung")
    assert recall == 1
    assert f1 == pytest.approx(2 * 2 / (6 + 2))


def test_long_lists_of_ingredients_win_in_legacy_alone():
    wanted = ["olive oil", "rice"]
    everything = "Rice, olive oil, eggs, milk, beef, corn, peas, salt"
    assert answers.legacy_ingredients(everything, wanted) == 1
    recall, f1 = answers.strict_ingredients(everything, wanted)
    assert recall == 1
    assert f1 == pytest.approx(2 * 0.25 / 1.25)
    assert answers.legacy_ingredients("boiled licorice", ["oil", "rice"]) == 1
    assert answers.strict_ingredients("boiled licorice", ["oil", "rice"]) == (0, 0)
    assert answers.strict_ingredients("", wanted) == (0, 0)


def test_sets_of_categories():
    assert answers.set_f1({1, 2}, {2, 3}) == 0.5
    assert answers.set_f1(set(), set()) == 1
    assert answers.set_f1({1}, set()) == 0
