"""Next-token losses beside NumPy, one token at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses.language_modeling import answer_hidden, next_token
from mmjax.metrics import compute, merge


def test_every_answer_token_weighs_the_same_however_batches_are_cut():
    random = np.random.default_rng(0)
    hidden = random.standard_normal((4, 6, 3)).astype(np.float32)
    head = random.standard_normal((3, 7)).astype(np.float32)
    columns, labels = random.integers(0, 6, (4, 2)), random.integers(0, 7, (4, 2))
    weights = np.array([[1, 1], [1, 0], [0, 0], [1, 1]], np.float32)
    losses, right = [], []
    for b, a in zip(*np.nonzero(weights), strict=True):
        scores = hidden[b, columns[b, a]].astype(np.float64) @ head
        losses.append(np.log(np.exp(scores).sum()) - scores[labels[b, a]])
        right.append(scores.argmax() == labels[b, a])

    def ours(rows):
        picked = answer_hidden(jnp.asarray(hidden[rows]), jnp.asarray(columns[rows]))
        loss, accuracy = next_token(
            picked @ head, jnp.asarray(labels[rows]), jnp.asarray(weights[rows])
        )
        return {"loss": loss, "accuracy": accuracy}

    whole = compute(ours(slice(None)))
    assert whole["loss"] == pytest.approx(np.mean(losses), abs=2e-5)
    assert whole["accuracy"] == pytest.approx(np.mean(right))
    # Three tokens, then two: a mean of means would differ.
    parts = compute(merge([ours(slice(0, 3)), ours(slice(3, 4))]))
    assert parts["loss"] == pytest.approx(whole["loss"], abs=1e-6)
