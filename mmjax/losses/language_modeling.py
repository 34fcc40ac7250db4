"""Next-token losses on chosen positions, as sums and counts of tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.metrics import Mean


def answer_hidden(
    hidden: Float[Array, "b l d"], columns: Int[Array, "b a"]
) -> Float[Array, "b a d"]:
    """The hidden states from which answers are predicted, so that no other position gets logits.

    Args:
      hidden: float [b, l, d].
      columns: int [b, a]: for each answer token the column before it.

    Returns:
      Float [b, a, d].
    """
    return jnp.take_along_axis(hidden, columns[..., None], axis=1)


def next_token(
    logits: Float[Array, "b a v"], labels: Int[Array, "b a"], weights: Float[Array, "b a"]
) -> tuple[Mean, Mean]:
    """Cross-entropy and accuracy over tokens.

    Args:
      logits: float32 [b, a, v].
      labels: int [b, a].
      weights: float32 [b, a]; 1 at a token that counts, 0 at padding.

    Returns:
      (loss, accuracy), each a sum over tokens and their number: dividing once, after batches and
      micro-batches were added up, gives every token the same weight.
    """
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    count = weights.sum()
    return Mean((losses * weights).sum(), count), Mean((right * weights).sum(), count)
