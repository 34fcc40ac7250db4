"""Frozen kernels as int8, one scale an output channel; activations keep their float dtype.

A quantised kernel is an int8 leaf with a float32 leaf `kernel_scale` beside it. `layers.Dense`
looks for that leaf, so one module runs either tree, and under `nn.scan` one layer is converted at a
time.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int8

PyTree = Any
KERNEL, SCALE = "kernel", "kernel_scale"
_LARGEST = 127


def is_kernel(path: str) -> bool:
    """Whether a parameter's path is that of a `layers.Dense` kernel."""
    return path.rsplit("/", 1)[-1] == KERNEL


def quantize(
    kernel: Float[np.ndarray, "*layers i o"],
) -> tuple[Int8[np.ndarray, "*layers i o"], Float[np.ndarray, "*layers o"]]:
    """Rounds every output channel to multiples of a 127th of its largest weight.

    Args:
      kernel: float [*layers, in, out].

    Returns:
      (int8 [*layers, in, out], float32 scale [*layers, out]): their product is the kernel, off by
      at most half a scale.
    """
    kernel = kernel.astype(np.float32)
    scale = np.abs(kernel).max(axis=-2) / np.float32(_LARGEST)
    # A channel of zeros has no scale to divide by.
    steps = np.rint(kernel / np.where(scale > 0, scale, 1)[..., None, :])
    return steps.astype(np.int8), scale


def abstract(target: PyTree) -> PyTree:
    """The shapes that a tree of parameters has once its kernels are int8.

    Args:
      target: nested dict of ShapeDtypeStruct.

    Returns:
      The same tree with int8 kernels and a float32 scale beside each.
    """
    out: dict[str, Any] = {}
    for name, leaf in target.items():
        if isinstance(leaf, Mapping):
            out[name] = abstract(leaf)
        elif is_kernel(name):
            out[name] = jax.ShapeDtypeStruct(leaf.shape, jnp.int8)
            out[SCALE] = jax.ShapeDtypeStruct((*leaf.shape[:-2], leaf.shape[-1]), jnp.float32)
        else:
            out[name] = leaf
    return out
