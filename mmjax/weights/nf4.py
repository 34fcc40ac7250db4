"""Frozen kernels in four bits: a normal float a weight, a scale a block, and a scale of scales.

Two weights of neighbouring input channels share a byte of `kernel`. Blocks go along the input
channels; their scales are int8 themselves, multiples of one step a row of blocks around its mean.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, UInt8

BLOCK = 64  # weights that share a scale; fewer where a kernel's input has not so many
_STEPS = 127
# Quantiles of the normal distribution, their largest being 1; zero is one of them.
VALUES = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)


def block_of(width_in: int) -> int | None:
    """Weights of a block along an input of this width; None where two do not share a byte."""
    block = math.gcd(width_in, BLOCK)
    return block if block > 1 else None


def quantize(
    kernel: Float[np.ndarray, "*layers i o"],
) -> tuple[
    UInt8[np.ndarray, "*layers half o"],
    Int8[np.ndarray, "*layers blocks o"],
    Float[np.ndarray, "*layers blocks"],
    Float[np.ndarray, "*layers blocks"],
]:
    """Rounds every block to the sixteen values times its largest weight.

    Args:
      kernel: float [*layers, in, out]; `block_of(in)` is a number.

    Returns:
      (codes uint8 [*layers, in / 2, out], scales int8 [*layers, in / block, out], the step of the
      scales float32 [*layers, in / block], their mean, the same).

    Source: Dettmers et al. 2023 (QLoRA, arXiv 2305.14314), equations 4 and 5, with linear int8 for
      the scales where the original has a dynamic 8-bit float.
    """
    block = block_of(kernel.shape[-2])
    assert block is not None
    *layers, width_in, width_out = kernel.shape
    blocks = kernel.astype(np.float32).reshape(*layers, width_in // block, block, width_out)
    largest = np.abs(blocks).max(axis=-2)
    mean = largest.mean(axis=-1, dtype=np.float32)
    step = np.abs(largest - mean[..., None]).max(axis=-1) / np.float32(_STEPS)
    scale = np.rint((largest - mean[..., None]) / np.where(step > 0, step, 1)[..., None])
    kept = np.maximum(mean[..., None] + scale * step[..., None], 0)  # what is multiplied by later
    unit = blocks / np.where(kept > 0, kept, 1)[..., None, :]
    edges = (VALUES[1:] + VALUES[:-1]) / 2
    codes = np.searchsorted(edges, unit.reshape(*layers, width_in, width_out)).astype(np.uint8)
    packed = codes[..., ::2, :] | codes[..., 1::2, :] << 4
    return packed, scale.astype(np.int8), step, mean


def dequantize(
    codes: UInt8[Array, "*layers half o"],
    scale: Int8[Array, "*layers blocks o"],
    step: Float[Array, "*layers blocks"],
    mean: Float[Array, "*layers blocks"],
) -> Float[Array, "*layers i o"]:
    """The float32 kernel [*layers, in, out]; see `quantize`."""
    *layers, half, width_out = codes.shape
    pairs = jnp.stack([codes & 15, codes >> 4], axis=-2)
    values = jnp.asarray(VALUES)[pairs.astype(jnp.int32)]
    largest = jnp.maximum(mean[..., None] + scale.astype(jnp.float32) * step[..., None], 0)
    blocks = values.reshape(*layers, scale.shape[-2], -1, width_out)
    return (blocks * largest[..., None, :]).reshape(*layers, 2 * half, width_out)
