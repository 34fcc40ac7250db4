"""Losses of several members of an ensemble, each on its own."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mmjax.losses.contrastive import info_nce
from mmjax.losses.pairs import PairLoss
from mmjax.losses.temperature import temperature
from mmjax.metrics import Metrics, mean_of


def member_info_nce(
    image: Float[Array, "m b e"],
    text: Float[Array, "m b e"],
    logit_scale: Float[Array, ""],
    captions: Int[Array, " b"],
    label_smoothing: float,
    mesh: Mesh | None,
) -> tuple[Float[Array, ""], PairLoss]:
    """Symmetric InfoNCE of every member on its own, averaged over members.

    Args:
      image: unit vectors.
      text: the same.
      logit_scale: logarithm of the inverse temperature.
      captions: equal ones are the same text, hence positives of each other.
      label_smoothing: share of the target spread over the batch.
      mesh: as of `info_nce`.

    Returns:
      (scalar, what each pair counted).
    """
    losses = [
        info_nce(
            *pair,
            logit_scale,
            positives=captions,
            label_smoothing=label_smoothing,
            mesh=mesh,
        )
        for pair in zip(image, text, strict=True)
    ]
    return jax.tree.map(lambda *each: jnp.stack(each).mean(axis=0), *losses)


def reported(pairs: PairLoss, logit_scale: Float[Array, ""]) -> Metrics:
    """What is told of a `member_info_nce`: its loss, probability and temperature."""
    return {
        "contrastive": mean_of(pairs.loss),
        "probability": mean_of(pairs.probability),
        "temperature": mean_of(temperature(logit_scale)[None]),
    }
