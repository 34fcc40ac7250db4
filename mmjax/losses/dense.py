"""The contrastive losses with the whole matrix of logits: slow, and obviously right.

Each has the signature of its twin in `mmjax.losses.contrastive`, which see, without `block` and
`mesh`, and computes in the precision of its inputs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.losses.pairs import PairLoss
from mmjax.losses.temperature import clamped
from mmjax.losses.weighting import Focal, HardNegatives, PairWeighting

Matrix = Float[Array, "n m"]
Chosen = Bool[Array, "n m"]
SetChosen = Bool[Array, "k k"]
Result = tuple[Float[Array, ""], PairLoss]


def info_nce(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    logit_scale: Float[Array, ""] | float,
    *,
    weights: Float[Array, " b"] | None = None,
    positives: Int[Array, " b"] | None = None,
    mask: Bool[Array, " b"] | Float[Array, " b"] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
    negatives: HardNegatives | None = None,
) -> Result:
    """Symmetric InfoNCE."""
    logits = _scale(logit_scale) * _dots(image, text)
    valid, match = _matches(len(image), positives, mask)
    candidates = valid[:, None] & valid[None]
    to_text, p_text = _softmax(logits, match, candidates, label_smoothing, negatives, logit_scale)
    to_image, p_image = _softmax(
        logits.T, match, candidates, label_smoothing, negatives, logit_scale
    )
    return _mean((to_text + to_image) / 2, (p_text + p_image) / 2, weights, valid, hard)


def supervised(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"] | None,
    logit_scale: Float[Array, ""] | float,
    *,
    weights: Float[Array, " b"] | None = None,
    positives: Int[Array, " b"] | None = None,
    mask: Bool[Array, " b"] | Float[Array, " b"] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
    negatives: HardNegatives | None = None,
) -> Result:
    """Supervised contrastive loss."""
    views = _views(text)
    logits = _set_logits(image, text, logit_scale)
    valid, match, candidates = _set_matches(len(image), views, positives, mask)
    loss, p = _softmax(logits, match, candidates, label_smoothing, negatives, logit_scale)
    valid &= match[: len(image)].any(axis=1)
    return _mean(_per_example(loss, views), _per_example(p, views), weights, valid, hard)


def sigmoid(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    logit_scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    *,
    weights: Float[Array, " b"] | None = None,
    positives: Int[Array, " b"] | None = None,
    mask: Bool[Array, " b"] | Float[Array, " b"] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
) -> Result:
    """Sigmoid loss."""
    logits = _scale(logit_scale) * _dots(image, text) + bias
    valid, match = _matches(len(image), positives, mask)
    entropy = jnp.where(valid[:, None] & valid[None], _binary(logits, match, label_smoothing), 0)
    loss = (entropy.sum(axis=1) + entropy.sum(axis=0)) / 2
    matched = jnp.where(match, entropy, 0)
    matched = (matched.sum(axis=1) + matched.sum(axis=0)) / 2
    p = jnp.exp(-matched / jnp.maximum(match.sum(axis=1), 1))
    return _mean(loss, p, weights, valid, hard)


def pairwise_bce(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"] | None,
    logit_scale: Float[Array, ""] | float,
    *,
    weights: Float[Array, " b"] | None = None,
    positives: Int[Array, " b"] | None = None,
    mask: Bool[Array, " b"] | Float[Array, " b"] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
) -> Result:
    """Binary cross-entropy over all pairs of a set."""
    views = _views(text)
    logits = _set_logits(image, text, logit_scale)
    valid, match, candidates = _set_matches(len(image), views, positives, mask)
    entropy = jnp.where(candidates, _binary(logits, match, label_smoothing), 0)
    loss = _per_example(entropy.sum(axis=1) / jnp.maximum(views * valid.sum() - 1, 1), views)
    return _mean(loss, jnp.exp(-loss), weights, valid, hard)


def _scale(logit_scale: Float[Array, ""] | float) -> Float[Array, ""]:
    return jnp.exp(clamped(jnp.asarray(logit_scale)))


def _dots(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Matrix:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x, y.T, precision="highest", preferred_element_type=wide)


def _matches(
    size: int,
    positives: Int[Array, " b"] | None,
    mask: Bool[Array, " b"] | Float[Array, " b"] | None,
) -> tuple[Bool[Array, " b"], Chosen]:
    """Which examples are real, and which of them match each other."""
    valid = jnp.ones(size, bool) if mask is None else mask.astype(bool)
    ids = jnp.arange(size) if positives is None else positives
    return valid, (ids[:, None] == ids[None]) & valid[:, None] & valid[None]


def _views(text: Float[Array, "b d"] | None) -> int:
    """How many vectors of a set each example has."""
    return 1 if text is None else 2


def _set_logits(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"] | None,
    logit_scale: Float[Array, ""] | float,
) -> Matrix:
    """Logits of all vectors of a set, the images, then the texts, to each other."""
    vectors = image if text is None else jnp.concatenate([image, text])
    return _scale(logit_scale) * _dots(vectors, vectors)


def _set_matches(
    size: int,
    views: int,
    positives: Int[Array, " b"] | None,
    mask: Bool[Array, " b"] | Float[Array, " b"] | None,
) -> tuple[Bool[Array, " b"], SetChosen, SetChosen]:
    """Which examples are real; matches and candidates of their views, none its own partner."""
    valid, match = _matches(size, positives, mask)
    real = jnp.tile(valid, views)
    off_diagonal = ~jnp.eye(len(real), dtype=bool)
    match = jnp.tile(match, (views, views)) & off_diagonal
    return valid, match, real[:, None] & real[None] & off_diagonal


def _per_example(per_vector: Float[Array, " n"], views: int) -> Float[Array, " b"]:
    return per_vector.reshape(views, -1).mean(axis=0)


def _binary(logits: Matrix, match: Chosen, smoothing: float) -> Matrix:
    """Cross-entropy of sigmoid(logits) to targets that smoothing moves from 0 and 1 to 1/2."""
    target = (1 - smoothing) * match + smoothing / 2
    return target * jax.nn.softplus(-logits) + (1 - target) * jax.nn.softplus(logits)


def _softmax(
    logits: Matrix,
    match: Chosen,
    candidates: Chosen,
    smoothing: float,
    negatives: HardNegatives | None,
    logit_scale: Float[Array, ""] | float,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Every row's cross-entropy and the probability of its matches, in plain exponentials."""
    highest = jnp.max(logits, axis=1, where=candidates, initial=-1e4, keepdims=True)
    highest = jax.lax.stop_gradient(jnp.where(candidates.any(axis=1, keepdims=True), highest, 0))
    relative = jnp.exp(jnp.where(candidates, logits - highest, -jnp.inf))
    matched = jnp.sum(relative, axis=1, where=match)
    rivals = jnp.sum(relative, axis=1, where=candidates & ~match)
    if negatives is not None:
        mismatches = candidates & ~match
        number = mismatches.sum(axis=1)
        tilt = jnp.where(mismatches, jnp.where(mismatches, relative, 1) ** negatives.beta, 0)
        mean_tilt = tilt.sum(axis=1) / jnp.maximum(number, 1)
        reweighted = (tilt * relative).sum(axis=1) / jnp.where(number > 0, mean_tilt, 1)
        per_match = matched / jnp.maximum(match.sum(axis=1), 1)
        tau = negatives.tau_plus
        debiased = (reweighted - tau * number * per_match) / (1 - tau)
        floor = number * jnp.exp(-_scale(logit_scale) - highest[:, 0])
        rivals = jnp.maximum(debiased, floor)
    total = matched + rivals
    log_p = logits - highest - jnp.log(jnp.where(total > 0, total, 1))[:, None]

    def mean_over(chosen: Chosen) -> Float[Array, " n"]:
        return jnp.sum(log_p, axis=1, where=chosen) / jnp.maximum(chosen.sum(axis=1), 1)

    loss = -(1 - smoothing) * mean_over(match) - smoothing * mean_over(candidates)
    return loss, matched / jnp.where(total > 0, total, 1)


def _mean(
    loss: Float[Array, " b"],
    p: Float[Array, " b"],
    weights: Float[Array, " b"] | None,
    valid: Bool[Array, " b"],
    hard: PairWeighting | None,
) -> Result:
    """The weighted mean; hard weights are constants of weighted mean 1."""
    weights = jnp.where(valid, 1.0 if weights is None else weights, 0)
    hardness = jnp.ones_like(loss)
    if isinstance(hard, Focal):
        hardness = (1 - p) ** hard.gamma
    elif hard is not None:
        hardness = jnp.exp(loss / hard.temperature)
    total = jnp.where(weights.sum() > 0, weights.sum(), 1)
    hardness = jax.lax.stop_gradient(hardness / ((weights * hardness).sum() / total))
    share = jax.lax.stop_gradient(weights * hardness * valid.sum() / total)
    real = valid.astype(loss.dtype)
    pairs = PairLoss(loss * real, jax.lax.stop_gradient(p * real), share, real)
    return jnp.sum(weights * hardness * loss * real) / total, pairs
