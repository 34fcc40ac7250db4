"""Which tensor of a checkpoint becomes which parameter: what families' key tables are made of."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """How one tensor of a checkpoint becomes (a layer of) one parameter."""

    source_shape: Callable[[Shape], Shape]  # the parameter's shape -> the tensor's
    apply: Callable[[np.ndarray], np.ndarray]


COPY = Transform(lambda s: s, lambda x: x)
# torch keeps linear weights as [out, in], Flax as [in, out].
TRANSPOSE = Transform(lambda s: s[::-1], lambda x: x.T)
# torch: out, in, height, width.  Flax: height, width, in, out.
CONV = Transform(lambda s: (s[3], s[2], s[0], s[1]), lambda x: x.transpose(2, 3, 1, 0))

# Class tokens come with axes for the batch and the sequence.
VECTOR = Transform(lambda s: (1, 1, *s), lambda x: x[0, 0])


@dataclasses.dataclass(frozen=True)
class KeyRule:
    """Maps the tensors whose whole name matches `pattern` to a parameter.

    A group `layer` is the index on the parameter's leading (scanned) axis; other named groups fill
    the target's {placeholders}.
    """

    pattern: str
    target: str
    transform: Transform


def dense_rules(source: str, target: str) -> list[KeyRule]:
    """Rules for a torch linear layer: `source` is a pattern, `target` a path of parameters."""
    return [
        KeyRule(source + r"\.weight", f"{target}/kernel", TRANSPOSE),
        KeyRule(source + r"\.bias", f"{target}/bias", COPY),
    ]


def norm_rules(source: str, target: str) -> list[KeyRule]:
    """Rules for a torch layer norm. Old TensorFlow conversions say gamma and beta."""
    return [
        KeyRule(source + r"\.(?:weight|gamma)", f"{target}/scale", COPY),
        KeyRule(source + r"\.(?:bias|beta)", f"{target}/bias", COPY),
    ]
