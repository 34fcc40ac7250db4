"""CLIP's ResNets (RN50, RN101, RN50x4 and larger): convolutions, then an attention that pools."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mmjax.encoders.attention import Mask, attend
from mmjax.encoders.clip import CLIP_TEXT
from mmjax.encoders.family import Family
from mmjax.encoders.layers import Dense, Dtype, PyTree, stack
from mmjax.encoders.modules import EncoderModule, ImageTower
from mmjax.errors import MmjaxError
from mmjax.trees import Rules
from mmjax.weights.key_rules import CONV, COPY, KeyRule, Transform, dense_rules

_EPSILON = 1e-5  # of batch norms
_WIDER = 4  # a block's output beside its inner width
_SHRINKS = 32  # pixels a side that become one place of the last grid
_STAGES = 4


@dataclasses.dataclass(frozen=True)
class ClipResNetConfig:
    """Sizes of CLIP's modified ResNet."""

    width: int  # of the first stage's blocks, inside
    layers: tuple[int, ...]  # blocks of each of four stages
    num_heads: int  # of the pool
    image_size: int
    projection_dim: int
    num_channels: int = 3
    class_token: bool = False

    @property
    def hidden_size(self) -> int:
        """Channels of the last grid."""
        return self.width * _SHRINKS

    @property
    def grid(self) -> int:
        """Places a side of the last grid."""
        return self.image_size // _SHRINKS

    @classmethod
    def from_parts(cls, config: Mapping[str, Any]) -> "ClipResNetConfig":
        """Reads what `mmjax.weights.layouts` makes of an OpenAI archive or an open_clip config.

        Args:
          config: `vision_config` with width, layers, heads and image_size, and `projection_dim`.

        Returns:
          The config.

        Raises:
          MmjaxError: other than four stages, heads that do not divide the width, or a picture size
            that the strides do not divide.
        """
        part = config["vision_config"]
        resnet = cls(
            width=part["width"],
            layers=tuple(part["layers"]),
            num_heads=part["num_attention_heads"],
            image_size=part["image_size"],
            projection_dim=config["projection_dim"],
        )
        if len(resnet.layers) != _STAGES or resnet.width % 2:
            raise MmjaxError(
                f"config.json: a CLIP's ResNet of width {resnet.width} and layers {resnet.layers}; "
                f"expected an even width and {_STAGES} stages"
            )
        if resnet.hidden_size % resnet.num_heads:
            raise MmjaxError(
                f"config.json: {resnet.hidden_size} channels are no multiple of {resnet.num_heads} "
                "heads of the pool"
            )
        if resnet.image_size % _SHRINKS:
            raise MmjaxError(
                f"config.json: image_size {resnet.image_size} is no multiple of {_SHRINKS}"
            )
        return resnet

    def for_image_size(self, image_size: int) -> "ClipResNetConfig":
        """The same model; its pool has positions for one picture size alone.

        Raises:
          MmjaxError: another size.
        """
        if image_size != self.image_size:
            raise MmjaxError(
                f"image_size {image_size} is not {self.image_size}, which alone the pool of a "
                "CLIP's ResNet was trained for"
            )
        return self


class FrozenBatchNorm(nn.Module):
    """Batch norm with the statistics that training left behind."""

    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalises every channel by its own constants.

        Args:
          x: float [b, h, w, c].

        Returns:
          Float [b, h, w, c] in `dtype`.
        """
        parts = (("mean", 0), ("variance", 1), ("scale", 1), ("bias", 0))
        mean, variance, scale, bias = (
            self.param(name, nn.initializers.constant(start), (x.shape[-1],), self.param_dtype)
            for name, start in parts
        )
        factor = scale.astype(jnp.float32) * jax.lax.rsqrt(variance.astype(jnp.float32) + _EPSILON)
        offset = bias.astype(jnp.float32) - mean.astype(jnp.float32) * factor
        row = (1, 1, 1, -1)
        return (x.astype(jnp.float32) * factor.reshape(row) + offset.reshape(row)).astype(
            self.dtype
        )


class Conv(nn.Module):
    """A convolution of 3 x 3 without a bias, and its batch norm."""

    features: int
    stride: int = 1
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b k l o"]:
        """Convolves, with a border of zeros.

        Args:
          x: float [b, h, w, in].

        Returns:
          Float [b, h / stride, w / stride, features].
        """
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("conv", nn.initializers.lecun_normal(), shape, self.param_dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return FrozenBatchNorm(self.dtype, self.param_dtype, name="norm")(y)


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b k l c"]:
    """Means of 2 x 2 places: what strides would skip is averaged instead."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class Block(nn.Module):
    """A bottleneck: narrow, convolve, widen, each with its batch norm; then the input is added."""

    width: int  # inside
    stride: int = 1
    project: bool = False  # whether the input's channels are mapped
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> tuple[Float[Array, "b k l o"], None]:
        """Runs the block.

        Args:
          x: float [b, h, w, in].

        Returns:
          (float [b, h / stride, w / stride, 4 * width], None): the pair that a scan wants.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def mapped(name: str, width: int, x: Array) -> Array:
            y = Dense(width, use_bias=False, **dtypes, name=name)(x)
            return FrozenBatchNorm(**dtypes, name=f"{name}_norm")(y)

        hidden = jax.nn.relu(mapped("narrow", self.width, x))
        hidden = jax.nn.relu(Conv(self.width, **dtypes, name="middle")(hidden))
        if self.stride > 1:
            hidden, x = halve(hidden), halve(x)
        hidden = mapped("widen", _WIDER * self.width, hidden)
        if self.project:
            x = mapped("input", _WIDER * self.width, x)
        return jax.nn.relu(x + hidden), None


class ClipResNet(ImageTower):
    """Pictures to one token a place of the last grid, row by row."""

    config: ClipResNetConfig

    @nn.compact
    def encode(self, pixels: Float[Array, "b h w c"], adapters: PyTree) -> Float[Array, "b l d"]:
        """The last grid, float [b, grid * grid, d]; there is no place for an adapter in it.

        Sows the attention pool's projection as the embedding.

        Source:
          Radford et al. 2021 (CLIP, section 2.4); He et al. 2019 for the stem and the means before
          strides; Zhang 2019 for their reason.
        """
        del adapters
        config, dtypes = self.config, self.dtypes
        side = config.image_size
        if pixels.shape[1:] != (side, side, config.num_channels):
            raise MmjaxError(
                f"pixel_values have shape {pixels.shape[1:]}, but this encoder reads "
                f"{(side, side, config.num_channels)}"
            )
        x = pixels.astype(self.dtype)
        half = config.width // 2
        for number, (width, stride) in enumerate(((half, 2), (half, 1), (config.width, 1)), 1):
            x = jax.nn.relu(Conv(width, stride, **dtypes, name=f"stem{number}")(x))
        x = halve(x)
        for number, count in enumerate(config.layers, 1):
            width, stride = config.width << (number - 1), 1 if number == 1 else 2
            x, _ = Block(width, stride, project=True, **dtypes, name=f"stage{number}_first")(x)
            if count > 1:
                rest = stack(Block, count - 1, in_axes=())(
                    width, **dtypes, name=f"stage{number}_rest"
                )
                x, _ = rest(x)
        x = x.reshape(len(x), -1, config.hidden_size)
        self.sow("intermediates", "pooled", AttentionPool(config, **dtypes, name="pool")(x))
        return x


class AttentionPool(EncoderModule):
    """The mean place attends to all places and itself."""

    config: ClipResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b e"]:
        """Pools and projects.

        Args:
          x: float [b, l, d].

        Returns:
          Float [b, projection_dim].
        """
        config, dtypes, (b, l, d) = self.config, self.dtypes, x.shape
        head = d // config.num_heads
        positions = self.param(
            "positions", nn.initializers.normal(d**-0.5), (1 + l, d), self.param_dtype
        )
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + positions.astype(self.dtype)[None]

        def heads(name: str, x: Array) -> Float[Array, "b h k c"]:
            y = Dense(d, **dtypes, name=name)(x)
            return y.reshape(b, -1, config.num_heads, head).swapaxes(1, 2)

        mixed = attend(heads("query", x[:, :1]), [heads("key", x)], [heads("value", x)], Mask())
        return Dense(config.projection_dim, **dtypes, name="out")(mixed.reshape(b, d))


# A convolution of one place is a linear map.
_POINT = Transform(lambda s: (s[1], s[0], 1, 1), lambda x: x[:, :, 0, 0].T)


def _norm(source: str, target: str, first: int = 0) -> list[KeyRule]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    return [KeyRule(rf"{source}\.{a}", f"{target}/{b}", COPY, first) for a, b in names.items()]


def key_table(config: ClipResNetConfig) -> tuple[KeyRule, ...]:
    """How OpenAI's tensors, whose names open_clip shares, map onto the parameters of `ClipResNet`.

    Args:
      config: unused; the names do not depend on sizes.

    Returns:
      The rules.
    """
    del config
    top, pool = r"visual\.", r"visual\.attnpool\."
    rules = [
        KeyRule(top + r"conv(?P<n>[123])\.weight", "stem{n}/conv", CONV),
        *_norm(top + r"bn(?P<n>[123])", "stem{n}/norm"),
    ]
    places = (
        (r"layer(?P<stage>[1-4])\.0\.", "stage{stage}_first", 0),
        (r"layer(?P<stage>[1-4])\.(?P<layer>[1-9]\d*)\.", "stage{stage}_rest", 1),
    )
    for source, block, first in places:
        for theirs, ours in (("1", "narrow"), ("3", "widen")):
            rules += [
                KeyRule(
                    rf"{top}{source}conv{theirs}\.weight", f"{block}/{ours}/kernel", _POINT, first
                ),
                *_norm(rf"{top}{source}bn{theirs}", f"{block}/{ours}_norm", first),
            ]
        rules += [
            KeyRule(rf"{top}{source}conv2\.weight", f"{block}/middle/conv", CONV, first),
            *_norm(rf"{top}{source}bn2", f"{block}/middle/norm", first),
        ]
    source, block, _ = places[0]
    return (
        *rules,
        KeyRule(rf"{top}{source}downsample\.0\.weight", f"{block}/input/kernel", _POINT),
        *_norm(rf"{top}{source}downsample\.1", f"{block}/input_norm"),
        KeyRule(pool + "positional_embedding", "pool/positions", COPY),
        *dense_rules(pool + "q_proj", "pool/query"),
        *dense_rules(pool + "k_proj", "pool/key"),
        *dense_rules(pool + "v_proj", "pool/value"),
        *dense_rules(pool + "c_proj", "pool/out"),
    )


# How many batches the statistics are of; then the text tower and what both share.
IGNORED = re.compile(
    r".*\.num_batches_tracked|logit_scale|input_resolution|context_length|vocab_size|attn_mask"
    r"|(transformer|token_embedding|ln_final|text)\..*|positional_embedding|text_projection"
)


def sharding(config: ClipResNetConfig) -> Rules:
    """Who holds what: the widest maps' channels over `model`; convolutions are whole.

    Args:
      config: unused.

    Returns:
      (anchored pattern, PartitionSpec) pairs.
    """
    del config
    return (
        (r"pool/(query|key|value)/kernel", P(None, "model")),
        (r"pool/(query|key|value)/bias", P("model")),
        (r"pool/out/kernel", P("model", None)),
        (r".*", P()),
    )


CLIP_RESNET_IMAGE = Family(
    "clip_resnet",
    "image",
    ClipResNetConfig.from_parts,
    ClipResNet,
    key_table,
    IGNORED,
    sharding,
    pools=True,
)
CLIP_RESNET = CLIP_TEXT, CLIP_RESNET_IMAGE
