"""The language adapter: linear, one or two transformer layers, linear.

Source: the talk's language adaptation as formulated from M-CLIP (Carlsson et al., LREC 2022: masked
mean pooling, one linear map to CLIP's width) and AltCLIP (arXiv 2211.06679).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.adapters.projection import Standardize


def masked_mean(x: Float[Array, "b l d"], mask: Bool[Array, "b l"]) -> Float[Array, "b d"]:
    """Mean over the tokens that the mask keeps; zeros where it keeps none."""
    weights = mask.astype(x.dtype)[..., None]
    return (x * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)


class PooledMap(nn.Module):
    """From a mean token to the target space: a linear map and, if `hidden`, a GELU layer beside it.

    Attributes:
      out_dim: width of the target space.
      hidden: width of the GELU layer; 0 for a linear map alone.
      input_dropout: rate on the mean token.
      dropout: rate after the GELU layer.
    """

    out_dim: int
    hidden: int
    input_dropout: float
    dropout: float

    @nn.compact
    def __call__(self, mean: Float[Array, "b d"], *, deterministic: bool) -> Float[Array, "b e"]:
        """Returns one un-normalised vector a text."""
        mean = nn.Dropout(self.input_dropout)(mean, deterministic=deterministic)
        mapped = nn.Dense(self.out_dim, name="linear")(mean)
        if self.hidden:
            y = nn.gelu(nn.Dense(self.hidden, name="hidden")(mean), approximate=False)
            y = nn.Dropout(self.dropout)(y, deterministic=deterministic)
            mapped = mapped + nn.Dense(self.out_dim, name="hidden_out")(y)
        return mapped


class PooledMaps(nn.Module):
    """Independent `PooledMap`s of one mean token, their outputs stacked in front.

    Attributes: as of `PooledMap`, and
      members: how many.
    """

    members: int
    out_dim: int
    hidden: int
    input_dropout: float
    dropout: float

    @nn.compact
    def __call__(self, mean: Float[Array, "b d"], *, deterministic: bool) -> Float[Array, "m b e"]:
        """Returns every member's un-normalised vector of a text."""
        sizes = self.out_dim, self.hidden, self.input_dropout, self.dropout
        members = [PooledMap(*sizes, name=f"member_{i}") for i in range(self.members)]
        return jnp.stack([member(mean, deterministic=deterministic) for member in members])


class TransformerLayer(nn.Module):
    """One pre-LayerNorm transformer layer: self-attention, then a GELU feed-forward part.

    Attributes:
      num_heads: attention heads.
      mlp_ratio: hidden width of the feed-forward part over the layer's width.
      dropout: rate after attention and inside and after the feed-forward part.
    """

    num_heads: int
    mlp_ratio: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "b l"], *, deterministic: bool
    ) -> Float[Array, "b l d"]:
        """Applies the layer; masked tokens are never attended to."""
        b, length, d = x.shape
        split = (b, length, self.num_heads, d // self.num_heads)
        y = nn.LayerNorm(name="attention_norm")(x)
        # Plain 2-D kernels, so that LoRA-like adapters and quantisers find them.
        q, k, v = (nn.Dense(d, name=n)(y).reshape(split) for n in ("query", "key", "value"))
        y = nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :]).reshape(x.shape)
        y = nn.Dense(d, name="attention_out")(y)
        x = x + nn.Dropout(self.dropout, broadcast_dims=(1,))(y, deterministic=deterministic)
        y = nn.LayerNorm(name="mlp_norm")(x)
        y = nn.gelu(nn.Dense(d * self.mlp_ratio, name="mlp_in")(y), approximate=False)
        y = nn.Dropout(self.dropout, broadcast_dims=(1,))(y, deterministic=deterministic)
        y = nn.Dense(d, name="mlp_out")(y)
        return x + nn.Dropout(self.dropout, broadcast_dims=(1,))(y, deterministic=deterministic)


class LanguageAdapter(nn.Module):
    """Maps the token outputs of a frozen foreign encoder into a frozen text space.

    Attributes:
      out_dim: width of the target space.
      width: width of the transformer layers.
      num_layers: transformer layers (1-2 in the talk).
      num_heads: attention heads.
      mlp_ratio: feed-forward width over `width`.
      dropout: rate in the layers and before the output.
      input_dropout: rate on the standardised tokens.
      skip: adds a `PooledMap` of the mean standardised token, so that the layers only learn what it
        cannot.
      skip_hidden: width of that map's GELU layer.
      members: independent copies of that map, each of which makes an output of its own.
    """

    out_dim: int
    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: int
    dropout: float
    input_dropout: float = 0.0
    skip: bool = False
    skip_hidden: int = 0
    members: int = 1

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b l d"], mask: Bool[Array, "b l"], *, deterministic: bool = True
    ) -> Float[Array, "m b e"]:
        """Returns every member's un-normalised vector of a text; their mean is the embedding."""
        tokens = Standardize(name="standardize")(tokens, mask)
        x = nn.Dropout(self.input_dropout, broadcast_dims=(1,))(tokens, deterministic=deterministic)
        x = nn.Dense(self.width, name="in")(x)
        for i in range(self.num_layers):
            layer = TransformerLayer(
                self.num_heads, self.mlp_ratio, self.dropout, name=f"layer_{i}"
            )
            x = layer(x, mask, deterministic=deterministic)
        x = masked_mean(nn.LayerNorm(name="norm")(x), mask)
        x = nn.Dropout(self.dropout)(x, deterministic=deterministic)
        x = nn.Dense(self.out_dim, name="out")(x)[None]
        if not self.skip:
            return x
        sizes = self.out_dim, self.skip_hidden, self.input_dropout, self.dropout
        skip = PooledMaps(self.members, *sizes, name="skip")
        return x + skip(masked_mean(tokens, mask), deterministic=deterministic)


class PooledAdapter(nn.Module):
    """The baseline without transformer: the mean standardised token through `PooledMap`s.

    Attributes: as of `PooledMap`, and
      members: independent copies, each of which makes an output of its own.
    """

    out_dim: int
    hidden: int = 0
    input_dropout: float = 0.0
    dropout: float = 0.0
    members: int = 1

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b l d"], mask: Bool[Array, "b l"], *, deterministic: bool = True
    ) -> Float[Array, "m b e"]:
        """Returns every member's un-normalised vector of a text; their mean is the embedding."""
        mean = masked_mean(Standardize(name="standardize")(tokens, mask), mask)
        sizes = self.out_dim, self.hidden, self.input_dropout, self.dropout
        maps = PooledMaps(self.members, *sizes, name="map")
        return maps(mean, deterministic=deterministic)
