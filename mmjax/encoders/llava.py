"""LLaVA-1.5 and LLaVA-NeXT: CLIP's image tower, a projector, and a LLaMA that reads both."""

import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mmjax.encoders import clip, llama
from mmjax.encoders.attention import PLAIN, Kernel
from mmjax.encoders.family import Family, inside
from mmjax.encoders.joined import Joined, among
from mmjax.encoders.layers import Dense, Hook, PyTree, activation
from mmjax.encoders.llama import KeyValues, Llama
from mmjax.encoders.llava_config import LlavaConfig
from mmjax.encoders.llava_images import WORD
from mmjax.encoders.modules import HookedModule
from mmjax.encoders.output import Inputs
from mmjax.encoders.vision import SHARDING as VISION_SHARDING
from mmjax.encoders.vision import VisionTransformer
from mmjax.errors import MmjaxError
from mmjax.trees import Rules
from mmjax.weights.key_rules import COPY, KeyRule, dense_rules, rules_inside


class ReadsPictures(HookedModule):
    """A LLaMA beside an image tower: alone it reads texts like the `Llama` in it.

    `setup` of a class below makes `language_model`, of `decoder`, `vision` and the projector. One
    that knows several kernels has the field `attend_by` too.

    Attributes:
      config: a `VisionLanguageConfig`.
      hook: of the decoder, as `Llama` takes it; so is `remat`.
      remat: as `Llama.remat`.
      vision_hook: of the image tower.
      packs: whether a row of what the image tower reads may hold several pictures.
      inserts: whether an adapter's own tokens have a place in the image tower.
    """

    remat: bool = False
    vision_hook: Hook | None = None

    packs: ClassVar[bool] = False
    inserts: ClassVar[bool] = False

    @nn.nowrap
    def decoder(self) -> Llama:
        """The decoder as a module of its own, with this one's hook."""
        return Llama(self.config.text, **self.of_decoder)

    @property
    def of_decoder(self) -> dict[str, Any]:
        """What the decoder is made with beside its config."""
        kernel = getattr(self, "attend_by", PLAIN)
        return {**self.hooked, "remat": self.remat, "attend_by": kernel}

    @nn.nowrap
    def largest(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What the image tower reads of a picture at most; see `PictureReader.inputs`.

        Raises:
          MmjaxError: of a family whose pictures are not trained on.
        """
        kind = type(self).__name__
        raise MmjaxError(
            f"a {kind} is not trained on pictures yet; a Llava, QwenVl, Gemma or Mllama is"
        )

    @nn.nowrap
    def blank(self) -> tuple[jax.Array, ...]:
        """A picture with nothing on it, as small as can be, as `read_tiles` takes it."""
        largest = self.largest().values()
        return tuple(jnp.zeros((1, *one.shape[1:]), one.dtype) for one in largest)

    def __call__(
        self,
        input_ids: Int[Array, "b l"],
        attention_mask: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Float[Array, "b l d"]:
        """Hidden states of texts, as `Llama`'s."""
        if self.is_initializing():  # or the parts that pictures need would have no parameters
            self.read_tiles(*self.blank())
        return self.language_model(input_ids, attention_mask, adapters)

    def join(
        self,
        words: Float[Array, "b l d"],
        inputs: Inputs,
        slots: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Joined:
        """What the decoder reads of words with their pictures, for training.

        Args:
          words: float [b, l, d]: embeddings of the texts' tokens.
          inputs: of m pictures, `PictureReader.inputs` of each; rows are as for `among`.
          slots: int [b, l]: of `PictureTokens.places` the one that stands here, or `WORD`.
          adapters: parameters for `vision_hook`.
        """
        return self.joined(words, slots, self.read_each(inputs, adapters))

    def read_each(self, inputs: Inputs, adapters: PyTree = None) -> Any:
        """What `joined` takes of m pictures, each by itself; arguments as of `join`."""
        raise NotImplementedError

    def joined(
        self, words: Float[Array, "b l d"], slots: Int[Array, "b l"], pictures: Any
    ) -> Joined:
        """What `join` returns, of pictures that `read_each` has read."""
        raise NotImplementedError

    def embed(self, input_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Looks up word embeddings, float [b, l, d]."""
        return self.language_model.embed(input_ids)

    def extend(self, *arguments: Any, **named: Any) -> tuple[Float[Array, "b l d"], KeyValues]:
        """As `Llama.extend`."""
        return self.language_model.extend(*arguments, **named)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """As `Llama.logits`."""
        return self.language_model.logits(hidden)


class MixesPictures(ReadsPictures):
    """One whose decoder reads pictures' tokens among the words, as embeddings.

    Attributes:
      together: whether the tokens of a picture read one another, whatever their order.
    """

    together: ClassVar[bool] = False

    def read_tiles(
        self, pixel_values: Float[Array, "t ..."], /, adapters: PyTree = None
    ) -> Float[Array, "t n d"]:
        """Embeddings of pictures.

        Args:
          pixel_values: what the image tower reads; see the family's own.
          adapters: parameters for `vision_hook`; leaves [layers that are read, ...].

        Returns:
          Float [t, n, d] in `dtype`.
        """
        raise NotImplementedError

    def read_each(self, inputs: Inputs, adapters: PyTree = None) -> Float[Array, "m n d"]:
        """The tokens of m pictures by themselves, as `PictureTokens.places` counts them.

        Args:
          inputs: `PictureReader.inputs` of each.
          adapters: parameters for `vision_hook`.
        """
        return self.read_tiles(inputs["pixel_values"], adapters)

    def joined(
        self,
        words: Float[Array, "b l d"],
        slots: Int[Array, "b l"],
        pictures: Float[Array, "m n d"],
    ) -> Joined:
        """As `ReadsPictures.joined`: the tokens of each picture among its words."""
        embeddings = among(words, pictures, slots)
        return Joined(embeddings, together=slots != WORD if self.together else None)

    def mix(
        self,
        input_ids: Int[Array, "b l"],
        pixel_values: Float[Array, "t ..."],
        places: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Float[Array, "b l d"]:
        """Embeddings of texts with pictures in them.

        Args:
          input_ids: int [b, l]; read where `places` is `WORD`.
          pixel_values: all pictures, as `read_tiles` takes them.
          places: int [b, l]: `WORD`, of a LLaVA-NeXT `NEWLINE`, or 1 + the number of a token among
            the t * n of all pictures.
          adapters: parameters for `vision_hook`.

        Returns:
          Float [b, l, d].
        """
        words = self.embed(input_ids)
        tokens = self.read_tiles(pixel_values, adapters).reshape(-1, self.config.hidden_size)
        return jnp.where(places[..., None] == WORD, words, self.placed(tokens, places))

    def placed(
        self, tokens: Float[Array, "n d"], places: Int[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        """Pictures' tokens where they stand, by `mix`'s places; anything where words do."""
        return tokens[jnp.maximum(places - 1, 0)]


class Llava(MixesPictures):
    """A LLaMA whose embeddings may come from pictures.

    Alone it reads texts like the `Llama` in it: `embed`, `extend` and `logits` are that one's.
    `mix` makes embeddings of words and pictures.
    """

    config: LlavaConfig
    attend_by: Kernel = PLAIN  # in both towers

    inserts: ClassVar[bool] = True

    @nn.nowrap
    def largest(self) -> dict[str, jax.ShapeDtypeStruct]:
        """As `ReadsPictures.largest`."""
        vision, sizes = self.config.vision, self.config.pinpoints
        side = vision.image_size
        tiles = 1 + max((h * w // side**2 for h, w in sizes), default=0)
        shape = tiles, side, side, vision.num_channels
        return {"pixel_values": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def setup(self) -> None:
        """Declares the parts."""
        config, dtypes, width = self.config, self.dtypes, self.config.hidden_size
        self.vision = VisionTransformer(
            config.vision, **dtypes, hook=self.vision_hook, attend_by=self.attend_by
        )
        self.linear_1 = Dense(width, config.projector_bias, **dtypes)
        self.linear_2 = Dense(width, config.projector_bias, **dtypes)
        if config.pinpoints:
            self.image_newline = self.param(
                "image_newline", nn.initializers.normal(width**-0.5), (width,), self.param_dtype
            )
        self.language_model = self.decoder()

    def read_tiles(
        self, pixel_values: Float[Array, "t h w c"], adapters: PyTree = None
    ) -> Float[Array, "t n d"]:
        """Embeddings of tiles, each a square of the image tower's size.

        Args:
          pixel_values: float [t, image_size, image_size, 3], normalised.
          adapters: parameters for `vision_hook`; leaves [layers that are read, ...].

        Returns:
          Float [t, tokens_per_tile, d] in `dtype`.

        Source:
          Liu et al. 2023 (LLaVA-1.5); Liu et al. 2024 (LLaVA-NeXT).
        """
        hidden = self.vision(pixel_values, adapters)
        if not self.config.class_token:
            hidden = hidden[:, 1:]
        return self.linear_2(activation(self.config.projector_act)(self.linear_1(hidden)))

    def read_each(self, inputs: Inputs, adapters: PyTree = None) -> Float[Array, "m n d"]:
        """As `MixesPictures.read_each`; `pixel_values` [m, t, h, w, 3] are m pictures' tiles."""
        tiles, width = inputs["pixel_values"], self.config.hidden_size
        m, t = tiles.shape[:2]
        patches = self.read_tiles(tiles.reshape(m * t, *tiles.shape[2:]), adapters)
        first = jnp.broadcast_to(self.newline()[None, None], (m, 1, width))
        return jnp.concatenate([first, patches.reshape(m, -1, width)], axis=1)

    def newline(self) -> Float[Array, "d"]:
        """What ends a row of patches; zeros where a picture is one tile."""
        if self.config.pinpoints:
            return self.image_newline.astype(self.dtype)
        return jnp.zeros(self.config.hidden_size, self.dtype)

    def placed(
        self, tokens: Float[Array, "n d"], places: Int[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        """As `MixesPictures.placed`; at `NEWLINE` what ends a row."""
        table = jnp.concatenate([self.newline()[None], tokens])
        return table[jnp.maximum(places, 0)]


def key_table(config: LlavaConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Llava`.

    Transformers 4 saves `language_model.model.layers...` and `vision_tower.vision_model...`,
    transformers 5 may put `model.` in front of all and leave the inner names out.

    Args:
      config: says which layers of the image tower are read.

    Returns:
      The rules.
    """
    top = r"(?:model\.)?"
    behind = "|".join(str(i) for i in range(config.vision.num_layers, config.vision_layers))
    read = rf"(?!.*\.layers\.(?:{behind})\.)" if behind else ""
    return (
        *rules_inside(
            llama.key_table(config.text), rf"(?:{top}language_model\.)?", "language_model"
        ),
        *rules_inside(
            [r for r in clip.vision_key_table(config.vision) if r.target not in _NOT_READ],
            rf"{top}vision_tower\.{read}",
            "vision",
        ),
        *dense_rules(top + r"multi_modal_projector\.(?P<linear>linear_1|linear_2)", "{linear}"),
        KeyRule(top + "image_newline", "image_newline", COPY),
    )


_NOT_READ = ("norm/scale", "norm/bias", "projection/kernel")  # of the image tower


# Buffers, a tied head, and the image tower behind the last layer that is read.
IGNORED = re.compile(
    r".*rotary_emb\.inv_freq|(.*\.)?lm_head\.weight|.*\.position_ids"
    r"|(model\.)?vision_tower\.(vision_model\.)?(encoder\.layers\.\d+|post_layernorm)\..*"
)


def sharding(config: LlavaConfig) -> Rules:
    """Who holds what: both towers' own rules, and the projector's width over `model`.

    Args:
      config: says whether there is a head of its own.

    Returns:
      (anchored pattern, PartitionSpec) pairs.
    """
    return (
        *inside("language_model", llama.sharding(config.text)),
        *inside("vision", VISION_SHARDING),
        ("linear_1/kernel", P(None, "model")),
        ("linear_2/kernel", P("model", None)),
        (".*", P()),
    )


LLAVA = Family("llava", "text", LlavaConfig.from_hf, Llava, key_table, IGNORED, sharding)
