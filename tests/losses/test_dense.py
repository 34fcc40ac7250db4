"""The dense losses against their formulas, pair by pair in Python floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.losses import dense
from mmjax.losses.weighting import Focal, HardNegatives, LossSoftmax

N, D = 6, 3
LABELS = np.array([0, 1, 0, 2, 1, 1])
MASK = np.array([1, 1, 1, 1, 0, 1], bool)


def row_loss(logits, positives, candidates, smoothing, negatives, scale):
    """One anchor against its candidates: (cross-entropy, probability of its positives)."""
    exp = {j: np.exp(logits[j]) for j in candidates}
    rivals = [exp[j] for j in candidates if j not in positives]
    matched = sum(exp[p] for p in positives)
    if negatives is None:
        rest = sum(rivals)
    else:
        count, beta, tau = len(rivals), negatives.beta, negatives.tau_plus
        importance = np.array(rivals) ** beta
        reweighted = (importance * rivals).sum() / importance.mean()
        per_positive = matched / len(positives)
        rest = (reweighted - tau * count * per_positive) / (1 - tau)
        rest = max(rest, count * np.exp(-scale))
    log_p = {j: logits[j] - np.log(matched + rest) for j in candidates}
    hit = np.mean([log_p[p] for p in positives])
    return -(1 - smoothing) * hit - smoothing * np.mean(list(log_p.values())), matched / (
        matched + rest
    )


def info_nce(image, text, log_scale, bias, labels, smoothing, negatives):
    scale = np.exp(log_scale)
    real = np.flatnonzero(MASK)
    found = []
    for i in real:
        match = [j for j in real if labels[j] == labels[i]]
        to_text = row_loss(scale * text @ image[i], match, real, smoothing, negatives, scale)
        to_image = row_loss(scale * image @ text[i], match, real, smoothing, negatives, scale)
        found.append(np.add(to_text, to_image) / 2)
    return real, np.array(found).T


def supervised(image, text, log_scale, bias, labels, smoothing, negatives):
    scale = np.exp(log_scale)
    real = np.flatnonzero(MASK)
    vectors, owner = np.concatenate([image, text]), np.tile(np.arange(N), 2)
    found = []
    for i in real:
        views = []
        for a in (i, i + N):
            candidates = [c for c in range(2 * N) if MASK[owner[c]] and c != a]
            match = [c for c in candidates if labels[owner[c]] == labels[i]]
            logits = scale * vectors @ vectors[a]
            views.append(row_loss(logits, match, candidates, smoothing, negatives, scale))
        found.append(np.mean(views, axis=0))
    return real, np.array(found).T


def entropy(logit, same, smoothing):
    target = (1 - smoothing) * same + smoothing / 2
    p = 1 / (1 + np.exp(-logit))
    return -target * np.log(p) - (1 - target) * np.log(1 - p)


def sigmoid(image, text, log_scale, bias, labels, smoothing, negatives):
    real = np.flatnonzero(MASK)
    logits = np.exp(log_scale) * image @ text.T + bias
    table = np.array(
        [[entropy(logits[i, j], labels[i] == labels[j], smoothing) for j in real] for i in real]
    )
    same = labels[real][:, None] == labels[real]
    matched = ((table * same).sum(0) + (table * same).sum(1)) / 2
    return real, np.array([(table.sum(0) + table.sum(1)) / 2, np.exp(-matched / same.sum(1))])


def pairwise_bce(image, text, log_scale, bias, labels, smoothing, negatives):
    real = np.flatnonzero(MASK)
    vectors = np.concatenate([image, text])
    found = []
    for i in real:
        views = []
        for a in (i, i + N):
            others = [(b, b % N) for b in range(2 * N) if MASK[b % N] and b != a]
            logits = np.exp(log_scale) * vectors @ vectors[a]
            views.append(
                np.mean([entropy(logits[b], labels[i] == labels[j], smoothing) for b, j in others])
            )
        found.append((np.mean(views), np.exp(-np.mean(views))))
    return real, np.array(found).T


LOSSES = {f.__name__: f for f in (info_nce, supervised, sigmoid, pairwise_bce)}


def hardness(hard, loss, p, weights):
    if isinstance(hard, Focal):
        raw = (1 - p) ** hard.gamma
    elif hard is None:
        raw = np.ones_like(p)
    else:
        raw = np.exp(loss / hard.temperature)
    return raw * weights.sum() / (weights * raw).sum()


@pytest.mark.parametrize(
    ("hard", "negatives", "labels", "smoothing"),
    [
        (None, None, None, 0.0),
        (Focal(1.5), None, LABELS, 0.1),
        (LossSoftmax(0.7), HardNegatives(0.5, 0.02), None, 0.0),
        (None, HardNegatives(1.0, 0.01), LABELS, 0.1),
    ],
    ids=["plain", "focal-labels-smoothing", "loss-softmax-hcl", "hcl-labels-smoothing"],
)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_every_gradient(name, hard, negatives, labels, smoothing):
    if negatives is not None and name not in ("info_nce", "supervised"):
        negatives = None
    rng = np.random.default_rng(2)
    image, text = rng.normal(size=(2, N, D))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    weights = rng.uniform(0.5, 2, N)
    start = np.concatenate([image.ravel(), text.ravel(), [1.1, -0.5], weights])
    ids = np.arange(N) if labels is None else labels

    def parts(flat):
        pair, numbers, weights = flat[: 2 * N * D], flat[2 * N * D : -N], flat[-N:]
        image, text = pair.reshape(2, N, D)
        return image, text, numbers[0], numbers[1], weights

    fixed = None

    def formula(flat):
        image, text, logit_scale, bias, weights = parts(flat)
        given = (image, text, logit_scale, bias, ids, smoothing, negatives)
        real, (loss, p) = LOSSES[name](*given)
        weights = weights[real]
        nonlocal fixed
        if fixed is None:  # hard weights are constants of the gradient
            fixed = hardness(hard, loss, p, weights)
        return (weights * fixed * loss).sum() / weights.sum()

    def twin(flat):
        image, text, logit_scale, bias, weights = parts(flat)
        more = {} if negatives is None else {"negatives": negatives}
        numbers = (logit_scale, bias) if name == "sigmoid" else (logit_scale,)
        return getattr(dense, name)(
            image,
            text,
            *numbers,
            weights=weights,
            positives=None if labels is None else jnp.asarray(labels),
            mask=jnp.asarray(MASK),
            label_smoothing=smoothing,
            hard=hard,
            **more,
        )[0]

    wanted = formula(start)
    steps = 1e-6 * np.eye(len(start))
    slopes = [(formula(start + e) - formula(start - e)) / 2e-6 for e in steps]
    with jax.enable_x64(True):
        found, gradient = jax.jit(jax.value_and_grad(twin))(jnp.asarray(start))
    assert_allclose(found, wanted, rtol=1e-12)
    assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)
