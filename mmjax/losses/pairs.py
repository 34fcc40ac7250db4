"""What every contrastive loss takes and gives back: the batch's pairs, checked and weighted."""

import logging
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from mmjax.errors import MmjaxError
from mmjax.losses.ring import AXIS
from mmjax.losses.temperature import MAX_LOGIT_SCALE as MAX_LOGIT_SCALE
from mmjax.losses.temperature import clamped
from mmjax.losses.weighting import PairWeighting, pair_weights


class PairLoss(NamedTuple):
    """What a loss says of each pair; 0 where the pair took no part.

    Attributes:
      loss: mean of both directions, before any weight.
      probability: how sure the model is of the pair's positives; carries no gradient.
      weight: what the pair counted for, with mean 1 over those that took part; carries no gradient.
      valid: 1 for a pair that took part.
    """

    loss: Float[Array, " b"]
    probability: Float[Array, " b"]
    weight: Float[Array, " b"]
    valid: Float[Array, " b"]


class Pairs(NamedTuple):
    """A checked batch.

    Attributes:
      image: one vector an example.
      text: the same.
      valid: which pairs take part.
      ids: equal ids are positives.
      weights: not negative, 0 where the pair takes no part.
      scale: inverse temperature.
      bias: of every logit.
      sound: whether all features are finite.
    """

    image: Float[Array, "b d"]
    text: Float[Array, "b d"]
    valid: Bool[Array, " b"]
    ids: Int[Array, " b"]
    weights: Float[Array, " b"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]
    sound: Bool[Array, ""]

    def keep(self, which: Bool[Array, " b"]) -> "Pairs":
        """Leaves out more pairs."""
        weights = jnp.where(which, self.weights, 0.0)
        return self._replace(valid=self.valid & which, weights=weights)


def prepare(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    logit_scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    weights: Float[Array, "..."] | None,
    positives: Int[Array, "..."] | None,
    mask: Bool[Array, "..."] | Float[Array, "..."] | None,
    mesh: Mesh | None = None,
) -> Pairs:
    """Checks a batch.

    Values can be looked at outside `jax.jit` only, where bad ones raise and equal texts without
    `positives` are warned of. Under `jax.jit` features
    that are not finite make the loss NaN and every gradient 0, so that the step is lost and not
    the model; a weight that is negative or not finite counts as 0.

    Args:
      image: one vector an example; finite in padded rows too.
      text: the same.
      logit_scale: logarithm of the inverse temperature, finite; clamped at ln 100 with a gradient
        that leads back (`mmjax.losses.temperature.clamped`).
      bias: of every logit.
      weights: [b]; None for all 1.
      positives: ids [b]; None for the pair itself.
      mask: [b], False or 0 for padding; None for none.
      mesh: its data axis has to divide the batch.

    Returns:
      The pairs.

    Raises:
      MmjaxError: vectors of the two towers, or anything of a pair, that differ in number; a mesh
        that does not divide the batch; outside `jax.jit` also a scale or features that are not
        finite, and weights that are negative or not finite.
    """
    size = len(image)
    if image.shape != text.shape:
        raise MmjaxError(
            f"a contrastive loss needs as many image as text vectors, of one width, "
            f"not {image.shape} and {text.shape}"
        )
    for name, values in (("weights", weights), ("positives", positives), ("mask", mask)):
        if values is not None and values.shape != (size,):
            raise MmjaxError(f"{name} has shape {values.shape}; {size} pairs need ({size},)")
    if mesh is not None and size % mesh.shape[AXIS]:
        raise MmjaxError(
            f"{size} pairs do not divide over the {mesh.shape[AXIS]} shards of the mesh's "
            f"{AXIS!r} axis; pad them to a multiple and mask the padding"
        )
    log_scale = jnp.asarray(logit_scale)
    if _visible(log_scale) and not np.isfinite(np.asarray(log_scale)):
        raise MmjaxError(f"contrastive loss: logit_scale is {log_scale}; expected a finite number")
    valid = jnp.ones(size, bool) if mask is None else mask.astype(bool)
    if positives is None and _visible(text) and _visible(valid):
        warn_duplicates([row.tobytes() for row in np.asarray(text)[np.asarray(valid)]], "texts")
    finite = jnp.isfinite(image).all(axis=1) & jnp.isfinite(text).all(axis=1)
    _refuse(~finite, "features are not finite numbers")
    weights = jnp.ones(size, jnp.float32) if weights is None else weights
    usable = jnp.isfinite(weights) & (weights >= 0)
    _refuse(valid & ~usable, "weights are negative or not finite numbers")
    weights = jnp.where(valid & usable, weights.astype(jnp.float32), 0.0)
    sound = finite.all()
    scale = jnp.exp(clamped(_shield(jnp.float32(logit_scale), sound)))
    return Pairs(
        image=_shield(image, sound),
        text=_shield(text, sound),
        valid=valid,
        ids=jnp.arange(size) if positives is None else positives,
        weights=_shield(weights, sound),
        scale=scale,
        bias=_shield(jnp.float32(bias), sound),
        sound=sound,
    )


@jax.custom_vjp
def _shield(x: Float[Array, "..."], sound: Bool[Array, ""]) -> Float[Array, "..."]:
    """The array itself; its gradient is 0 unless the batch is sound."""
    return x


_shield.defvjp(lambda x, sound: (x, sound), lambda sound, by_x: (jnp.where(sound, by_x, 0), None))


def _visible(x: Array) -> bool:
    """Whether there are values to look at: not in a traced array, nor in other processes' rows."""
    return not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True)


def _refuse(wrong: Bool[Array, " b"], what: str) -> None:
    """Raises where values can be seen."""
    if not _visible(wrong):
        return
    rows = np.flatnonzero(wrong)
    if len(rows):
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise MmjaxError(f"contrastive loss: {what} in {len(rows)} of {len(wrong)} pairs: {shown}")


def weigh(
    pairs: Pairs,
    loss: Float[Array, " b"],
    doubt: Float[Array, " b"],
    hard: PairWeighting | None,
) -> tuple[Float[Array, ""], PairLoss]:
    """The weighted mean over the global batch: 0 if nothing has a weight, NaN if unsound.

    Args:
      pairs: their weights multiply those of `hard`.
      loss: of each pair.
      doubt: 1 - the probability of each pair.
      hard: which pairs count more; None for all alike.

    Returns:
      (loss, what it is made of).
    """
    loss = jnp.where(pairs.valid, loss, 0.0)
    doubt = jax.lax.stop_gradient(jnp.where(pairs.valid, doubt, 1.0))
    detached = jax.lax.stop_gradient(pairs.weights)
    hardness = pair_weights(hard, jax.lax.stop_gradient(loss), doubt, detached)
    total = jnp.sum(pairs.weights)
    some = total > 0
    mean = jnp.sum(pairs.weights * hardness * loss) / jnp.where(some, total, 1.0)
    mean = jnp.where(pairs.sound, mean, jnp.nan)
    valid = pairs.valid.astype(jnp.float32)
    share = detached * hardness * jnp.sum(valid) / jnp.where(some, jnp.sum(detached), 1.0)
    return mean, PairLoss(loss, 1 - doubt, share, valid)


def warn_duplicates(ids: Sequence[Hashable], what: str = "captions") -> int:
    """Warns that a batch without `positives` takes equal captions or labels for negatives.

    Args:
      ids: what makes two pairs alike: the batch's captions or labels, on the host.
      what: their name, for the message.

    Returns:
      How many pairs have a twin before them in the batch.
    """
    twins = len(ids) - len(set(ids))
    if twins:
        logging.getLogger("mmjax").warning(
            "%d of %d %s in the batch are duplicates and count as negatives of each other; "
            "pass `positives` to the loss",
            twins,
            len(ids),
            what,
        )
    return twins
