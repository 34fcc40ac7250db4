"""Rotary position embeddings in the half-split layout, with the scalings that LLaMAs use."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmjax.errors import MmjaxError

# What a kind of scaling must say, beside the base.
_BENDS = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", *_BENDS),
    "factors": ("factors",),
}


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """The base period of the rotations, and how they are stretched for longer texts."""

    theta: float = 10000.0
    kind: Literal["default", "linear", "llama3", "factors"] = "default"
    factor: float = 1.0
    factors: tuple[float, ...] = ()  # "factors" only: one a frequency, as GGUF files have them
    low_freq_factor: float = 1.0  # llama3 only, as the two below
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    # Qwen-VL: how many pairs of channels turn with a token's time, its row and its column.
    sections: tuple[int, ...] = ()

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "RopeConfig":
        """Reads Hugging Face's config.json, of transformers 4 or 5.

        Args:
          config: its content; 4 has `rope_theta` and `rope_scaling`, 5 one `rope_parameters`.

        Returns:
          The config.

        Raises:
          MmjaxError: a scaling other than linear and llama3 or without one of its numbers, or a
            rotation of part of a head.
        """
        rope = {"rope_theta": config.get("rope_theta", 10000.0)}
        rope |= config.get("rope_scaling") or {}
        rope |= config.get("rope_parameters") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        kind = "default" if kind == "mrope" else kind  # whose sections its family reads
        if kind not in SCALINGS:
            raise MmjaxError(
                f"config.json: rope scaling {kind!r} is not supported; default, linear or llama3"
            )
        for key in SCALINGS[kind]:
            if key not in rope:
                raise MmjaxError(f"config.json: rope scaling {kind!r} lacks {key!r}")
        if kind == "factors":
            factors = tuple(float(x) for x in rope["factors"])
            return cls(float(rope["rope_theta"]), kind, factors=factors)
        partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0
        if partial != 1.0:
            raise MmjaxError(f"config.json: partial_rotary_factor {partial} is not supported")
        scaling: dict[str, Any] = {} if kind == "default" else {"factor": float(rope["factor"])}
        if kind == "llama3":
            scaling |= {
                "low_freq_factor": float(rope["low_freq_factor"]),
                "high_freq_factor": float(rope["high_freq_factor"]),
                "original_max_positions": int(rope["original_max_position_embeddings"]),
            }
            if scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
                raise MmjaxError(
                    f"config.json: high_freq_factor {scaling['high_freq_factor']} is not above "
                    f"low_freq_factor {scaling['low_freq_factor']}"
                )
        return cls(theta=float(rope["rope_theta"]), kind=kind, **scaling)

    def frequencies(self, head_dim: int) -> Float[np.ndarray, "half"]:
        """Radians a position, for each pair of channels.

        Args:
          head_dim: channels of one head.

        Returns:
          Float32 [head_dim / 2].

        Source:
          Su et al. 2021 (RoFormer); Chen et al. 2023 for the linear scaling; the model card of
          Llama 3.1 for llama3: long waves are stretched, short ones kept, those between blended.
        """
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
        frequencies = (1.0 / self.theta**exponents).astype(np.float32)
        if self.kind == "linear":
            return frequencies / np.float32(self.factor)
        if self.kind == "factors":
            return frequencies / np.array(self.factors, np.float32)
        if self.kind == "llama3":
            waves = self.original_max_positions * frequencies / (2 * math.pi)
            span = self.high_freq_factor - self.low_freq_factor
            kept = np.clip((waves - self.low_freq_factor) / span, 0, 1)
            frequencies = kept * frequencies + (1 - kept) * frequencies / self.factor
        return frequencies.astype(np.float32)


def angles(
    positions: Int[Array, "b l"], frequencies: Float[np.ndarray | Array, "half"]
) -> tuple[Float[Array, "b l half"], Float[Array, "b l half"]]:
    """Cosines and sines of every position's rotations, float32 [b, l, head_dim / 2] each."""
    turned = positions[..., None].astype(jnp.float32) * frequencies[None, None]
    return jnp.cos(turned), jnp.sin(turned)


def sectioned_angles(
    positions: Int[Array, "b l 3"],
    frequencies: Float[np.ndarray, "half"],
    sections: Sequence[int],
) -> tuple[Float[Array, "b l half"], Float[Array, "b l half"]]:
    """The same where each section of frequencies has a position of its own.

    Args:
      positions: int [b, l, 3]: time, row, column.
      frequencies: float32 [head_dim / 2].
      sections: how many of them turn with each.

    Returns:
      (cosines, sines), float32 [b, l, head_dim / 2].

    Source:
      Wang et al. 2024 (Qwen2-VL, section 2.1: M-RoPE).
    """
    owner = np.repeat(np.arange(len(sections)), sections)
    turned = positions[..., owner].astype(jnp.float32) * frequencies[None, None]
    return jnp.cos(turned), jnp.sin(turned)


def rotate(
    x: Float[Array, "b h l c"], cos: Float[Array, "b l half"], sin: Float[Array, "b l half"]
) -> Float[Array, "b h l c"]:
    """Rotates each head's pairs of channels (i, i + c / 2).

    Args:
      x: float [b, heads, l, head_dim].
      cos: float32 [b, l, head_dim / 2].
      sin: the same.

    Returns:
      Float [b, heads, l, head_dim] in the dtype of x.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
