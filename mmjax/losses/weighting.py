"""Which pairs, and which negatives, a contrastive loss should look at hardest."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.errors import MmjaxError


@dataclass(frozen=True)
class Focal:
    """Weights a pair by (1 - p)^gamma; `gamma` 0 weights all alike.

    Source: focal loss (Lin et al., 2017), equation 4, on the pair's softmax probability.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        """Refuses exponents that would favour easy pairs."""
        if not self.gamma >= 0:
            raise MmjaxError(f"Focal: gamma must be at least 0, not {self.gamma}")

    def log_weights(
        self, loss: Float[Array, " b"], doubt: Float[Array, " b"]
    ) -> Float[Array, " b"]:
        """Logarithms of un-normalised weights."""
        # A pair without any doubt still needs a finite logarithm.
        return self.gamma * jnp.log(jnp.maximum(doubt, jnp.finfo(jnp.float32).tiny))


@dataclass(frozen=True)
class LossSoftmax:
    """Weights a pair by exp(loss / temperature), a softmax over the batch."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuses temperatures that are no temperatures."""
        if not self.temperature > 0:
            raise MmjaxError(f"LossSoftmax: temperature must be above 0, not {self.temperature}")

    def log_weights(
        self, loss: Float[Array, " b"], doubt: Float[Array, " b"]
    ) -> Float[Array, " b"]:
        """Logarithms of un-normalised weights."""
        return loss / self.temperature


PairWeighting = Focal | LossSoftmax


@dataclass(frozen=True)
class HardNegatives:
    """Counts a negative in proportion to exp(beta * logit), corrected for false negatives.

    Attributes:
      beta: concentration on hard negatives; 0 counts all alike.
      tau_plus: assumed share of false negatives among the negatives, at least 0 and below 1.

    Source: HCL (Robinson et al., ICLR 2021), equation 4, per direction with the b - 1 other pairs
      as negatives.
    """

    beta: float = 0.0
    tau_plus: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values outside the method's range."""
        if not (self.beta >= 0 and 0 <= self.tau_plus < 1):
            raise MmjaxError(
                f"HardNegatives: needs beta >= 0 and 0 <= tau_plus < 1, not beta={self.beta}, "
                f"tau_plus={self.tau_plus}"
            )


def pair_weights(
    hard: PairWeighting | None,
    loss: Float[Array, " b"],
    doubt: Float[Array, " b"],
    weights: Float[Array, " b"],
) -> Float[Array, " b"]:
    """Weights of hard pairs, scaled so that their mean over the global batch is 1.

    Args:
      hard: how; None weights all alike.
      loss: of each pair.
      doubt: 1 - the probability of each pair, which knows small values better than p itself.
      weights: how much each pair counts in that mean; 0 for padding.

    Returns:
      f32 weights with sum(weights * result) == sum(weights). No gradient flows through them.
    """
    if hard is None:
        return jnp.ones_like(loss)
    log_weights = hard.log_weights(loss, doubt)
    # Subtracting the largest one changes nothing once the mean is 1, and nothing overflows.
    log_weights -= jnp.max(log_weights, where=weights > 0, initial=-jnp.inf)
    relative = jnp.where(weights > 0, jnp.exp(log_weights), 0.0)
    total = jnp.sum(relative * weights)
    scaled = relative * jnp.sum(weights) / jnp.where(total > 0, total, 1.0)
    return jax.lax.stop_gradient(scaled)
