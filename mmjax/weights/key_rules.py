"""Which tensor of a checkpoint becomes which parameter: what families' key tables are made of."""

import dataclasses
from collections.abc import Callable, Iterable
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
ROWS = Transform(lambda s: (1, *s), lambda x: x[0])  # several, with an axis for the batch


@dataclasses.dataclass(frozen=True)
class KeyRule:
    """Maps the tensors whose whole name matches `pattern` to a parameter.

    A group `layer` less `first`, or its place among `numbers`, is the index on the parameter's
    leading (scanned) axis; other named groups fill the target's {placeholders}.
    """

    pattern: str
    target: str
    transform: Transform
    first: int = 0  # the number of the first layer that is scanned
    numbers: tuple[int, ...] | None = None  # of scanned layers, in order, between others

    def index(self, layer: int) -> int | None:
        """A layer's index on the scanned axis; None where the rule is for other layers."""
        if self.numbers is None:
            return layer - self.first
        return self.numbers.index(layer) if layer in self.numbers else None


def rules_inside(rules: Iterable[KeyRule], prefix: str, part: str) -> list[KeyRule]:
    """Rules of a model that is a part of another.

    Args:
      rules: of the model alone.
      prefix: what stands in front of its tensors' names, a pattern.
      part: the same of its parameters' paths.

    Returns:
      As many rules.
    """
    return [
        dataclasses.replace(r, pattern=prefix + r.pattern, target=f"{part}/{r.target}")
        for r in rules
    ]


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
