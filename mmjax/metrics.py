"""Metrics as sums and counts: merged over batches and processes, divided once at the end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Mean(NamedTuple):
    """A mean that is still open: `total` is a sum over so many `examples` (both f32 scalars)."""

    total: Float[Array, ""]
    examples: Float[Array, ""]


Metrics = dict[str, Mean]


def mean_of(values: Float[Array, " b"], mask: Float[Array, " b"] | None = None) -> Mean:
    """Sums per-example values and counts the examples that the mask keeps.

    Args:
      values: one f32 value an example.
      mask: 1 for real examples and 0 for padding; all real if None.

    Returns:
      The open mean.
    """
    if mask is None:
        mask = jnp.ones_like(values)
    return Mean(jnp.sum(values * mask), jnp.sum(mask))


def merge(metrics: Iterable[Metrics]) -> Metrics:
    """Adds up sums and counts of the same names."""
    merged: Metrics = {}
    for record in metrics:
        for name, mean in record.items():
            old = merged.get(name)
            merged[name] = (
                mean if old is None else Mean(old.total + mean.total, old.examples + mean.examples)
            )
    return merged


def plain(metrics: Mapping[str, Mean]) -> dict[str, list[float]]:
    """Open means as numbers that JSON keeps exactly: name -> [total, examples]."""
    return {name: [float(mean.total), float(mean.examples)] for name, mean in metrics.items()}


def read_metrics(values: Mapping[str, Sequence[float]]) -> Metrics:
    """What `plain` wrote."""
    return {
        name: Mean(*(jnp.asarray(value, jnp.float32) for value in pair))
        for name, pair in values.items()
    }


def compute(metrics: Mapping[str, Mean]) -> dict[str, float]:
    """Divides: name -> mean as a Python float (nan where nothing was counted)."""
    return {
        name: float(mean.total) / float(mean.examples) if float(mean.examples) else float("nan")
        for name, mean in metrics.items()
    }
