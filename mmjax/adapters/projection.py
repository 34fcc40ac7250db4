"""Small heads that project frozen embeddings into a joint space."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class ProjectionHead(nn.Module):
    """Hidden layers with GELU, then a linear output; linear alone when `hidden` is empty.

    The input passes a LayerNorm without parameters first, so that towers of any scale meet the same
    initial values and the same noise.

    Attributes:
      hidden: widths of the hidden layers.
      out_dim: width of the output.
      dropout: rate on the input features and after every hidden layer.
      noise: standard deviation of Gaussian noise added to the input while training.
    """

    hidden: tuple[int, ...]
    out_dim: int
    dropout: float = 0.0
    noise: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], *, deterministic: bool = True
    ) -> Float[Array, "b e"]:
        """Projects features; noise and dropout only when not `deterministic` (rng `dropout`)."""
        x = nn.LayerNorm(use_scale=False, use_bias=False)(x)
        if self.noise and not deterministic:
            x = x + self.noise * jax.random.normal(self.make_rng("dropout"), x.shape, x.dtype)
        x = nn.Dropout(self.dropout)(x, deterministic=deterministic)
        for width in self.hidden:
            x = nn.gelu(nn.Dense(width)(x), approximate=False)
            x = nn.Dropout(self.dropout)(x, deterministic=deterministic)
        return nn.Dense(self.out_dim, name="out")(x)


def unit(x: Float[Array, "*b d"], epsilon: float = 1e-12) -> Float[Array, "*b d"]:
    """Divides each vector by its Euclidean length; zero vectors stay zero, with finite gradients."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), epsilon))
