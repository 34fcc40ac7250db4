"""The vision transformer that DINOv2, ViT and CLIP's image tower share."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mmjax.checks.foreign import integer
from mmjax.encoders import inserted
from mmjax.encoders.layers import PRE_NORM_RULES, Dense, LayerNorm, PreNormLayer, check_sizes
from mmjax.encoders.modules import AttendingModule, ImageTower
from mmjax.errors import MmjaxError
from mmjax.weights.key_rules import Shape, Transform

PyTree = Any
MOST_PATCHES = 100  # a side


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision transformer, the picture size that it is loaded for, and its variant."""

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
    patch_bias: bool = True
    layer_scale: bool = False  # DINOv2
    pre_norm: bool = False  # CLIP: a norm of the embeddings, and the last norm on the class token
    projection_dim: int | None = None  # CLIP: width of the joint space
    registers: int = 0  # DINOv2: tokens behind the class token that are thrown away in the end
    antialias: bool = False  # whether smaller tables of positions are averaged, not picked
    feature_layers: tuple[int, ...] = ()  # LLaVA: give the tokens after these layers, side by side

    @property
    def num_patches(self) -> int:
        """Patches of one picture."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], **variant: Any) -> "VisionConfig":
        """Reads the sizes that Hugging Face's picture models have in common.

        Args:
          config: content of config.json.
          **variant: fields that the family sets.

        Returns:
          The config, for pictures of the trained size.

        Raises:
          MmjaxError: oblong patches or pictures, or a size that attention cannot have.
        """
        sides: dict[str, int] = {}
        for name in ("image_size", "patch_size"):
            value = config[name]
            value = tuple(value) if isinstance(value, list) else (value, value)
            if value[0] != value[1]:
                raise MmjaxError(f"config.json: {name} {value} is not square")
            sides[name] = value[0]
        if sides["patch_size"] > sides["image_size"]:
            raise MmjaxError(
                f"config.json: patch_size {sides['patch_size']} is larger than image_size "
                f"{sides['image_size']}"
            )
        act = config.get("hidden_act", "gelu")
        check_sizes(config["hidden_size"], config["num_attention_heads"], act)
        sizes: dict[str, Any] = {"intermediate_size": config.get("intermediate_size")}
        return cls(
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            patch_size=sides["patch_size"],
            image_size=sides["image_size"],
            trained_image_size=sides["image_size"],
            num_channels=config.get("num_channels", 3),
            layer_norm_eps=config["layer_norm_eps"],
            hidden_act=act,
            qkv_bias=config.get("qkv_bias", True),
            **(sizes | variant),
        )

    def for_image_size(self, image_size: int) -> "VisionConfig":
        """The same model for pictures of another size.

        Args:
          image_size: side in pixels; a multiple of the patch size, or the trained one, of which the
            rows and columns behind the last whole patch are not read.

        Returns:
          The config.

        Raises:
          MmjaxError: another side that is no positive multiple of the patch size, or far too long.
        """
        # Every patch attends to every other: more of them is a slip of the pen.
        integer("image_size", image_size, self.patch_size, self.patch_size * MOST_PATCHES)
        if image_size % self.patch_size and image_size != self.trained_image_size:
            nearest = max(1, round(image_size / self.patch_size)) * self.patch_size
            raise MmjaxError(
                f"image_size {image_size} is not a multiple of the patch size {self.patch_size}; "
                f"the nearest is {nearest}"
            )
        return dataclasses.replace(self, image_size=image_size)


class _WholeLayer(PreNormLayer):
    """The same layer, of which a scan keeps all tokens and not the first alone."""

    def __call__(self, *arguments: Any, **named: Any) -> tuple[Float[Array, "b l d"], Any]:
        """As `PreNormLayer`."""
        x, _ = super().__call__(*arguments, **named)
        return x, x


def check_pixels(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuses pixels of another shape than an encoder was loaded for.

    Args:
      found: their shape, without the batch.
      expected: of what the encoder reads.

    Raises:
      MmjaxError: names both.
    """
    if found != expected:
        raise MmjaxError(
            f"pixel_values have shape {found}, but this encoder was loaded for {expected}; "
            "pass image_size= to load_encoder"
        )


def cut_patches(pixel_values: Float[Array, "b h w c"], side: int) -> Float[Array, "b n k"]:
    """Whole squares of pixels, row by row: float [b, h // side * w // side, side * side * c]."""
    b, h, w, c = pixel_values.shape
    rows, columns = h // side, w // side
    patches = pixel_values[:, : rows * side, : columns * side]
    patches = patches.reshape(b, rows, side, columns, side, c)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, side * side * c)


class VisionTransformer(ImageTower, AttendingModule):
    """Pictures to tokens: the class token first, then the patches row by row."""

    config: VisionConfig

    @nn.compact
    def encode(self, pixels: Float[Array, "b h w c"], adapters: PyTree) -> Float[Array, "b l d"]:
        """Hidden states after the last norm, float [b, 1 + num_patches, d].

        For CLIP after the last layer, as its norm is for the class token alone; with
        `feature_layers` [b, l, k * d]. Sows every layer's class token and, for CLIP, the projected
        embedding.

        Source:
          Dosovitskiy et al. 2021 (ViT), Radford et al. 2021 (CLIP), Oquab et al. 2023 (DINOv2).
        """
        config, dtypes = self.config, self.dtypes
        b, h, w, c = pixels.shape
        d, p = config.hidden_size, config.patch_size
        check_pixels((h, w, c), (config.image_size, config.image_size, config.num_channels))
        kernel = self.param(
            "patch_kernel", nn.initializers.lecun_normal(), (p, p, c, d), self.param_dtype
        )
        cls_token = self.param("cls_token", nn.initializers.zeros, (d,), self.param_dtype)
        positions = self.table("position_embeddings", 1 + config.num_patches, d)
        # A convolution whose stride is its size is one matrix product over cut-out patches, which
        # is several times quicker on CPU.
        patches = cut_patches(pixels, p).astype(self.dtype)
        x = patches @ kernel.reshape(p * p * c, d).astype(self.dtype)
        if config.patch_bias:
            bias = self.param("patch_bias", nn.initializers.zeros, (d,), self.param_dtype)
            x = x + bias.astype(self.dtype)[None, None]
        first = jnp.broadcast_to(cls_token.astype(self.dtype)[None, None], (b, 1, d))
        x = jnp.concatenate([first, x], axis=1) + positions.astype(self.dtype)[None]

        if config.registers:
            own = (config.registers, d)
            more = self.param("register_tokens", nn.initializers.zeros, own, self.param_dtype)
            more = jnp.broadcast_to(more.astype(self.dtype)[None], (b, *own))
            x = jnp.concatenate([x[:, :1], more, x[:, 1:]], axis=1)

        def norm(name: str) -> nn.LayerNorm:
            return LayerNorm(config.layer_norm_eps, **dtypes, name=name)

        if config.pre_norm:
            x = norm("pre_norm")(x)
        several = len(config.feature_layers) > 1
        block = _WholeLayer if several else PreNormLayer
        layers = self.pre_norm_layers(
            block, qkv_bias=config.qkv_bias, layer_scale=config.layer_scale
        )
        x, _, adapters = inserted.insert(self.hook, adapters, x, None, 1)
        x, class_tokens = layers(x, None, adapters)
        x = inserted.remove(self.hook, x, 1)
        if config.registers:
            x = jnp.concatenate([x[:, :1], x[:, 1 + config.registers :]], axis=1)
        if several:
            read = [class_tokens[i - 1] for i in config.feature_layers]
            return inserted.remove(self.hook, jnp.concatenate(read, axis=-1), 1)
        if config.feature_layers:  # num_layers is its number
            return x
        self.sow("intermediates", "class_tokens", class_tokens)
        if not config.pre_norm:
            return norm("norm")(x)
        pooled = norm("norm")(x[:, 0])
        if config.projection_dim is not None:
            project = Dense(config.projection_dim, use_bias=False, **dtypes, name="projection")
            pooled = project(pooled)
        self.sow("intermediates", "pooled", pooled)
        return x


def class_tokens(
    module: nn.Module,
    params: PyTree,
    pixel_values: Float[Array, "b h w c"],
    adapters: PyTree = None,
) -> Float[Array, "n b d"]:
    """The class token after every layer, before the last norm; pure.

    Args:
      module: a `VisionTransformer`.
      params: its parameters.
      pixel_values: float [b, image_size, image_size, 3], normalised.
      adapters: parameters for its hook; leaves [layers, ...].

    Returns:
      Float [layers, b, d].
    """
    applied = module.apply({"params": params}, pixel_values, adapters, mutable="intermediates")
    _, sown = cast(tuple[jax.Array, Mapping[str, Any]], applied)
    return sown["intermediates"]["class_tokens"][0]


SHARDING = (*PRE_NORM_RULES, (r".*", P()))


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


def _averaging_weights(size_in: int, size_out: int) -> Float[np.ndarray, "o i"]:
    """The same with antialiasing, which torch does as Pillow: a = -0.5, widened when shrinking."""
    a, scale = -0.5, size_in / size_out
    wide = max(scale, 1.0)
    centre = (np.arange(size_out) + 0.5) * scale
    x = np.abs((np.arange(size_in)[None] + 0.5 - centre[:, None]) / wide)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def resize_positions(
    positions: Float[np.ndarray, "m d"], grid: int, antialias: bool = False
) -> Float[np.ndarray, "n d"]:
    """Interpolates a table of positions to another grid of patches.

    Args:
      positions: float [1 + g * g, d]: the class token's, then the grid's rows.
      grid: patches a side that are wanted.
      antialias: whether the table is averaged where it shrinks.

    Returns:
      Float32 [1 + grid * grid, d]; the table itself where the grid is the same.

    Source:
      Dinov2Embeddings.interpolate_pos_encoding in transformers: bicubic with a = -0.75, pixel
      centres at one half, no widening when shrinking.
    """
    trained = round((positions.shape[0] - 1) ** 0.5)
    if trained == grid:
        return positions.astype(np.float32)
    weights = (_averaging_weights if antialias else _cubic_weights)(trained, grid)
    table = positions[1:].astype(np.float64).reshape(trained, trained, -1)
    resized = np.einsum("ai,bj,ijd->abd", weights, weights, table, optimize=True)
    resized = resized.reshape(grid * grid, -1)
    return np.concatenate([positions[:1].astype(np.float64), resized]).astype(np.float32)


def position_transform(config: VisionConfig, leading: Shape = ()) -> Transform:
    """How a checkpoint's table of positions becomes the one that is wanted.

    Args:
      config: says which size was trained and which is wanted.
      leading: axes of size 1 that the checkpoint has in front.

    Returns:
      The transform.
    """
    trained = config.trained_image_size // config.patch_size
    grid = config.image_size // config.patch_size

    def source_shape(target: Shape) -> Shape:
        return (*leading, 1 + trained * trained, target[-1])

    def resize(x: np.ndarray) -> np.ndarray:
        return resize_positions(x.reshape(x.shape[-2:]), grid, config.antialias)

    return Transform(source_shape, resize)
