"""DINOv3's vision transformers: rotations instead of a table of positions, and register tokens."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mmjax.encoders import inserted
from mmjax.encoders.attention import Mask
from mmjax.encoders.family import Family
from mmjax.encoders.layers import LayerNorm, PyTree, stack
from mmjax.encoders.modules import HookedModule, ImageTower
from mmjax.encoders.rotary_vision import (
    RotaryInputs,
    RotaryLayer,
    RotaryLayerConfig,
    layer_sharding,
)
from mmjax.encoders.vision import VisionConfig, check_pixels, cut_patches
from mmjax.errors import MmjaxError
from mmjax.trees import Rules
from mmjax.weights.key_rules import CONV, COPY, ROWS, VECTOR, KeyRule, dense_rules, norm_rules

# What Hugging Face leaves out of config.json is at its default.
_DEFAULTS: dict[str, Any] = {
    **{"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12},
    **{"num_attention_heads": 6, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-5},
}
_BIASES = {"query_bias": True, "key_bias": False, "value_bias": True}
_MOST_REGISTERS = 64


@dataclasses.dataclass(frozen=True)
class Dinov3Config(VisionConfig):
    """Sizes of a DINOv3."""

    rope_theta: float = 100.0
    layer: RotaryLayerConfig | None = None

    @property
    def frequencies(self) -> Float[np.ndarray, "quarter"]:
        """Turns from the picture's middle to its border, for a quarter of a head's channels."""
        head = self.hidden_size // self.num_heads
        exponents = np.arange(0, 1, 4 / head, dtype=np.float32)
        return (1 / np.float32(self.rope_theta) ** exponents).astype(np.float32)


def config_from_hf(config: Mapping[str, Any]) -> Dinov3Config:
    """Reads Hugging Face's config.json of a DINOv3ViTModel.

    Args:
      config: its content.

    Returns:
      The config, for pictures of the size that it names; every other will do.

    Raises:
      MmjaxError: oblong patches, a size that attention cannot have, or heads whose channels are no
        fours.
    """
    part = _DEFAULTS | dict(config)
    plain = VisionConfig.from_hf(part)
    head = plain.hidden_size // plain.num_heads
    if head % 4:
        raise MmjaxError(
            f"config.json: num_attention_heads {plain.num_heads} leaves {head} channels a head; a "
            "quarter of them turns with the row, and a quarter with the column"
        )
    registers = part.get("num_register_tokens", 0)
    if registers > _MOST_REGISTERS:
        raise MmjaxError(f"config.json: num_register_tokens {registers} is above {_MOST_REGISTERS}")
    layer = RotaryLayerConfig(
        plain.num_heads,
        plain.intermediate_size,
        plain.hidden_act,
        plain.layer_norm_eps,
        **{name: bool(part.get(name, default)) for name, default in _BIASES.items()},
        out_bias=bool(part.get("proj_bias", True)),
        mlp_bias=bool(part.get("mlp_bias", True)),
        gated=bool(part.get("use_gated_mlp", False)),
        layer_scale=True,
    )
    sizes = {field.name: getattr(plain, field.name) for field in dataclasses.fields(VisionConfig)}
    sizes["registers"] = registers
    return Dinov3Config(**sizes, rope_theta=float(part.get("rope_theta", 100.0)), layer=layer)


class Dinov3(ImageTower, HookedModule):
    """Pictures to tokens: the class token first, then the patches row by row."""

    config: Dinov3Config

    @nn.compact
    def encode(self, pixels: Float[Array, "b h w c"], adapters: PyTree) -> Float[Array, "b l d"]:
        """Hidden states after the last norm, float [b, 1 + num_patches, d], without the registers.

        Sows every layer's class token.

        Source:
          Simeoni et al. 2025 (DINOv3); Darcet et al. 2024 for the registers.
        """
        config, dtypes = self.config, self.dtypes
        b, h, w, c = pixels.shape
        d, p = config.hidden_size, config.patch_size
        check_pixels((h, w, c), (config.image_size, config.image_size, config.num_channels))
        kernel = self.param(
            "patch_kernel", nn.initializers.lecun_normal(), (p, p, c, d), self.param_dtype
        )
        bias = self.param("patch_bias", nn.initializers.zeros, (d,), self.param_dtype)
        first = self.param("cls_token", nn.initializers.zeros, (d,), self.param_dtype)[None]
        if config.registers:
            own = (config.registers, d)
            more = self.param("register_tokens", nn.initializers.zeros, own, self.param_dtype)
            first = jnp.concatenate([first, more])
        patches = cut_patches(pixels, p).astype(self.dtype)
        x = patches @ kernel.reshape(p * p * c, d).astype(self.dtype)
        x = x + bias.astype(self.dtype)[None, None]
        first = jnp.broadcast_to(first.astype(self.dtype)[None], (b, *first.shape))
        x, _, adapters = inserted.insert(
            self.hook, adapters, jnp.concatenate([first, x], axis=1), None, 1
        )
        ahead = x.shape[1] - config.num_patches  # what stands in no place is not turned
        angles = jnp.pad(_angles(h // p, w // p, config.frequencies), [(ahead, 0), (0, 0)])
        angles = jnp.broadcast_to(angles[None], (b, *angles.shape))
        layers = stack(RotaryLayer, config.num_layers, in_axes=(nn.broadcast, 0))(
            config.layer, **self.hooked, name="layers"
        )
        x, class_tokens = layers(
            x, RotaryInputs(jnp.cos(angles), jnp.sin(angles), Mask()), adapters
        )
        x = inserted.remove(self.hook, x, 1)
        self.sow("intermediates", "class_tokens", class_tokens)
        x = jnp.concatenate([x[:, :1], x[:, 1 + config.registers :]], axis=1)
        return LayerNorm(config.layer_norm_eps, **dtypes, name="norm")(x)


def _angles(
    rows: int, columns: int, frequencies: Float[np.ndarray, "quarter"]
) -> Float[np.ndarray, "n half"]:
    """Of patches between -1 and 1: the row's turns, then the column's, radians."""
    y, x = (2 * (np.arange(0.5, n, dtype=np.float32) / n) - 1 for n in (rows, columns))
    places = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    turns = np.float32(2 * math.pi) * places.astype(np.float32) * frequencies[None, None]
    return turns.reshape(rows * columns, -1).astype(np.float32)


_LAYER = r"(?:model\.)?layer\.(?P<layer>\d+)\."


def key_table(config: Dinov3Config) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Dinov3`.

    Args:
      config: says whether there are registers, and which feed-forward part.

    Returns:
      The rules: the names of transformers 4, and those of 5 where they differ.
    """
    assert config.layer is not None
    parts = {"q": "query", "k": "key", "v": "value", "o": "out"}
    feed = {"up_proj": "fc1", "down_proj": "fc2"}
    if config.layer.gated:
        feed = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    registers = [KeyRule(r"embeddings\.register_tokens", "register_tokens", ROWS)]
    return (
        KeyRule(r"embeddings\.cls_token", "cls_token", VECTOR),
        *(registers if config.registers else ()),
        KeyRule(r"embeddings\.patch_embeddings\.weight", "patch_kernel", CONV),
        KeyRule(r"embeddings\.patch_embeddings\.bias", "patch_bias", COPY),
        *(
            rule
            for theirs, ours in parts.items()
            for rule in dense_rules(
                _LAYER + rf"attention\.{theirs}_proj", f"layers/attention/{ours}"
            )
        ),
        *norm_rules(_LAYER + "(?P<norm>norm1|norm2)", "layers/{norm}"),
        KeyRule(_LAYER + r"(?P<scale>layer_scale[12])\.lambda1", "layers/{scale}", COPY),
        *(
            rule
            for theirs, ours in feed.items()
            for rule in dense_rules(_LAYER + rf"mlp\.{theirs}", f"layers/{ours}")
        ),
        *norm_rules("norm", "norm"),
    )


IGNORED = re.compile(
    r"embeddings\.mask_token|rope_embeddings\.inv_freq|embeddings\.register_tokens"
)


def sharding(config: Dinov3Config) -> Rules:
    """Who holds what: heads and hidden units over `model`."""
    assert config.layer is not None
    return (*layer_sharding(config.layer), (r".*", P()))


DINOV3 = Family(
    "dinov3", "image", config_from_hf, Dinov3, key_table, IGNORED, sharding, any_size=True
)
