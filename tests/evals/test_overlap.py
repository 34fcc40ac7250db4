"""ROUGE-L, BLEU-4 and CIDEr-D give what rouge-score 0.1.2 and pycocoevalcap 1.2 give."""

import pytest

from mmjax.evals.overlap import bleu4, caption_words, cider_d, rouge_l

SAID = [
    "A man riding a horse on the beach",
    "Two dogs are running after a red ball in the grass",
    "A plate of food food food on a table",
]
WANTED = [
    [
        "A man rides a horse on the beach.",
        "A man is riding a brown horse along the beach",
        "Someone on a horse by the sea",
    ],
    [
        "Two dogs play with a red ball.",
        "Dogs playing with a ball in the grass",
        "Two dogs run after a red ball",
    ],
    [
        "A plate of food on a wooden table",
        "Some food sits on a plate",
        "A white plate with food on the table",
    ],
]


def test_figures_are_the_libraries_own():
    found = [rouge_l(said, wanted) for said, wanted in zip(SAID, WANTED, strict=True)]
    assert found == pytest.approx([0.875, 2 / 3, 14 / 17])
    assert bleu4(SAID, WANTED) == pytest.approx(0.5212485469403487)
    assert cider_d(SAID, WANTED) == pytest.approx(2.779721876584404)


def test_words_are_those_of_the_tokenizer_in_java():
    said = "A man's dog doesn't sit on the red-and-white couch."
    assert " ".join(caption_words(said)) == ("a man 's dog does n't sit on the red-and-white couch")
    said = "There are 1,000 sheep (and 2.5 cows) near a U.S. flag"
    assert " ".join(caption_words(said)) == (
        "there are 1,000 sheep -lrb- and 2.5 cows -rrb- near a u.s. flag"
    )
    assert " ".join(caption_words("It is 10:30; we cannot go!")) == "it is 10:30 we can not go"


def test_nothing_said_is_worth_nothing():
    assert rouge_l("", ["a dog"]) == rouge_l("a dog", [""]) == 0
    assert bleu4(["", ""], [["a"], ["b"]]) == 0
    assert cider_d(["", ""], [["a dog runs"], ["b"]]) == 0
    assert cider_d(["a dog"], [["a dog"]]) == 0  # of one picture no word is rare
