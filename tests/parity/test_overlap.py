"""ROUGE-L, BLEU-4 and CIDEr-D against the libraries that define them."""

import random

import pytest

from mmjax.evals.overlap import bleu4, cider_d, rouge_l

pytestmark = pytest.mark.parity
WORDS = ("a", "the", "man", "dog", "red", "on", "in", "sits", "runs", "table", "with", "two")


@pytest.fixture(scope="module")
def captions():
    """60 captions, and five references of each that share most of their words."""
    rng = random.Random(0)

    def change(words):
        changed = [w if rng.random() < 0.75 else rng.choice(WORDS) for w in words]
        return " ".join(changed[: rng.randint(3, len(changed))])

    bases = [[rng.choice(WORDS) for _ in range(rng.randint(5, 12))] for _ in range(60)]
    return [change(b) for b in bases], [[change(b) for _ in range(5)] for b in bases]


def test_bleu_and_cider(captions):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    said, wanted = captions
    theirs = {i: [text] for i, text in enumerate(said)}
    references = dict(enumerate(wanted))
    found = Bleu(4).compute_score(references, theirs, verbose=0)[0][3]
    assert bleu4(said, wanted) == pytest.approx(found, rel=1e-6)
    assert cider_d(said, wanted) == pytest.approx(Cider().compute_score(references, theirs)[0])


def test_rouge_l(captions):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    for said, wanted in zip(*captions, strict=True):
        found = max(scorer.score(reference, said)["rougeL"].fmeasure for reference in wanted)
        assert rouge_l(said, wanted) == pytest.approx(found)
