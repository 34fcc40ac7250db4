"""Normalisation that is not flax's own; its LayerNorm stands in `layers.py`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Dtype = Any


class RMSNorm(nn.Module):
    """Scales by the root mean square, computed in float32.

    Unlike flax's it rounds to `dtype` before it multiplies by the scale, as the original does: in
    bfloat16 a quarter of all values would else be another one than there. Gemma's, with `offset`,
    multiplies by 1 + the scale, and rounds after that.
    """

    epsilon: float
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    offset: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalises the last axis.

        Args:
          x: float [*b, d].

        Returns:
          Float [*b, d] in `dtype`.

        Source:
          Zhang and Sennrich 2019; Gemma Team 2025 (Gemma 3) for the offset.
        """
        first = nn.initializers.zeros if self.offset else nn.initializers.ones
        scale = self.param("scale", first, (x.shape[-1],), self.param_dtype)
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        if self.offset:
            return (x * (1 + scale.astype(jnp.float32))).astype(self.dtype)
        return x.astype(self.dtype) * scale.astype(self.dtype)
