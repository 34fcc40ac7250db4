"""SigLIP and SigLIP 2: two towers whose vectors are compared pair by pair, each by a sigmoid."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from mmjax.encoders import inserted
from mmjax.encoders.attention import Mask, attend
from mmjax.encoders.clip import TEXT_SHARDING
from mmjax.encoders.family import Family, always
from mmjax.encoders.layers import PRE_NORM_RULES, Dense, LayerNorm, PyTree, activation
from mmjax.encoders.modules import (
    EncoderModule,
    HookedModule,
    ImageTower,
    TextInputs,
    TextTower,
)
from mmjax.encoders.patches import COORDINATES, load_patch_preprocess
from mmjax.encoders.siglip_config import (
    SiglipTextConfig,
    SiglipVisionConfig,
    load_siglip_text,
    naflex_config,
    vision_config,
)
from mmjax.encoders.siglip_keys import (
    TEXT_IGNORED,
    VISION_IGNORED,
    text_key_table,
    vision_key_table,
)
from mmjax.encoders.vision import check_pixels, cut_patches
from mmjax.errors import MmjaxError


class SiglipText(TextTower, HookedModule):
    """Token ids to hidden states; every text is read with its padding, as it was trained."""

    config: SiglipTextConfig

    @nn.compact
    def encode(self, texts: TextInputs, adapters: PyTree) -> Float[Array, "b l d"]:
        """Hidden states after the last norm, float [b, l, d].

        Sows the last position's projection as the embedding. Behind a text's tokens stands padding,
        up to the length that the model was trained with, whatever l is.

        Source:
          Zhai et al. 2023 (SigLIP).
        """
        config, dtypes = self.config, self.dtypes
        input_ids, attention_mask, input_embeddings = texts
        (b, l), d = input_ids.shape, config.hidden_size
        if l > config.max_length:
            raise MmjaxError(f"texts of {l} tokens; this encoder reads {config.max_length}")
        table = nn.Embed(config.vocab_size, d, **dtypes, name="token_embeddings")
        real = attention_mask.astype(bool)
        x = table(jnp.where(real, input_ids, config.pad_token_id))
        if input_embeddings is not None:
            x = jnp.where(real[..., None], input_embeddings.astype(self.dtype), x)
        padding = table(jnp.full((1, 1), config.pad_token_id))
        padding = jnp.broadcast_to(padding, (b, config.max_length - l, d))
        positions = self.table("position_embeddings", config.max_length, d)
        x = jnp.concatenate([x, padding], axis=1) + positions[None].astype(self.dtype)
        x, _, adapters = inserted.insert(self.hook, adapters, x, None, 0)
        x, _ = self.pre_norm_layers()(x, None, adapters)
        x = inserted.remove(self.hook, x, 0)
        x = LayerNorm(config.layer_norm_eps, **dtypes, name="norm")(x)
        project = Dense(config.projection_dim, **dtypes, name="projection")
        self.sow("intermediates", "pooled", project(x[:, -1]))
        return x[:, :l]


class AttentionPoolingHead(EncoderModule):
    """One learnt query attends to all tokens; then a feed-forward part."""

    config: SiglipVisionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "b l"] | None
    ) -> Float[Array, "b d"]:
        """Pools.

        Args:
          x: float [b, l, d].
          mask: bool [b, l], true at tokens that may be read; None reads all.

        Returns:
          Float [b, d].
        """
        config, dtypes, (b, _, d) = self.config, self.dtypes, x.shape
        head = d // config.num_heads

        def heads(name: str, x: Float[Array, "b k d"]) -> Float[Array, "b h k c"]:
            y = Dense(d, **dtypes, name=name)(x)
            return y.reshape(len(x), -1, config.num_heads, head).swapaxes(1, 2)

        probe = self.table("probe", d).astype(self.dtype)
        query = heads("query", probe[None, None])
        query = jnp.broadcast_to(query, (b, *query.shape[1:]))
        mixed = attend(query, [heads("key", x)], [heads("value", x)], Mask(readable=mask))
        pooled = Dense(d, **dtypes, name="out")(mixed.reshape(b, d))
        hidden = LayerNorm(config.layer_norm_eps, **dtypes, name="norm")(pooled)
        hidden = Dense(config.intermediate_size, **dtypes, name="fc1")(hidden)
        return pooled + Dense(d, **dtypes, name="fc2")(activation(config.hidden_act)(hidden))


class SiglipVision(ImageTower, HookedModule):
    """Pictures to one token a patch, row by row, without a class token."""

    config: SiglipVisionConfig

    @nn.compact
    def encode(self, pixels: Float[Array, "b ..."], adapters: PyTree) -> Float[Array, "b l d"]:
        """Hidden states after the last norm, float [b, l, d].

        Sows the attention pool's vector as the embedding. NaFlex reads patches
        [b, l, patch_size * patch_size * 3 + 4] as `patches.PatchPreprocess` cuts them.

        Source:
          Zhai et al. 2023 (SigLIP); Tschannen et al. 2025 (SigLIP 2).
        """
        config, dtypes = self.config, self.dtypes
        d, p, c = config.hidden_size, config.patch_size, config.num_channels
        width, mask = p * p * c, None
        positions = self.table("position_embeddings", config.num_patches, d)
        if config.naflex:
            expected = (width + COORDINATES,)
            check_pixels(pixels.shape[2:], expected)
            patches, coordinates = pixels[..., :width], pixels[..., width:]
            mask = coordinates[..., 2] > 0
            positions = resized(positions, coordinates).astype(self.dtype)
        else:
            side = config.image_size
            check_pixels(pixels.shape[1:], (side, side, c))
            patches = cut_patches(pixels, p)
            positions = positions.astype(self.dtype)[None]
        kernel = self.param(
            "patch_kernel", nn.initializers.lecun_normal(), (p, p, c, d), self.param_dtype
        )
        bias = self.param("patch_bias", nn.initializers.zeros, (d,), self.param_dtype)
        x = patches.astype(self.dtype) @ kernel.reshape(width, d).astype(self.dtype)
        x = x + bias.astype(self.dtype)[None, None] + positions
        real = None if mask is None else mask.astype(jnp.int32)
        x, real, adapters = inserted.insert(self.hook, adapters, x, real, 0)
        readable = None if real is None else real.astype(bool)
        x, _ = self.pre_norm_layers()(x, readable, adapters)
        x = inserted.remove(self.hook, x, 0)
        x = LayerNorm(config.layer_norm_eps, **dtypes, name="norm")(x)
        if config.pool_head:
            pooled = AttentionPoolingHead(config, **dtypes, name="head")(x, mask)
        else:  # what stands alone in front of a language model
            weights = jnp.ones(x.shape[:2]) if mask is None else mask.astype(jnp.float32)
            weights = weights / weights.sum(1, keepdims=True)
            pooled = jnp.einsum("bl,bld->bd", weights, x.astype(jnp.float32))
        self.sow("intermediates", "pooled", pooled)
        if mask is not None:
            self.sow("intermediates", "mask", mask.astype(jnp.int32))
        return x


def resized(
    table: Float[Array, "n d"], coordinates: Float[Array, "b l 4"]
) -> Float[Array, "b l d"]:
    """Positions of patches in grids of any size, between those of a square table.

    Args:
      table: float [n, d], rows of a square grid.
      coordinates: of every patch its row, its column, and the rows and columns of its picture; 0
        rows at padding.

    Returns:
      Float32 [b, l, d]: bilinear, widened when shrinking; at padding those of the first patch.

    Source:
      Tschannen et al. 2025 (SigLIP 2, section 2.4.2).
    """
    side = round(len(table) ** 0.5)

    def weights(at: Float[Array, "b l"], size: Float[Array, "b l"]) -> Float[Array, "b l s"]:
        scale = side / jnp.maximum(size, 1)
        centre = (at + 0.5) * scale - 0.5
        off = jnp.abs(jnp.arange(side, dtype=jnp.float32)[None, None] - centre[..., None])
        near = jnp.maximum(1 - off / jnp.maximum(scale, 1)[..., None], 0)
        return near / near.sum(-1, keepdims=True)

    coordinates = coordinates.astype(jnp.float32)
    real = coordinates[..., 2:3] > 0
    # Padding takes the place of its picture's first patch: nothing reads it.
    size = jnp.where(real, coordinates[..., 2:], coordinates[:, :1, 2:])
    rows = weights(coordinates[..., 0], size[..., 0])
    columns = weights(coordinates[..., 1], size[..., 1])
    grid = table.astype(jnp.float32).reshape(side, side, -1)
    return jnp.einsum("bli,blj,ijd->bld", rows, columns, grid, precision="highest")


_HEADLESS_SHARDING = (*PRE_NORM_RULES, (r".*", P()))


def vision_sharding(config: SiglipVisionConfig) -> tuple[tuple[str, P], ...]:
    """Who holds what: as other transformers, and the head's maps alike."""
    if not config.pool_head:
        return _HEADLESS_SHARDING
    return (
        *PRE_NORM_RULES,
        (r"head/(query|key|value|fc1)/kernel", P(None, "model")),
        (r"head/(query|key|value|fc1)/bias", P("model")),
        (r"head/(out|fc2)/kernel", P("model", None)),
        (r".*", P()),
    )


SIGLIP_TEXT = Family(
    "siglip", "text", SiglipTextConfig.from_hf, SiglipText, text_key_table, TEXT_IGNORED,
    always(TEXT_SHARDING), pools=True, load_text=load_siglip_text,
)  # fmt: skip
SIGLIP_IMAGE = Family(
    "siglip", "image", vision_config, SiglipVision, vision_key_table, VISION_IGNORED,
    vision_sharding, pools=True,
)  # fmt: skip
SIGLIP = SIGLIP_TEXT, SIGLIP_IMAGE
SIGLIP2_IMAGE = dataclasses.replace(
    SIGLIP_IMAGE, config=naflex_config, load_images=load_patch_preprocess
)
SIGLIP2 = SIGLIP_TEXT, SIGLIP2_IMAGE
