"""MME's and VQA's metrics against cases counted by hand."""

import pytest

from mmjax.evals.short_answers import consensus, exact_match, mme, normalised, read_yes_no


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Yes", "yes"),
        ("yes, it is", "yes"),
        (" No.", "no"),
        ("Not at all", "no"),  # as MME's own script reads it
        ("It is so. Yes", "other"),
        ("", "other"),
    ],
)
def test_yes_and_no_are_read_at_the_start(said, read):
    assert read_yes_no(said) == read


def test_mme_counts_questions_and_whole_pictures():
    said = ["yes", "no", "Yes.", "yes", "maybe", "no"]
    wanted = ["yes", "no", "Yes", "No", "yes", "no"]
    found = mme(said, wanted, ["a", "a", "b", "b", "c", "c"])
    assert found["mme_acc"] == pytest.approx(4 / 6)
    assert found["mme_acc_plus"] == pytest.approx(1 / 3)
    assert found["mme_score"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("The red bus.", "red bus"),
        ("Two", "2"),
        ("1,000.5", "1000.5"),
        ("Don't.", "dont"),
        ("on-top (left)", "on top left"),
        ("a", ""),
    ],
)
def test_answers_are_compared_as_vqa_does(said, same):
    assert normalised(said) == same


def test_exact_match_and_consensus():
    assert exact_match(["A dog", "three", "cat"], ["dog", "3", "cats"]) == 2 / 3
    humans = ["dog"] * 3 + ["puppy"] * 2 + ["cat"] * 5
    # Leaving out one of the three who agree leaves two: (7 x 1 + 3 x 2/3) / 10.
    assert consensus("a dog", humans) == pytest.approx(0.9)
    assert consensus("cat", humans) == 1
    assert consensus("puppy", humans) == pytest.approx((8 * 2 / 3 + 2 * 1 / 3) / 10)
    assert consensus("horse", humans) == 0
