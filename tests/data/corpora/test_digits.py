"""The digits that scikit-learn ships, as pictures."""

import numpy as np
from sklearn.datasets import load_digits

from mmjax.data.corpora.catalog import load_corpus
from mmjax.specs.data import PairsSpec


def test_the_pictures_are_those_of_the_package():
    corpus = load_corpus(PairsSpec(source="digits", limit=40), ("en", "en"))
    shipped = load_digits()
    assert len(corpus.items) == 40
    assert len(corpus.labels) == 10
    for place in (0, 17, 39):
        item = corpus.items[place]
        number = int(item.id.removeprefix("digit-"))
        names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        assert item.label == names[shipped.target[number]]  # pyright: ignore
        picture = np.asarray(item.picture("grey"), np.float64)
        assert picture.shape == (56, 56, 3)
        # Averaged back to 8 x 8 it is the original, but for what bicubic smoothing moves.
        small = picture[:, :, 0].reshape(8, 7, 8, 7).mean(axis=(1, 3)) * 16 / 255
        original = shipped.images[number]  # pyright: ignore
        assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.97
