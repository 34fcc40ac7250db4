"""Contrastive losses over the global batch: exact, weighted, and linear in memory.

All have one signature; pair i is (image i, text i). `mmjax.losses.dense` says the same in a few
lines with the whole matrix of logits.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from mmjax.errors import MmjaxError
from mmjax.losses.blockwise import (
    LOWEST,
    LogSumExp,
    MarkedVectors,
    Marks,
    Statistic,
    Sum,
    Walk,
    statistics,
)
from mmjax.losses.pairs import PairLoss, Pairs, prepare, weigh
from mmjax.losses.weighting import HardNegatives, PairWeighting

BLOCK = 512

Found = dict[Statistic, Float[Array, " b"]]


def info_nce(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    logit_scale: Float[Array, ""] | float,
    *,
    weights: Float[Array, "..."] | None = None,
    positives: Int[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Float[Array, "..."] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
    negatives: HardNegatives | None = None,
    block: int = BLOCK,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], PairLoss]:
    """Symmetric InfoNCE; with `positives`, cross-entropy to all of a row's positives alike.

    The value does not depend on the number of devices. Memory is O(b d / devices).

    Args:
      image: unit vectors, f32 or bf16 (summed in f32).
      text: the same.
      logit_scale: logarithm of the inverse temperature; clamped at ln 100.
      weights: [b], not negative: how much each pair counts; may be differentiated.
      positives: [b], equal ids are positives of each other; None for the pair itself alone.
      mask: [b], False or 0 for padding, which takes part in nothing.
      label_smoothing: share of the target spread evenly over the batch.
      hard: which pairs count more.
      negatives: which negatives count more.
      block: rows of logits that a device makes at a time.
      mesh: goes round its data axis as a ring; None leaves sharded inputs to the compiler.

    Returns:
      (weighted mean over pairs, what it is made of). 0 where no pair has a weight.

    Raises:
      MmjaxError: see `mmjax.losses.pairs.prepare`.

    Source: CLIP (Radford et al., 2021), figure 3; several positives: UniCL (Yang et al., 2022),
      equation 3; hard negatives: HCL (Robinson et al., 2021), equation 4.
    """
    pairs = prepare(image, text, logit_scale, 0.0, weights, positives, mask, mesh)
    softmax = _Softmax(positives is not None, label_smoothing, negatives)
    both = _compare(softmax.statistics(), pairs, block, mesh)
    own = pairs.scale * jnp.sum(pairs.image * pairs.text, axis=1, dtype=jnp.float32)
    candidates = jnp.sum(pairs.valid)
    (to_text, text_doubt), (to_image, image_doubt) = (
        softmax.cross_entropy(sums, own, candidates, pairs.scale) for sums in both
    )
    return weigh(pairs, (to_text + to_image) / 2, (text_doubt + image_doubt) / 2, hard)


def supervised(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"] | None,
    logit_scale: Float[Array, ""] | float,
    *,
    weights: Float[Array, "..."] | None = None,
    positives: Int[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Float[Array, "..."] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
    negatives: HardNegatives | None = None,
    block: int = BLOCK,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], PairLoss]:
    """Supervised contrastive loss: every vector against all others, of both modalities.

    Args:
      image: as for `info_nce`, like all that is not told here.
      text: the second view of each example; None for a set of one modality.
      logit_scale: see `info_nce`.
      weights: see `info_nce`.
      positives: labels; an example without a positive takes no part. None makes the two views of
        an example each other's only positive (NT-Xent).
      mask: see `info_nce`.
      label_smoothing: see `info_nce`.
      hard: see `info_nce`.
      negatives: see `info_nce`.
      block: see `info_nce`.
      mesh: see `info_nce`.

    Returns:
      (weighted mean over examples, what it is made of, averaged over an example's views).

    Raises:
      MmjaxError: see `mmjax.losses.pairs.prepare`; one modality and no labels.

    Source: SupCon (Khosla et al., 2020), equation 2 (L_out).
    """
    views, text = _views(image, text, positives)
    pairs = prepare(image, text, logit_scale, 0.0, weights, positives, mask, mesh)
    softmax = _Softmax(True, label_smoothing, negatives)
    sums = _compare_set(softmax.statistics(), pairs, views, block, mesh)
    candidates = views * jnp.sum(pairs.valid) - 1
    loss, doubt = softmax.cross_entropy(sums, None, candidates, pairs.scale)
    loss, doubt, partners = (x.reshape(-1, views).mean(axis=1) for x in (loss, doubt, sums[_COUNT]))
    return weigh(pairs.keep(partners > 0), loss, doubt, hard)


def sigmoid(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    logit_scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    *,
    weights: Float[Array, "..."] | None = None,
    positives: Int[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Float[Array, "..."] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
    block: int = BLOCK,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], PairLoss]:
    """Sigmoid loss: is text j a match of image i, for every i and j?

    Args:
      image: as for `info_nce`, like all that is not told here.
      text: see `info_nce`.
      logit_scale: see `info_nce`.
      bias: added to every logit.
      weights: see `info_nce`.
      positives: see `info_nce`.
      mask: see `info_nce`.
      label_smoothing: moves the targets 1 and 0 half of this towards each other.
      hard: see `info_nce`; a pair's probability is that of its matches.
      block: see `info_nce`.
      mesh: see `info_nce`.

    Returns:
      (sum over all i and j by the number of pairs, weighted; what it is made of).

    Raises:
      MmjaxError: see `mmjax.losses.pairs.prepare`.

    Source: SigLIP (Zhai et al., 2023), equation 1.
    """
    pairs = prepare(image, text, logit_scale, bias, weights, positives, mask, mesh)
    match, mismatch = _answers(label_smoothing)
    kinds = (match, mismatch, _COUNT)
    rows, columns = _compare(kinds, pairs, block, mesh)
    matched = (rows[match] + columns[match]) / 2
    loss = matched + (rows[mismatch] + columns[mismatch]) / 2
    return weigh(pairs, loss, -jnp.expm1(-matched / jnp.maximum(rows[_COUNT], 1)), hard)


def pairwise_bce(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"] | None,
    logit_scale: Float[Array, ""] | float,
    *,
    weights: Float[Array, "..."] | None = None,
    positives: Int[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | Float[Array, "..."] | None = None,
    label_smoothing: float = 0.0,
    hard: PairWeighting | None = None,
    block: int = BLOCK,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], PairLoss]:
    """Do two vectors share a label? Binary cross-entropy over all pairs of a set.

    Args:
      image: as for `info_nce`, but of any length: the paper does not normalize.
      text: the second view of each example; None for a set of one modality, as in the paper.
      logit_scale: see `info_nce`; ln 10 is the paper's temperature 0.1.
      weights: see `info_nce`; two vectors count the mean of their weights.
      positives: labels; None where only two views of one example match.
      mask: see `info_nce`.
      label_smoothing: see `sigmoid`.
      hard: see `info_nce`; a vector's probability is exp(-loss).
      block: see `info_nce`.
      mesh: see `info_nce`.

    Returns:
      (weighted mean over pairs of vectors, what it is made of, averaged over an example's views).

    Raises:
      MmjaxError: see `mmjax.losses.pairs.prepare`; one modality and no labels.

    Source: arXiv 2502.02048 (Margaritis, Petridis, Bertsimas, 2025) and its released code.
    """
    views, text = _views(image, text, positives)
    pairs = prepare(image, text, logit_scale, 0.0, weights, positives, mask, mesh)
    match, mismatch = _answers(label_smoothing)
    sums = _compare_set((match, mismatch), pairs, views, block, mesh)
    partners = jnp.maximum(views * jnp.sum(pairs.valid) - 1, 1)
    loss = ((sums[match] + sums[mismatch]) / partners).reshape(-1, views).mean(axis=1)
    return weigh(pairs, loss, -jnp.expm1(-loss), hard)


@dataclass(frozen=True)
class _Softplus:
    """-log sigmoid(-sign * logit), its target moved by half of `smoothing`."""

    sign: float
    smoothing: float

    def __call__(self, logits: Float[Array, "n m"]) -> Float[Array, "n m"]:
        signed = self.sign * logits
        return jax.nn.softplus(signed) - self.smoothing / 2 * signed


def _answers(smoothing: float) -> tuple[Sum, Sum]:
    """The binary cross-entropy of matches, and of all others."""
    return (
        Sum("positives", _Softplus(-1.0, smoothing)),
        Sum("negatives", _Softplus(1.0, smoothing)),
    )


def _logit(logits: Float[Array, "n m"]) -> Float[Array, "n m"]:
    return logits


_NEGATIVES = LogSumExp("negatives")
_EVENLY = Sum("all", _logit)
_POSITIVES = LogSumExp("positives")
_MATCHES = Sum("positives", _logit)
_COUNT = Sum("positives", jnp.ones_like)


@dataclass(frozen=True)
class _Softmax:
    """A row's cross-entropy, from statistics.

    Attributes:
      several: whether a row may have other positives than the pair itself.
      smoothing: share of the target spread over all candidates.
      hard: which negatives count more.
    """

    several: bool
    smoothing: float
    hard: HardNegatives | None

    def statistics(self) -> tuple[Statistic, ...]:
        """What `cross_entropy` needs of a row."""
        return (
            *(self._tilted or (_NEGATIVES,)),
            *((_POSITIVES, _MATCHES, _COUNT) if self.several else ()),
            *((_EVENLY,) if self.smoothing else ()),
        )

    def cross_entropy(
        self,
        sums: Found,
        own: Float[Array, " b"] | None,
        candidates: Int[Array, ""],
        scale: Float[Array, ""],
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Loss and doubt of every row.

        Args:
          sums: the row's statistics.
          own: the logit of its own pair, where that is the one positive.
          candidates: how many columns a row is compared with.
          scale: inverse temperature.

        Returns:
          (cross-entropy, probability of the negatives together). Positives and negatives are kept
          apart up to here, so that both are exact where the row is all but solved.
        """
        if self.several:
            count = sums[_COUNT]
            target, matched = sums[_MATCHES] / jnp.maximum(count, 1), sums[_POSITIVES]
        else:
            assert own is not None
            target, matched, count = own, own, jnp.ones_like(own)
        rivals = (
            self._log_rivals(sums, matched, count, candidates - count, scale)
            if self._tilted
            else sums[_NEGATIVES]
        )
        if self.smoothing:
            evenly = sums[_EVENLY] / jnp.maximum(candidates, 1)
            target += self.smoothing * (evenly - target)
        loss = matched - target + jax.nn.softplus(rivals - matched)
        return loss, jax.nn.sigmoid(rivals - matched)

    @property
    def _tilted(self) -> tuple[LogSumExp, LogSumExp] | None:
        if self.hard is None or self.hard == HardNegatives():
            return None
        beta = self.hard.beta
        return LogSumExp("negatives", 1 + beta), LogSumExp("negatives", beta)

    def _log_rivals(
        self,
        sums: Found,
        matched: Float[Array, " b"],
        count: Float[Array, " b"],
        number: Float[Array, " b"],
        scale: Float[Array, ""],
    ) -> Float[Array, " b"]:
        """Logarithm of HCL's sum over negatives, in logarithms since exp(100) is no f32."""
        assert self.hard is not None
        assert self._tilted is not None
        numerator, denominator = self._tilted
        log_number = jnp.where(number > 0, jnp.log(jnp.maximum(number, 1)), LOWEST)
        total = log_number + sums[numerator] - sums[denominator]
        floor = log_number - scale  # no cosine is below -1
        tau = self.hard.tau_plus
        if not tau:
            return jnp.maximum(total, floor)
        false = jnp.log(tau) + log_number + matched - jnp.log(jnp.maximum(count, 1))
        some = false < total  # else all of it is put down to false negatives
        share = jnp.where(some, false - total, -1.0)
        debiased = total + jnp.log(-jnp.expm1(share)) - jnp.log1p(-tau)
        return jnp.where(some, jnp.maximum(debiased, floor), floor)


def _compare(
    kinds: tuple[Statistic, ...],
    pairs: Pairs,
    block: int,
    mesh: Mesh | None,
) -> tuple[Found, Found]:
    """Statistics of the images over texts, and of the texts over images."""
    marks = Marks(pairs.valid, pairs.ids)
    image, text = MarkedVectors(pairs.image, marks), MarkedVectors(pairs.text, marks)
    rows, columns = statistics(Walk(kinds, block, mesh), (pairs.scale, pairs.bias), image, text)
    return dict(zip(kinds, rows, strict=True)), dict(zip(kinds, columns, strict=True))


def _compare_set(
    kinds: tuple[Statistic, ...],
    pairs: Pairs,
    views: int,
    block: int,
    mesh: Mesh | None,
) -> Found:
    """Statistics of every vector over all others; views of one example stand side by side."""
    stacked = jnp.stack([pairs.image, pairs.text][:views], axis=1)
    vectors = stacked.reshape(-1, stacked.shape[-1])
    valid, ids = (jnp.repeat(x, views) for x in (pairs.valid, pairs.ids))
    tower = MarkedVectors(vectors, Marks(valid, ids, jnp.arange(len(vectors))))
    rows, _ = statistics(Walk(kinds, block, mesh), (pairs.scale, pairs.bias), tower, tower)
    return dict(zip(kinds, rows, strict=True))


def _views(
    image: Float[Array, "b d"], text: Float[Array, "b d"] | None, positives: object
) -> tuple[int, Float[Array, "b d"]]:
    """How many views each example has, and the second, or the one again."""
    if text is None and positives is None:
        raise MmjaxError("a set of one modality has no positives without labels; pass `positives`")
    return (1, image) if text is None else (2, text)
