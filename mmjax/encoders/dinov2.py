"""DINOv2: a pre-norm vision transformer with layer scale."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.encoders.convert import (
    CONV,
    COPY,
    TRANSPOSE,
    KeyRule,
    Shape,
    Transform,
)
from mmjax.encoders.layers import Attention, Dense, Dtype, LayerNorm, activation, check_sizes, stack
from mmjax.errors import MmjaxError


@dataclasses.dataclass(frozen=True)
class Dinov2Config:
    """Sizes of a DINOv2, and the picture size that it is loaded for."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    patch_size: int
    image_size: int  # side in pixels of the pictures that it reads
    trained_image_size: int  # side that the checkpoint's position table was made for
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    qkv_bias: bool = True

    @property
    def num_patches(self) -> int:
        """Patches of one picture."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Dinov2Config":
        """Reads Hugging Face's config.json.

        Args:
          config: its content.

        Returns:
          The config, for pictures of the trained size.

        Raises:
          MmjaxError: SwiGLU layers, oblong patches, or a size that attention cannot have.
        """
        if config.get("use_swiglu_ffn"):
            raise MmjaxError(
                "config.json: use_swiglu_ffn is set (DINOv2-giant), which is not supported; "
                "use dinov2-small, -base or -large"
            )
        sides: dict[str, int] = {}
        for name in ("image_size", "patch_size"):
            value = config[name]
            value = tuple(value) if isinstance(value, list) else (value, value)
            if value[0] != value[1]:
                raise MmjaxError(f"config.json: {name} {value} is not square")
            sides[name] = value[0]
        check_sizes(
            config["hidden_size"], config["num_attention_heads"], config.get("hidden_act", "gelu")
        )
        return cls(
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            intermediate_size=int(config["hidden_size"] * config.get("mlp_ratio", 4)),
            patch_size=sides["patch_size"],
            image_size=sides["image_size"],
            trained_image_size=sides["image_size"],
            num_channels=config.get("num_channels", 3),
            layer_norm_eps=config.get("layer_norm_eps", 1e-6),
            hidden_act=config.get("hidden_act", "gelu"),
            qkv_bias=config.get("qkv_bias", True),
        )

    def for_image_size(self, image_size: int) -> "Dinov2Config":
        """The same model for pictures of another size.

        Args:
          image_size: side in pixels; a multiple of the patch size.

        Returns:
          The config.

        Raises:
          MmjaxError: the side is not a positive multiple of the patch size.
        """
        if image_size < self.patch_size or image_size % self.patch_size:
            nearest = max(1, round(image_size / self.patch_size)) * self.patch_size
            raise MmjaxError(
                f"image_size {image_size} is not a multiple of the patch size {self.patch_size}; "
                f"the nearest is {nearest}"
            )
        return dataclasses.replace(self, image_size=image_size)


class Dinov2Layer(nn.Module):
    """One pre-norm transformer layer; each branch is scaled by a learned vector."""

    config: Dinov2Config
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], mask: None = None
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b d"]]:
        """Attention, then the feed-forward part.

        Args:
          x: float [b, l, d].
          mask: none; every patch may be read.

        Returns:
          (float [b, l, d], its class token [b, d]): the pair that a scan wants.
        """
        config = self.config
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        d = config.hidden_size

        def scale(name: str) -> Array:
            vector = self.param(name, nn.initializers.ones, (d,), self.param_dtype)
            return vector.astype(self.dtype)[None, None]

        hidden = LayerNorm(config.layer_norm_eps, **dtypes, name="norm1")(x)
        hidden = Attention(config.num_heads, config.qkv_bias, **dtypes, name="attention")(
            hidden, mask
        )
        x = x + hidden * scale("layer_scale1")
        hidden = LayerNorm(config.layer_norm_eps, **dtypes, name="norm2")(x)
        hidden = Dense(config.intermediate_size, **dtypes, name="fc1")(hidden)
        hidden = activation(config.hidden_act)(hidden)
        hidden = Dense(d, **dtypes, name="fc2")(hidden)
        x = x + hidden * scale("layer_scale2")
        return x, x[:, 0]


class Dinov2(nn.Module):
    """Pictures to tokens: the class token first, then the patches row by row."""

    config: Dinov2Config
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> Float[Array, "b l d"]:
        """Encodes.

        Args:
          pixel_values: float [b, image_size, image_size, 3], normalised.

        Returns:
          Float [b, 1 + num_patches, d]: hidden states after the last norm.

        Source:
          Oquab et al. 2023 (DINOv2).
        """
        config = self.config
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, h, w, c = pixel_values.shape
        d, p = config.hidden_size, config.patch_size
        expected = (config.image_size, config.image_size, config.num_channels)
        if (h, w, c) != expected:
            raise MmjaxError(
                f"pixel_values have shape {(h, w, c)}, but this encoder was loaded for {expected}; "
                "pass image_size= to load_encoder"
            )
        kernel = self.param(
            "patch_kernel", nn.initializers.lecun_normal(), (p, p, c, d), self.param_dtype
        )
        bias = self.param("patch_bias", nn.initializers.zeros, (d,), self.param_dtype)
        cls_token = self.param("cls_token", nn.initializers.zeros, (d,), self.param_dtype)
        positions = self.param(
            "position_embeddings",
            nn.initializers.normal(0.02),
            (1 + config.num_patches, d),
            self.param_dtype,
        )
        # A convolution whose stride is its size is one matrix product over cut-out patches, which
        # is several times quicker on CPU.
        patches = pixel_values.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(b, -1, p * p * c).astype(self.dtype)
        x = (
            patches @ kernel.reshape(p * p * c, d).astype(self.dtype)
            + bias.astype(self.dtype)[None, None]
        )
        first = jnp.broadcast_to(cls_token.astype(self.dtype)[None, None], (b, 1, d))
        x = jnp.concatenate([first, x], axis=1) + positions.astype(self.dtype)[None]
        layers = stack(Dinov2Layer, config.num_layers)(config, **dtypes, name="layers")
        x, class_tokens = layers(x, None)
        self.sow("intermediates", "class_tokens", class_tokens)
        return LayerNorm(config.layer_norm_eps, **dtypes, name="norm")(x)


def _cubic_weights(size_in: int, size_out: int) -> Float[np.ndarray, "o i"]:
    """Weights of bicubic resizing along one axis, as torch's interpolate has them.

    `jax.image.resize` differs: its kernel has a = -0.5 and is widened when shrinking.
    """
    a = -0.75
    centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    left = np.floor(centre)
    weights = np.zeros((size_out, size_in))
    for offset in (-1, 0, 1, 2):
        x = np.abs(centre - (left + offset))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        # Beyond the border the outermost value is repeated.
        column = np.clip(left + offset, 0, size_in - 1).astype(int)
        np.add.at(weights, (np.arange(size_out), column), np.where(x <= 1, near, far))
    return weights


def resize_positions(positions: Float[np.ndarray, "m d"], grid: int) -> Float[np.ndarray, "n d"]:
    """Interpolates a table of positions to another grid of patches.

    Args:
      positions: float [1 + g * g, d]: the class token's, then the grid's rows.
      grid: patches a side that are wanted.

    Returns:
      Float32 [1 + grid * grid, d]; the table itself where the grid is the same.

    Source:
      Dinov2Embeddings.interpolate_pos_encoding in transformers: bicubic with a = -0.75, pixel
      centres at one half, no widening when shrinking.
    """
    trained = round((positions.shape[0] - 1) ** 0.5)
    if trained == grid:
        return positions.astype(np.float32)
    weights = _cubic_weights(trained, grid)
    table = positions[1:].astype(np.float64).reshape(trained, trained, -1)
    resized = np.einsum("ai,bj,ijd->abd", weights, weights, table, optimize=True)
    resized = resized.reshape(grid * grid, -1)
    return np.concatenate([positions[:1].astype(np.float64), resized]).astype(np.float32)


def _position_transform(config: Dinov2Config) -> Transform:
    trained = config.trained_image_size // config.patch_size
    grid = config.image_size // config.patch_size

    def source_shape(target: Shape) -> Shape:
        return (1, 1 + trained * trained, target[-1])

    return Transform(source_shape, lambda x: resize_positions(x[0], grid))


_VECTOR = Transform(lambda target: (1, 1, *target), lambda x: x[0, 0])
_PREFIX = r"(?:dinov2\.)?"
_LAYER = _PREFIX + r"encoder\.layer\.(?P<layer>\d+)\."
_LAYER_5X = _PREFIX + r"(?:encoder\.layers?|layers?)\.(?P<layer>\d+)\."


def _dense(source: str, target: str) -> list[KeyRule]:
    return [
        KeyRule(source + r"\.weight", f"{target}/kernel", TRANSPOSE),
        KeyRule(source + r"\.bias", f"{target}/bias", COPY),
    ]


def _norm(source: str, target: str) -> list[KeyRule]:
    return [
        KeyRule(source + r"\.weight", f"{target}/scale", COPY),
        KeyRule(source + r"\.bias", f"{target}/bias", COPY),
    ]


def key_table(config: Dinov2Config) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Dinov2`.

    Args:
      config: says which position table is wanted.

    Returns:
      The rules: the names of transformers 4.x, and those of 5.x where they differ.
    """
    embeddings = _PREFIX + r"embeddings\."
    projection = embeddings + r"patch_embeddings\.projection\."
    attention = _LAYER_5X + r"attention\."
    return (
        KeyRule(embeddings + "cls_token", "cls_token", _VECTOR),
        KeyRule(
            embeddings + "position_embeddings", "position_embeddings", _position_transform(config)
        ),
        KeyRule(projection + "weight", "patch_kernel", CONV),
        KeyRule(projection + "bias", "patch_bias", COPY),
        *_dense(
            _LAYER + r"attention\.attention\.(?P<part>query|key|value)", "layers/attention/{part}"
        ),
        *_dense(_LAYER + r"attention\.output\.dense", "layers/attention/out"),
        *_dense(attention + "q_proj", "layers/attention/query"),
        *_dense(attention + "k_proj", "layers/attention/key"),
        *_dense(attention + "v_proj", "layers/attention/value"),
        *_dense(attention + "o_proj", "layers/attention/out"),
        *_norm(_LAYER_5X + "(?P<norm>norm1|norm2)", "layers/{norm}"),
        KeyRule(
            _LAYER_5X + r"(?P<scale>layer_scale1|layer_scale2)\.lambda1", "layers/{scale}", COPY
        ),
        *_dense(_LAYER_5X + r"mlp\.(?P<fc>fc1|fc2)", "layers/{fc}"),
        *_norm(_PREFIX + "(?:layernorm|norm)", "norm"),
    )


# The mask token serves pre-training only; a classifier is no part of the encoder.
IGNORED = re.compile(r"(.*\.)?embeddings\.mask_token|classifier\..*")
