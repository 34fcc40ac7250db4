"""Qwen2-VL and Qwen2.5-VL: a tower for pictures of any size, and a Qwen2 with three positions."""

import dataclasses
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from mmjax.encoders import llama
from mmjax.encoders.attention import Mask
from mmjax.encoders.clip import fused_rules
from mmjax.encoders.family import Family, inside
from mmjax.encoders.layers import Dense, LayerNorm, PyTree, activation, stack
from mmjax.encoders.llama_keys import decoder_heads
from mmjax.encoders.llava import MixesPictures
from mmjax.encoders.modules import HookedModule
from mmjax.encoders.norms import RMSNorm
from mmjax.encoders.padding import bucket
from mmjax.encoders.qwen_vl_config import MERGE, QwenVisionConfig, QwenVlConfig
from mmjax.encoders.qwen_vl_images import COORDINATES, LENGTHS, QwenImages, load_qwen_images
from mmjax.encoders.rotary_vision import RotaryInputs, RotaryLayer, layer_sharding
from mmjax.trees import Rules
from mmjax.weights.key_rules import KeyRule, Transform, dense_rules, norm_rules, rules_inside


class _Layer(RotaryLayer):
    """A layer that reads windows or whole pictures."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # two numbers a patch
        self,
        x: Float[Array, "b l d"],
        turns: tuple[Float[Array, "b l half"], Float[Array, "b l half"]],
        numbers: tuple[Int[Array, "b l"], Int[Array, "b l"]],
        adapter: PyTree = None,
        whole: Bool[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b l d"], Any]:
        """As `RotaryLayer`; the numbers are of patches' pictures and of their windows."""
        segments = numbers[0] if whole is None else jnp.where(whole, *numbers)
        return super().__call__(x, RotaryInputs(*turns, Mask(segments=segments)), adapter)


class QwenVision(HookedModule):
    """Patches of packed pictures to hidden states."""

    config: QwenVisionConfig

    @nn.compact
    def __call__(
        self, patches: Float[Array, "r l w"], adapters: PyTree = None
    ) -> Float[Array, "r l d"]:
        """Encodes.

        Args:
          patches: float [rows, l, patch_width + 4] as `QwenImages` packs them: pixels, then the
            patch's row and column, and the numbers of its picture and of its window in this row;
            picture 0 is padding.
          adapters: parameters for `hook`; leaves [layers, ...].

        Returns:
          Float [rows, l, hidden_size].

        Source:
          Wang et al. 2024 (Qwen2-VL); Bai et al. 2025 (Qwen2.5-VL) for the windows.
        """
        config = self.config
        width, d = config.patch_width, config.hidden_size
        kernel = self.param(
            "patch_kernel", nn.initializers.lecun_normal(), (width, d), self.param_dtype
        )
        x = patches[..., :width].astype(self.dtype) @ kernel.astype(self.dtype)
        places = patches[..., width : width + COORDINATES].astype(jnp.float32)
        head = d // config.num_heads // 2
        exponents = np.arange(0, head, 2, dtype=np.float32) / head
        frequencies = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
        angles = places[..., :2, None] * frequencies[None, None, None]
        angles = angles.reshape(*x.shape[:2], -1)
        numbers = tuple(places[..., i].astype(jnp.int32) for i in (2, 3))
        whole = None
        if config.window:
            whole = jnp.array([i in config.full_layers for i in range(config.num_layers)])
        axes = (nn.broadcast, nn.broadcast, 0, 0)
        layers = stack(_Layer, config.num_layers, in_axes=axes)(
            config.layer, **self.hooked, name="layers"
        )
        x, _ = layers(x, (jnp.cos(angles), jnp.sin(angles)), numbers, adapters, whole)
        return x


class QwenVl(MixesPictures):
    """A Qwen2 whose embeddings may come from pictures; see `llava.Llava`."""

    config: QwenVlConfig

    packs: ClassVar[bool] = True

    @nn.nowrap
    def largest(self) -> dict[str, jax.ShapeDtypeStruct]:
        """As `ReadsPictures.largest`, where the picture constants are the family's own."""
        rows = bucket(QwenImages(self.config).most_tokens * MERGE**2, LENGTHS)
        shape = rows, self.config.vision.patch_width + COORDINATES
        return {"pixel_values": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def setup(self) -> None:
        """Declares the parts."""
        vision, dtypes = self.config.vision, self.dtypes
        wide = MERGE**2 * vision.hidden_size
        self.vision = QwenVision(vision, **dtypes, hook=self.vision_hook)
        norm = RMSNorm if vision.layer.rms_norm else LayerNorm
        self.merger_norm = norm(vision.layer.epsilon, **dtypes)
        self.merger_1, self.merger_2 = Dense(wide, **dtypes), Dense(vision.out_size, **dtypes)
        self.language_model = self.decoder()

    @nn.nowrap
    def blank(self) -> tuple[jax.Array, ...]:
        """As `ReadsPictures.blank`: the patches of one token."""
        return (jnp.zeros((1, MERGE**2, self.config.vision.patch_width + COORDINATES)),)

    def read_tiles(
        self, patches: Float[Array, "r l w"], adapters: PyTree = None
    ) -> Float[Array, "r m d"]:
        """Embeddings of packed pictures.

        Args:
          patches: as `QwenVision` takes them.
          adapters: parameters for `vision_hook`.

        Returns:
          Float [rows, l / 4, d]: one for every four patches.
        """
        x = self.merger_norm(self.vision(patches, adapters))
        x = x.reshape(len(x), -1, MERGE**2 * x.shape[-1])
        return self.merger_2(activation("gelu")(self.merger_1(x)))


# The convolution over frames and pixels, whose numbers lie as `QwenImages` has them.
def _patch_rows(config: QwenVisionConfig) -> Transform:
    side = config.patch_size
    shape = config.hidden_size, config.num_channels, config.frames, side, side
    return Transform(lambda _: shape, lambda x: x.reshape(len(x), -1).T)


def key_table(config: QwenVlConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `QwenVl`.

    Args:
      config: says which feed-forward part and which norms the image tower has.

    Returns:
      The rules: the names on disk, and those that transformers 5 has in memory.
    """
    top = r"(?:model\.)?visual\."
    block = top + r"blocks\.(?P<layer>\d+)\."
    part, target = config.vision.layer, "vision/layers/"
    names = ("gate_proj", "up_proj", "down_proj") if part.gated else ("fc1", "fc2")
    norms = [
        rule
        for source, ours in (
            (block + "norm1", f"{target}norm1"),
            (block + "norm2", f"{target}norm2"),
            (top + r"merger\.ln_q", "merger_norm"),
        )
        for rule in norm_rules(source, ours)
        if not (part.rms_norm and rule.target.endswith("bias"))
    ]
    decoder = r"(?:model\.)?(?:language_model\.)?"
    return (
        *rules_inside(llama.key_table(config.text), decoder, "language_model"),
        KeyRule(
            top + r"patch_embed\.proj\.weight", "vision/patch_kernel", _patch_rows(config.vision)
        ),
        *fused_rules(block + r"attn\.qkv\.", f"{target}attention"),
        *norms,
        *dense_rules(block + r"attn\.proj", f"{target}attention/out"),
        *(
            rule
            for name in names
            for rule in dense_rules(
                block + rf"mlp\.{name}", f"{target}{name.removesuffix('_proj')}"
            )
        ),
        *dense_rules(top + r"merger\.mlp\.0", "merger_1"),
        *dense_rules(top + r"merger\.mlp\.2", "merger_2"),
    )


IGNORED = re.compile(r".*rotary_(pos_)?emb\.inv_freq|(.*\.)?lm_head\.weight")


def sharding(config: QwenVlConfig) -> Rules:
    """Who holds what: both towers' own rules, and the merger's width over `model`.

    Args:
      config: says which maps there are.

    Returns:
      (anchored pattern, PartitionSpec) pairs.
    """
    return (
        *inside("language_model", llama.sharding(config.text)),
        *layer_sharding(config.vision.layer, "vision/"),
        ("merger_1/kernel", P(None, "model")),
        ("merger_2/kernel", P("model", None)),
        (".*", P()),
    )


QWEN2_VL = Family(
    "qwen2_vl", "text", QwenVlConfig.from_hf, QwenVl, key_table, IGNORED, sharding,
    heads=decoder_heads, load_images=load_qwen_images,
)  # fmt: skip
QWEN2_5_VL = dataclasses.replace(QWEN2_VL, name="qwen2_5_vl")
