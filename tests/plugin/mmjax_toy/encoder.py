"""An encoder family: patches through one dense map, with the first as the whole picture's mean."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from mmjax.encoders.family import Family
from mmjax.weights.key_rules import dense_rules


@dataclass(frozen=True)
class PatchesConfig:
    """Sizes, as config.json has them."""

    hidden_size: int
    patch_size: int
    image_size: int
    num_channels: int = 3

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "PatchesConfig":
        """Reads config.json."""
        return cls(config["hidden_size"], config["patch_size"], config["image_size"])

    def for_image_size(self, image_size: int) -> "PatchesConfig":
        """The same for pictures of another size."""
        return PatchesConfig(self.hidden_size, self.patch_size, image_size)


class Patches(nn.Module):
    """[b, h, w, c] to tokens [b, 1 + patches, hidden_size]."""

    config: PatchesConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: jax.Array) -> jax.Array:
        """The tokens."""
        b, h, w, c = pixel_values.shape
        p = self.config.patch_size
        cut = pixel_values.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = nn.Dense(self.config.hidden_size, **dtypes, name="dense")
        tokens = nn.relu(dense(cut.reshape(b, -1, p * p * c)))
        return jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)


PATCHES = Family(
    "toy_patches",
    "image",
    PatchesConfig.from_hf,
    Patches,
    lambda config: dense_rules("dense", "dense"),
    re.compile("nothing"),
    lambda config: ((r".*", P()),),
)
