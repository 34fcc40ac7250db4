"""Accelerators by their makers' published figures, and topologies by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmjax.errors import MmjaxError

_GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """One device, as JAX counts them.

    Attributes:
      name: as topologies name it.
      flops: peak of dense bfloat16 products, FLOPs a second.
      hbm_bytes: memory.
      hbm_rate: bytes a second to and from it.
      link_rate: bytes a second that a device sends to its neighbours, one way.
      platform: JAX's name of what compiles for it.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_rate: float
    link_rate: float
    platform: str = "tpu"


# Peaks of cloud.google.com/tpu/docs (one page a version) and NVIDIA's data sheets (SXM, without
# sparsity). A link's rate is half of the interconnect's published rate, which counts both ways.
CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * _GIB, 1228e9, 150e9),
        Chip("v5e", 197e12, 16 * _GIB, 819e9, 100e9),
        Chip("v5p", 459e12, 95 * _GIB, 2765e9, 300e9),
        Chip("v6e", 918e12, 32 * _GIB, 1640e9, 224e9),
        Chip("a100", 312e12, 80 * _GIB, 2039e9, 300e9, "cuda"),
        Chip("h100", 989e12, 80 * _GIB, 3350e9, 450e9, "cuda"),
        Chip("h200", 989e12, 141 * _GIB, 4800e9, 450e9, "cuda"),
    )
}
# Accelerator types as Google sells them. Those of v4 and v5p count cores, two a chip.
_FLAT = {
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_CUBE = {
    8: "2x2x1",
    16: "2x2x2",
    32: "2x2x4",
    64: "2x4x4",
    128: "4x4x4",
    256: "4x4x8",
    512: "4x8x8",
    1024: "8x8x8",
    2048: "8x8x16",
}


@dataclass(frozen=True)
class Topology:
    """Devices that are not here.

    Attributes:
      chip: what each is.
      shape: of a TPU slice, `16x16`; of GPUs how many.
      devices: in all slices.
      slices: joined by a slower network.
    """

    chip: Chip
    shape: str
    devices: int
    slices: int = 1

    def __str__(self) -> str:
        several = f" x {self.slices} slices" if self.slices > 1 else ""
        return f"{self.chip.name}:{self.shape}{several}"


def read_topology(text: str, slices: int = 1) -> Topology:
    """Reads `v5e:16x16`, `v5e-256`, `v5p-256` or `cuda:h100:8`.

    Args:
      text: as `--topology` takes it.
      slices: how many such slices together.

    Returns:
      The topology.

    Raises:
      MmjaxError: no such chip or size.
    """
    name, _, shape = text.lower().removeprefix("cuda:").partition(":")
    sold = re.fullmatch(r"(v\d\w?|v5litepod|v5lite)-(\d+)", name)
    if sold and not shape:
        name = {"v5litepod": "v5e", "v5lite": "v5e"}.get(sold[1], sold[1])
        sizes = _FLAT if name in ("v5e", "v6e") else _CUBE
        shape = sizes.get(int(sold[2]), "")
        if not shape:
            names = ", ".join(f"{name}-{size}" for size in sizes)
            raise MmjaxError(f"--topology {text!r} is no size of {name}; known: {names}")
    chip = CHIPS.get(name)
    if chip is None:
        raise MmjaxError(
            f"--topology {text!r} names no chip that is known; expected one of "
            f"{', '.join(CHIPS)}, e.g. v5e:16x16, v5p-256 or cuda:h100:8"
        )
    pattern = r"\d+(x\d+){1,2}" if chip.platform == "tpu" else r"\d+"
    if not re.fullmatch(pattern, shape):
        example = "v5e:2x4" if chip.platform == "tpu" else f"cuda:{name}:8"
        raise MmjaxError(f"--topology {text!r} has no size that can be read; e.g. {example}")
    devices = 1
    for size in shape.split("x"):
        devices *= int(size)
    if not devices or slices < 1:
        raise MmjaxError(f"--topology {text!r} with --slices {slices} has no devices")
    return Topology(chip, shape, devices * slices, slices)
