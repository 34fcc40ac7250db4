"""Choosing the next token from logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from mmjax.checks.arguments import whole
from mmjax.errors import MmjaxError, shown


class Sampling(NamedTuple):
    """Draw from the tokens that are likely enough.

    The numbers are arguments of the compiled program, so other values compile nothing new.

    Attributes:
      temperature: logits are divided by it; above 0 (`generate(..., sampling=None)` is greedy).
      top_k: only the k likeliest tokens; 0 takes all.
      top_p: only the likeliest tokens whose probabilities, before the last of them, sum to less
        than p; 1 takes all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def check(self) -> None:
        """Refuses numbers that choose nothing.

        Raises:
          MmjaxError: says which and what it may be.
        """
        if not _is_number(self.temperature) or not 1e-6 <= self.temperature <= 1e6:
            raise MmjaxError(
                f"temperature {shown(self.temperature)} must be above 0 and finite; sampling=None "
                "is greedy"
            )
        whole("top_k", self.top_k, 0)
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise MmjaxError(f"top_p {shown(self.top_p)} must be in (0, 1]")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def restrict(logits: Float[Array, "b v"], sampling: Sampling) -> Float[Array, "b v"]:
    """Tempered logits, minus infinity at the tokens that may not be drawn.

    Args:
      logits: float [b, v].
      sampling: temperature first, then top-k, then top-p among what is left.

    Returns:
      Float [b, v].

    Source:
      Holtzman et al. 2020, for top-p.
    """
    logits = logits / sampling.temperature
    cut = (jnp.asarray(sampling.top_k) > 0) | (jnp.asarray(sampling.top_p) < 1)
    # To sort a vocabulary may take longer than the model took to make its logits.
    return jax.lax.cond(cut, _likeliest, lambda logits, _: logits, logits, sampling)


def _likeliest(logits: Float[Array, "b v"], sampling: Sampling) -> Float[Array, "b v"]:
    """Top-k, then top-p."""
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    rank = jnp.arange(logits.shape[-1])[None]
    top_k = jnp.where(jnp.asarray(sampling.top_k) > 0, sampling.top_k, logits.shape[-1])
    ranked = jnp.where(rank < top_k, ranked, -jnp.inf)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The likeliest token always stays.
    ranked = jnp.where((before < sampling.top_p) | (rank == 0), ranked, -jnp.inf)
    return jnp.put_along_axis(jnp.zeros_like(logits), order, ranked, axis=-1, inplace=False)


def choose(
    logits: Float[Array, "b v"], sampling: Sampling | None, keys: Key[Array, "b"]
) -> tuple[Int[Array, "b"], Float[Array, "b"]]:
    """The next token of every row.

    Args:
      logits: float32 [b, v].
      sampling: None takes the likeliest token.
      keys: one a row, so that a row's draw does not depend on its neighbours.

    Returns:
      (int32 [b], float32 [b]): tokens, and their log-probabilities under the model itself, before
      temperature, top-k and top-p.
    """
    if sampling is None:
        tokens = jnp.argmax(logits, axis=-1)
    else:
        tokens = jax.vmap(jax.random.categorical)(keys, restrict(logits, sampling))
    return tokens.astype(jnp.int32), log_prob(logits, tokens)


def log_prob(logits: Float[Array, "*b v"], tokens: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Log-probabilities of given tokens, float32 [*b]."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
