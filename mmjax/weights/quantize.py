"""Frozen kernels as int8, one scale an output channel, or as nf4; activations stay float.

A quantised kernel is an int8 leaf with a float32 leaf `kernel_scale` beside it, or what `nf4.py`
says. `layers.Dense` looks for those leaves, so one module runs any tree, and under `nn.scan` one
layer is converted at a time.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int8

from mmjax.weights import nf4

PyTree = Any
KINDS = ("int8", "nf4")
KERNEL, SCALE = "kernel", "kernel_scale"
STEP, MEAN = "kernel_scale_step", "kernel_scale_mean"  # of an nf4 kernel's scales
# Of an int8 kernel that lies as [out, in], one a row.
ROW_SCALE = "kernel_row_scale"
PARTS = (KERNEL, SCALE, STEP, MEAN, ROW_SCALE)
# XLA's CPU compiler reads a kernel of this order as int8 and makes no float32 one of it, where one
# row is multiplied: that is 6 to 10 times as quick as [in, out].
TURNED = "int8, turned"
_LARGEST = 127


def kind_for(quantize: str | None, mesh: Mesh | AbstractMesh | None) -> str | None:
    """How kernels lie on some devices.

    Args:
      quantize: "int8", "nf4" or None.
      mesh: of the devices; None is the default one.

    Returns:
      The same, but `TURNED` for int8 on CPUs.
    """
    if quantize != "int8" or isinstance(mesh, AbstractMesh):
        return quantize
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return TURNED if platform == "cpu" else quantize


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


def kernel_shape(part: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a dense map's kernel has as floats, [*layers, in, out]."""
    *layers, width_in, width_out = part[KERNEL].shape
    if ROW_SCALE in part:
        return (*layers, width_out, width_in)
    return (*layers, 2 * width_in if STEP in part else width_in, width_out)


def dequantized(part: Mapping[str, Any]) -> Float[Array, "*layers i o"]:
    """The float32 kernel of a dense map, whatever it is kept as.

    Args:
      part: its parameters, stacked or not.

    Returns:
      Float32 [*layers, in, out].
    """
    kernel = jnp.asarray(part[KERNEL])
    if STEP in part:
        return nf4.dequantize(kernel, part[SCALE], part[STEP], part[MEAN])
    kernel = kernel.astype(jnp.float32)
    if ROW_SCALE in part:
        return (kernel * part[ROW_SCALE][..., None]).swapaxes(-1, -2)
    if SCALE in part:
        kernel = kernel * part[SCALE][..., None, :]
    return kernel


def parts(kind: str, shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct] | None:
    """What a kernel becomes.

    Args:
      kind: as `kind_for` says.
      shape: of the kernel, [*layers, in, out].

    Returns:
      Name -> shape and dtype; None where it stays as it is: nf4 needs an even input.
    """
    *layers, width_in, width_out = shape
    if kind == "int8":
        scale = jax.ShapeDtypeStruct((*layers, width_out), jnp.float32)
        return {KERNEL: jax.ShapeDtypeStruct(shape, jnp.int8), SCALE: scale}
    if kind == TURNED:
        turned = jax.ShapeDtypeStruct((*layers, width_out, width_in), jnp.int8)
        return {
            KERNEL: turned,
            ROW_SCALE: jax.ShapeDtypeStruct((*layers, width_out), jnp.float32),
        }
    block = nf4.block_of(width_in)
    if block is None:
        return None
    row = jax.ShapeDtypeStruct((*layers, width_in // block), jnp.float32)
    return {
        KERNEL: jax.ShapeDtypeStruct((*layers, width_in // 2, width_out), jnp.uint8),
        SCALE: jax.ShapeDtypeStruct((*layers, width_in // block, width_out), jnp.int8),
        STEP: row,
        MEAN: row,
    }


def quantized(kind: str, kernel: Float[np.ndarray, "*layers i o"]) -> dict[str, np.ndarray]:
    """A kernel as `parts` says."""
    if kind == TURNED:
        steps, scale = quantize(kernel)
        return {KERNEL: np.ascontiguousarray(steps.swapaxes(-1, -2)), ROW_SCALE: scale}
    names, values = (
        ((KERNEL, SCALE), quantize(kernel))
        if kind == "int8"
        else (
            (KERNEL, SCALE, STEP, MEAN),
            nf4.quantize(kernel),
        )
    )
    return dict(zip(names, values, strict=True))


def placement(
    name: str,
    part: jax.ShapeDtypeStruct,
    kernel: NamedSharding | None,
    ndim: int,
    kind: str = "int8",
) -> NamedSharding | None:
    """Where one part of a quantised kernel lies.

    Args:
      name: of the part.
      part: its shape.
      kernel: where the kernel would lie; None is the default device.
      ndim: of the kernel.
      kind: as `kind_for` says.

    Returns:
      The same axes, as far as it has them and they divide it.
    """
    if kernel is None:
        return None
    axes = (*kernel.spec, *[None] * (ndim - len(kernel.spec)))
    if len(part.shape) < ndim:  # an int8 kernel's scale has outputs, a row of blocks inputs
        axes = (*axes[:-2], axes[-1] if name in (SCALE, ROW_SCALE) else axes[-2])
    elif kind == TURNED:
        axes = (*axes[:-2], axes[-1], axes[-2])
    sizes = kernel.mesh.shape

    def fits(size: int, axis: Any) -> bool:
        names = axis if isinstance(axis, tuple) else (axis,)
        return axis is not None and size % math.prod(sizes[n] for n in names) == 0

    kept = [axis if fits(n, axis) else None for n, axis in zip(part.shape, axes, strict=True)]
    return NamedSharding(kernel.mesh, PartitionSpec(*kept))


def abstract(target: PyTree, kind: str = "int8") -> PyTree:
    """The shapes that a tree of parameters has once its kernels are quantised.

    Args:
      target: nested dict of ShapeDtypeStruct.
      kind: as `kind_for` says.

    Returns:
      The same tree with the kernels' parts in their place.
    """
    out: dict[str, Any] = {}
    for name, leaf in target.items():
        kernel_parts = parts(kind, leaf.shape) if is_kernel(name) else None
        if isinstance(leaf, Mapping):
            out[name] = abstract(leaf, kind)
        elif kernel_parts is not None:
            out |= kernel_parts
        else:
            out[name] = leaf
    return out
