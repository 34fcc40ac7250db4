"""Llama 3.2 Vision (Mllama): a tower for tiles, and a LLaMA some layers of which see pictures."""

import dataclasses
import re

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from mmjax.encoders import llama
from mmjax.encoders.attention import PLAIN, Kernel
from mmjax.encoders.family import Family, inside
from mmjax.encoders.joined import Joined
from mmjax.encoders.layers import Dense, PyTree
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.llama_keys import decoder_heads
from mmjax.encoders.llava import ReadsPictures
from mmjax.encoders.llava_images import WORD
from mmjax.encoders.mllama_config import MllamaConfig
from mmjax.encoders.mllama_decoder import MllamaDecoder
from mmjax.encoders.mllama_images import SeenPictures, load_mllama_images
from mmjax.encoders.mllama_vision import MllamaVision, tower_keys, tower_sharding
from mmjax.encoders.output import Inputs
from mmjax.trees import Rules
from mmjax.weights.key_rules import COPY, KeyRule, dense_rules, rules_inside


class Mllama(ReadsPictures):
    """A LLaMA that sees pictures beside its words; alone it reads texts like the `Llama` in it.

    `hook` sits in the decoder's plain layers, `vision_hook` in the image tower's first stage.
    """

    config: MllamaConfig
    attend_by: Kernel = PLAIN  # in the decoder's plain layers

    @nn.nowrap
    def decoder(self) -> MllamaDecoder:
        """As `ReadsPictures.decoder`."""
        cross = self.config.cross_layers
        return MllamaDecoder(self.config.text, **self.of_decoder, cross_layers=cross)

    @nn.nowrap
    def largest(self) -> dict[str, jax.ShapeDtypeStruct]:
        """As `ReadsPictures.largest`."""
        v = self.config.vision
        shape = v.max_tiles, v.image_size, v.image_size, v.num_channels
        return {
            "pixel_values": jax.ShapeDtypeStruct(shape, jnp.float32),
            "ratios": jax.ShapeDtypeStruct((), jnp.int32),
        }

    def setup(self) -> None:
        """Declares the parts."""
        config, dtypes = self.config, self.dtypes
        self.vision = MllamaVision(config.vision, **dtypes, hook=self.vision_hook)
        self.projector = Dense(config.hidden_size, **dtypes)
        self.language_model = self.decoder()

    @nn.nowrap
    def blank(self) -> tuple[jax.Array, ...]:
        """As `ReadsPictures.blank`."""
        return tuple(jnp.zeros((1, *one.shape), one.dtype) for one in self.largest().values())

    def read_tiles(
        self,
        pixel_values: Float[Array, "p t s s c"],
        ratios: Int[Array, "p"],
        adapters: PyTree = None,
    ) -> Float[Array, "p m d"]:
        """What the decoder's cross layers read of pictures.

        Args:
          pixel_values: as `MllamaVision` takes them.
          ratios: the same.
          adapters: parameters for `vision_hook`.

        Returns:
          Float [p, max_tiles * num_tokens, d].
        """
        states = self.projector(self.vision(pixel_values, ratios, adapters))
        return states.reshape(len(states), -1, states.shape[-1])

    def see(
        self,
        pixel_values: Float[Array, "p t s s c"],
        ratios: Int[Array, "p"],
        seats: Int[Array, "b i"],
        reads: Bool[Array, "b l i"],
        adapters: PyTree = None,
    ) -> SeenPictures:
        """Reads pictures, once for all tokens that see them.

        Args:
          pixel_values: as `MllamaVision` takes them: all pictures of a batch.
          ratios: the same.
          seats: int [b, i]: numbers of each row's pictures; -1 where it has fewer than others.
          reads: bool [b, l, i]: which of its row's pictures a token sees.
          adapters: parameters for `vision_hook`.

        Returns:
          What `extend` takes as `pictures`.
        """
        states = self.read_tiles(pixel_values, ratios, adapters)
        chosen = jnp.maximum(seats, 0)

        def seated(x: Float[Array, "n p h m c"]) -> Float[Array, "n b h k c"]:
            x = jnp.moveaxis(x[:, chosen], 2, 3)  # n b h i m c
            return x.reshape(*x.shape[:3], -1, x.shape[-1])

        keys, values = self.language_model.keys_values(states)
        there = seats >= 0
        real = self._real(ratios)[chosen]
        return SeenPictures(
            seated(keys), seated(values), real & there[..., None], there, reads & there[:, None]
        )

    def _real(self, ratios: Int[Array, "p"]) -> Bool[Array, "p t"]:
        """Which tiles hold a part of a picture."""
        counts = jnp.array([1, *(r * c for r, c in self.config.vision.arrangements)])
        return jnp.arange(self.config.vision.max_tiles)[None] < counts[ratios][:, None]

    def read_each(
        self, inputs: Inputs, adapters: PyTree = None
    ) -> tuple[KeyValues, Bool[Array, "m t"]]:
        """As `ReadsPictures.read_each`: keys and values, and which tiles are not empty.

        `pixel_values` and `ratios` are as `MllamaVision` takes them.
        """
        states = self.read_tiles(inputs["pixel_values"], inputs["ratios"], adapters)
        return self.language_model.keys_values(states), self._real(inputs["ratios"])

    def joined(
        self,
        words: Float[Array, "b l d"],
        slots: Int[Array, "b l"],
        pictures: tuple[KeyValues, Bool[Array, "m t"]],
    ) -> Joined:
        """As `ReadsPictures.joined`: the words as they are, each picture beside its own rows.

        A text sees its picture from the first token on that is no `WORD`.
        """
        (keys, values), real = pictures
        each = len(words) // len(real)
        seen = SeenPictures(
            jnp.repeat(keys, each, axis=1),
            jnp.repeat(values, each, axis=1),
            jnp.repeat(real, each, axis=0)[:, None],
            jnp.ones((len(words), 1), bool),
            (jnp.cumsum(slots != WORD, axis=1) > 0)[..., None],
        )
        return Joined(words, seen)


def key_table(config: MllamaConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Mllama`.

    On the hub names begin with `language_model.model.`, `vision_model.` and so on; transformers 5
    saves and has in memory `model.language_model.`, `model.vision_model.`.

    Args:
      config: says which layers attend to pictures.

    Returns:
      The rules.
    """
    top, cross = r"(?:model\.)?", r"(?:model\.)?layers\.(?P<layer>\d+)\."
    own = "crossing/"
    parts: list[KeyRule] = []
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
        parts.append(dense_rules(cross + rf"cross_attn\.{theirs}_proj", own + ours)[0])
    for theirs, ours in (
        (r"cross_attn\.q_norm\.weight", "query_norm/scale"),
        (r"cross_attn\.k_norm\.weight", "key_norm/scale"),
        (r"input_layernorm\.weight", "attention_norm/scale"),
        (r"post_attention_layernorm\.weight", "mlp_norm/scale"),
        (r"cross_attn_attn_gate", "attention_gate"),
        (r"cross_attn_mlp_gate", "mlp_gate"),
    ):
        parts.append(KeyRule(cross + theirs, own + ours, COPY))
    parts += [dense_rules(cross + r"mlp\.(?P<part>gate|up|down)_proj", own + "{part}")[0]]
    plain = [
        dataclasses.replace(rule, numbers=config.plain_layers) if "layer>" in rule.pattern else rule
        for rule in llama.key_table(config.text)
    ]
    crossing = [dataclasses.replace(rule, numbers=config.cross_layers) for rule in parts]
    return (
        *rules_inside([*plain, *crossing], rf"{top}(?:language_model\.)?", "language_model"),
        *dense_rules(top + r"multi_modal_projector", "projector"),
        *tower_keys(config.vision, top + r"vision_model\.", "vision/"),
    )


IGNORED = re.compile(r".*rotary_emb\.inv_freq")


def sharding(config: MllamaConfig) -> Rules:
    """Who holds what: both towers' own rules; heads and hidden units of cross layers alike.

    Args:
      config: says which maps there are.

    Returns:
      (anchored pattern, PartitionSpec) pairs.
    """
    cross = "language_model/crossing/"
    return (
        *inside("language_model", llama.sharding(config.text)),
        (cross + r"(query|key|value|gate|up)/kernel", P(None, None, "model")),
        (cross + r"(out|down)/kernel", P(None, "model", None)),
        *tower_sharding("vision/"),
        ("projector/kernel", P("model", None)),
        (".*", P()),
    )


def heads(config: MllamaConfig) -> list[tuple[str, int]]:
    """As `llama.heads`, for all layers of the decoder."""
    count = config.text.num_kv_heads
    return [*decoder_heads(config), (r"language_model/crossing/(key|value)/kernel", count)]


MLLAMA = Family(
    "mllama", "text", MllamaConfig.from_hf, Mllama, key_table, IGNORED, sharding,
    heads=heads, load_images=load_mllama_images,
)  # fmt: skip
