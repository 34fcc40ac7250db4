"""Gemma 3: a LLaMA with other norms and two kinds of layers, alone and behind a SigLIP tower."""

import re
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mmjax.encoders import llama
from mmjax.encoders.attention import PLAIN, Kernel
from mmjax.encoders.family import Family, inside
from mmjax.encoders.gemma_config import GemmaConfig, gemma3_text_config
from mmjax.encoders.gemma_images import load_gemma_images
from mmjax.encoders.layers import PRE_NORM_RULES, Dense, PyTree
from mmjax.encoders.llama import Llama
from mmjax.encoders.llama_keys import decoder_heads
from mmjax.encoders.llava import MixesPictures
from mmjax.encoders.norms import RMSNorm
from mmjax.encoders.output import Inputs
from mmjax.encoders.siglip import SiglipVision
from mmjax.encoders.siglip_keys import vision_key_table
from mmjax.trees import Rules
from mmjax.weights.key_rules import COPY, KeyRule, rules_inside


class Gemma(MixesPictures):
    """A Gemma 3 whose embeddings may come from pictures; see `llava.Llava`."""

    config: GemmaConfig
    attend_by: Kernel = PLAIN  # in the decoder

    together: ClassVar[bool] = True

    @nn.nowrap
    def largest(self) -> dict[str, jax.ShapeDtypeStruct]:
        """As `ReadsPictures.largest`: every picture is one square."""
        side, channels = self.config.vision.image_size, self.config.vision.num_channels
        return {"pixel_values": jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)}

    def setup(self) -> None:
        """Declares the parts."""
        config, dtypes = self.config, self.dtypes
        self.vision = SiglipVision(config.vision, **dtypes, hook=self.vision_hook)
        self.soft_norm = RMSNorm(config.vision.layer_norm_eps, **dtypes, offset=True)
        self.projector = Dense(config.hidden_size, use_bias=False, **dtypes)
        self.language_model = self.decoder()

    def read_tiles(
        self, pixel_values: Float[Array, "t h w c"], adapters: PyTree = None
    ) -> Float[Array, "t n d"]:
        """Embeddings of pictures, each token the mean of a square of patches.

        Args:
          pixel_values: float [t, image_size, image_size, 3], normalised.
          adapters: parameters for `vision_hook`; leaves [layers, ...].

        Returns:
          Float [t, tokens_per_tile, d] in `dtype`.

        Source:
          Gemma Team 2025 (Gemma 3, section 2.1).
        """
        hidden = self.vision(pixel_values, adapters)
        t, _, d = hidden.shape
        side, pool = self.config.grid, (self.config.pooled, self.config.pooled)
        means = nn.avg_pool(hidden.reshape(t, side, side, d), pool, pool).reshape(t, -1, d)
        return self.projector(self.soft_norm(means))

    def read_each(self, inputs: Inputs, adapters: PyTree = None) -> Float[Array, "m n d"]:
        """As `MixesPictures.read_each`; `pixel_values` [m, 1, h, w, 3] are m pictures."""
        return self.read_tiles(inputs["pixel_values"][:, 0], adapters)


def key_table(config: GemmaConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Gemma`.

    On the hub names begin with `language_model.model.` and `vision_tower.vision_model.`;
    transformers 5 has `model.` in front, and not the inner names.

    Args:
      config: says which norms there are, and which table of positions.

    Returns:
      The rules.
    """
    top = r"(?:model\.)?"
    projector = top + r"multi_modal_projector\.mm_"
    return (
        *rules_inside(
            llama.key_table(config.text), rf"{top}(?:language_model\.)?", "language_model"
        ),
        *rules_inside(vision_key_table(config.vision), rf"{top}vision_tower\.", "vision"),
        KeyRule(projector + r"soft_emb_norm\.weight", "soft_norm/scale", COPY),
        KeyRule(projector + r"input_projection_weight", "projector/kernel", COPY),
    )


# Buffers, a tied head, and a pooling head of the image tower, which the decoder does not read.
IGNORED = re.compile(
    r".*rotary_emb\..*inv_freq|(.*\.)?lm_head\.weight|(.*\.)?embed_scale|.*\.position_ids"
    r"|(model\.)?vision_tower\.(vision_model\.)?head\..*"
)


def sharding(config: GemmaConfig) -> Rules:
    """Who holds what: both towers' own rules, and the projector's input over `model`.

    Args:
      config: says which maps there are.

    Returns:
      (anchored pattern, PartitionSpec) pairs.
    """
    return (
        *inside("language_model", llama.sharding(config.text)),
        *inside("vision", PRE_NORM_RULES),
        ("projector/kernel", P("model", None)),
        (".*", P()),
    )


GEMMA3_TEXT = Family(
    "gemma3_text",
    "text",
    gemma3_text_config,
    Llama,
    llama.key_table,
    IGNORED,
    llama.sharding,
    heads=llama.heads,
)
GEMMA3 = Family(
    "gemma3", "text", GemmaConfig.from_hf, Gemma, key_table, IGNORED, sharding,
    heads=decoder_heads, load_images=load_gemma_images,
)  # fmt: skip
