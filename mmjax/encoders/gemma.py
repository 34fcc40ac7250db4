"""Gemma 3: a LLaMA with other norms and two kinds of layers, alone and behind a SigLIP tower."""

import re

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mmjax.encoders import llama
from mmjax.encoders.attention import PLAIN, Kernel
from mmjax.encoders.family import Family
from mmjax.encoders.gemma_config import GemmaConfig, gemma3_text_config
from mmjax.encoders.gemma_images import load_gemma_images
from mmjax.encoders.joined import Joined, among
from mmjax.encoders.layers import PRE_NORM_RULES, Dense, Dtype, Hook, PyTree
from mmjax.encoders.llama import Llama
from mmjax.encoders.llama_keys import decoder_heads
from mmjax.encoders.llava import ReadsPictures
from mmjax.encoders.llava_images import WORD
from mmjax.encoders.norms import RMSNorm
from mmjax.encoders.output import Inputs
from mmjax.encoders.siglip import SiglipVision
from mmjax.encoders.siglip_keys import vision_key_table
from mmjax.trees import Rules
from mmjax.weights.key_rules import COPY, KeyRule, rules_inside


class Gemma(ReadsPictures):
    """A Gemma 3 whose embeddings may come from pictures; see `llava.Llava`."""

    config: GemmaConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    hook: Hook | None = None  # of the decoder, as `Llama` takes it; so is `remat`
    remat: bool = False
    vision_hook: Hook | None = None  # of the image tower
    attend_by: Kernel = PLAIN  # in the decoder

    @nn.nowrap
    def decoder(self) -> Llama:
        """The decoder as a module of its own, with this one's hook."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        own = {"hook": self.hook, "remat": self.remat, "attend_by": self.attend_by}
        return Llama(self.config.text, **dtypes, **own)

    @nn.nowrap
    def largest(self) -> dict[str, jax.ShapeDtypeStruct]:
        """As `ReadsPictures.largest`: every picture is one square."""
        side, channels = self.config.vision.image_size, self.config.vision.num_channels
        return {"pixel_values": jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)}

    def setup(self) -> None:
        """Declares the parts."""
        config, dtypes = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.vision = SiglipVision(config.vision, **dtypes, hook=self.vision_hook)
        self.soft_norm = RMSNorm(config.vision.layer_norm_eps, **dtypes, offset=True)
        self.projector = Dense(config.hidden_size, use_bias=False, **dtypes)
        self.language_model = self.decoder()

    def __call__(
        self,
        input_ids: Int[Array, "b l"],
        attention_mask: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Float[Array, "b l d"]:
        """Hidden states of texts, as `Llama`'s."""
        if self.is_initializing():  # or the parts that pictures need would have no parameters
            side = self.config.vision.image_size
            self.read_tiles(jnp.zeros((1, side, side, self.config.vision.num_channels)))
        return self.language_model(input_ids, attention_mask, adapters)

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

    def join(
        self,
        words: Float[Array, "b l d"],
        inputs: Inputs,
        slots: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Joined:
        """As `ReadsPictures.join`; `pixel_values` [m, 1, h, w, 3] are m pictures."""
        tokens = self.read_tiles(inputs["pixel_values"][:, 0], adapters)
        return Joined(among(words, tokens, slots), together=slots != WORD)

    def mix(
        self,
        input_ids: Int[Array, "b l"],
        pixel_values: Float[Array, "t h w c"],
        places: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Float[Array, "b l d"]:
        """Embeddings of texts with pictures in them, which are not scaled as words are.

        Args:
          input_ids: int [b, l]; read where `places` is `WORD`.
          pixel_values: float [t, image_size, image_size, 3]: all pictures.
          places: int [b, l]: `WORD`, or 1 + the number of a token among the t * tokens_per_tile of
            all pictures.
          adapters: parameters for `vision_hook`.

        Returns:
          Float [b, l, d].
        """
        words = self.embed(input_ids)
        pictures = self.read_tiles(pixel_values, adapters).reshape(-1, self.config.hidden_size)
        return jnp.where(places[..., None] == WORD, words, pictures[jnp.maximum(places - 1, 0)])


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
    inner = llama.sharding(config.text)
    return (
        *((f"language_model/{p}", spec) for p, spec in inner if p != ".*"),
        *((f"vision/{p}", spec) for p, spec in PRE_NORM_RULES),
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
    "gemma3",
    "text",
    GemmaConfig.from_hf,
    Gemma,
    key_table,
    IGNORED,
    sharding,
    heads=decoder_heads,
    load_images=load_gemma_images,
)
