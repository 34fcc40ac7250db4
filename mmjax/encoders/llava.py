"""LLaVA-1.5 and LLaVA-NeXT: CLIP's image tower, a projector, and a LLaMA that reads both."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mmjax.checks.ranges import check_id
from mmjax.encoders import clip, llama
from mmjax.encoders.attention import PLAIN, Kernel
from mmjax.encoders.family import Family
from mmjax.encoders.joined import Joined, among
from mmjax.encoders.layers import Dense, Dtype, Hook, PyTree, activation
from mmjax.encoders.llama import KeyValues, Llama
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.llava_images import WORD
from mmjax.encoders.output import Inputs
from mmjax.encoders.vision import SHARDING as VISION_SHARDING
from mmjax.encoders.vision import VisionConfig, VisionTransformer
from mmjax.errors import MmjaxError
from mmjax.trees import Rules
from mmjax.weights.key_rules import COPY, KeyRule, dense_rules, rules_inside

# What Hugging Face leaves out of config.json is at its default.
_TEXT_DEFAULTS: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    """Sizes of both models, and what of a picture reaches the words."""

    text: LlamaConfig
    vision: VisionConfig  # up to the last layer that is read
    vision_layers: int  # that the checkpoint has
    class_token: bool  # whether the image tower's class token is read too
    projector_act: str
    projector_bias: bool
    image_token_id: int
    pinpoints: tuple[tuple[int, int], ...]  # LLaVA-NeXT: sizes (height, width) for the tiles

    @property
    def hidden_size(self) -> int:
        """Width of the decoder."""
        return self.text.hidden_size

    @property
    def max_length(self) -> int:
        """The longest prompt, pictures included, in tokens."""
        return self.text.max_length

    @property
    def tokens_per_tile(self) -> int:
        """Embeddings that one tile becomes."""
        return self.vision.num_patches + self.class_token

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlavaConfig":
        """Reads Hugging Face's config.json of a Llava- or LlavaNextForConditionalGeneration.

        Args:
          config: its content.

        Returns:
          The config.

        Raises:
          MmjaxError: towers other than CLIP's and LLaMA's, or a choice of features or of tiles
            that the towers do not have.
        """
        text = _TEXT_DEFAULTS | (config.get("text_config") or {})
        text["tie_word_embeddings"] = bool(
            config.get("tie_word_embeddings") or text.get("tie_word_embeddings")
        )
        vision = config.get("vision_config") or _VISION_DEFAULTS
        for part, kind, supported in (
            ("text_config", text["model_type"], "llama"),
            ("vision_config", vision.get("model_type", "clip_vision_model"), "clip_vision_model"),
        ):
            if kind != supported:
                raise MmjaxError(
                    f"config.json: {part} of a {kind!r} is not supported; {supported!r}"
                )
        tower = clip.vision_config(vision)
        layers = _feature_layers(config.get("vision_feature_layer", -2), tower.num_layers)
        strategy = config.get("vision_feature_select_strategy", "default")
        tiled = config["model_type"] == "llava_next"
        if strategy not in ("default", "full") or (tiled and strategy == "full"):
            raise MmjaxError(
                f"config.json: vision_feature_select_strategy {strategy!r} is not supported; "
                "'default', or for LLaVA-1.5 'full'"
            )
        token = config.get("image_token_index", config.get("image_token_id"))
        act = config.get("projector_hidden_act", "gelu")
        activation(act)
        pinpoints = config.get("image_grid_pinpoints") or _PINPOINTS
        token = 32000 if token is None else token
        check_id("image_token_index", token, text["vocab_size"])
        return cls(
            text=LlamaConfig.from_hf(text),
            vision=dataclasses.replace(
                tower, num_layers=max(layers), feature_layers=layers, projection_dim=None
            ),
            vision_layers=tower.num_layers,
            class_token=strategy == "full",
            projector_act=act,
            projector_bias=bool(config.get("multimodal_projector_bias", True)),
            image_token_id=token,
            pinpoints=_checked(pinpoints, tower.image_size) if tiled else (),
        )


def _feature_layers(setting: int | Sequence[int], total: int) -> tuple[int, ...]:
    """Numbers of layers, counted from 1; 0 would be the embeddings."""
    indices = [setting] if isinstance(setting, int) else list(setting)
    layers = tuple(i if i >= 0 else total + 1 + i for i in indices)
    if not layers or min(layers) < 1 or max(layers) > total:
        raise MmjaxError(
            f"config.json: vision_feature_layer {setting} is none of the {total} layers of the "
            "tower"
        )
    return layers


def _checked(pinpoints: Sequence[Sequence[int]], side: int) -> tuple[tuple[int, int], ...]:
    sizes = tuple((h, w) for h, w in pinpoints)
    wrong = [size for size in sizes if min(size) < side or size[0] % side or size[1] % side]
    if wrong:
        raise MmjaxError(f"config.json: image_grid_pinpoints {wrong} are no multiples of {side}")
    return sizes


class ReadsPictures(nn.Module):
    """A LLaMA beside an image tower: alone it reads texts like the `Llama` in it.

    `setup` of a class below makes `language_model`, of `decoder`, `vision` and the projector.

    Attributes:
      packs: whether a row of what the image tower reads may hold several pictures.
      inserts: whether an adapter's own tokens have a place in the image tower.
    """

    packs: ClassVar[bool] = False
    inserts: ClassVar[bool] = False

    @nn.nowrap
    def decoder(self) -> Llama:
        """The decoder as a module of its own, with this one's hook.

        Raises:
          MmjaxError: of a family whose pictures are not trained on.
        """
        kind = type(self).__name__
        raise MmjaxError(
            f"a {kind} is not trained on pictures yet; a Llava, QwenVl, Gemma or Mllama is"
        )

    @nn.nowrap
    def largest(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What the image tower reads of a picture at most; see `PictureReader.inputs`."""
        raise NotImplementedError

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


class Llava(ReadsPictures):
    """A LLaMA whose embeddings may come from pictures.

    Alone it reads texts like the `Llama` in it: `embed`, `extend` and `logits` are that one's.
    `mix` makes embeddings of words and pictures.
    """

    config: LlavaConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    hook: Hook | None = None  # of the decoder, as `Llama` takes it; so is `remat`
    remat: bool = False
    vision_hook: Hook | None = None  # of the image tower
    attend_by: Kernel = PLAIN  # in both towers

    inserts: ClassVar[bool] = True

    @nn.nowrap
    def decoder(self) -> Llama:
        """As `ReadsPictures.decoder`."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        own = {"hook": self.hook, "remat": self.remat, "attend_by": self.attend_by}
        return Llama(self.config.text, **dtypes, **own)

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
        config, width = self.config, self.config.hidden_size
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
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

    def join(
        self,
        words: Float[Array, "b l d"],
        inputs: Inputs,
        slots: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Joined:
        """As `ReadsPictures.join`; `pixel_values` [m, t, h, w, 3] are the tiles of m pictures."""
        tiles, width = inputs["pixel_values"], self.config.hidden_size
        m, t = tiles.shape[:2]
        patches = self.read_tiles(tiles.reshape(m * t, *tiles.shape[2:]), adapters)
        newline = jnp.zeros(width, self.dtype)
        if self.config.pinpoints:
            newline = self.image_newline.astype(self.dtype)
        first = jnp.broadcast_to(newline[None, None], (m, 1, width))
        tokens = jnp.concatenate([first, patches.reshape(m, -1, width)], axis=1)
        return Joined(among(words, tokens, slots))

    def mix(
        self,
        input_ids: Int[Array, "b l"],
        pixel_values: Float[Array, "t h w c"],
        places: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Float[Array, "b l d"]:
        """Embeddings of texts with pictures in them.

        Args:
          input_ids: int [b, l]; read where `places` is `WORD`.
          pixel_values: float [t, image_size, image_size, 3]: the tiles of all pictures.
          places: int [b, l]: `WORD`, `NEWLINE`, or 1 + the number of a tile's token among the
            t * tokens_per_tile of all tiles.
          adapters: parameters for `vision_hook`.

        Returns:
          Float [b, l, d].
        """
        words = self.embed(input_ids)
        patches = self.read_tiles(pixel_values, adapters).reshape(-1, self.config.hidden_size)
        newline = jnp.zeros_like(patches[:1])
        if self.config.pinpoints:
            newline = self.image_newline.astype(self.dtype)[None]
        table = jnp.concatenate([newline, patches])
        return jnp.where(places[..., None] == WORD, words, table[jnp.maximum(places, 0)])


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
    towers = (("language_model", llama.sharding(config.text)), ("vision", VISION_SHARDING))
    inner = [(f"{part}/{p}", spec) for part, rules in towers for p, spec in rules if p != ".*"]
    return (
        *inner,
        ("linear_1/kernel", P(None, "model")),
        ("linear_2/kernel", P("model", None)),
        (".*", P()),
    )


LLAVA = Family("llava", "text", LlavaConfig.from_hf, Llava, key_table, IGNORED, sharding)
