"""The symmetric contrastive loss of CLIP, in its dense form."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_LOGIT_SCALE = 4.605170185988092  # ln 100: CLIP's own clamp


def info_nce(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    logit_scale: Float[Array, ""],
    label_smoothing: float = 0.0,
) -> Float[Array, " b"]:
    """Symmetric InfoNCE over the global batch; pair i is (image i, text i).

    Dense: it makes the b x b logits. Under `jax.jit` with the batch split over the mesh it sees the
    global batch, so its value does not depend on the number of devices.

    Args:
      image: unit vectors.
      text: unit vectors.
      logit_scale: logarithm of the inverse temperature; clamped at ln 100.
      label_smoothing: share of the target spread evenly over the batch.

    Returns:
      (l_i(image->text) + l_i(text->image)) / 2 for every pair, f32.

    Source: CLIP (Radford et al., 2021), figure 3.
    """
    scale = jnp.exp(jnp.minimum(logit_scale, MAX_LOGIT_SCALE))
    logits = scale * jnp.einsum("id,jd->ij", image, text, preferred_element_type=jnp.float32)

    def cross_entropy(rows: Float[Array, "b b"]) -> Float[Array, " b"]:
        log_p = jax.nn.log_softmax(rows, axis=-1)
        hit = jnp.diagonal(log_p)
        return -(1 - label_smoothing) * hit - label_smoothing * log_p.mean(axis=-1)

    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2
