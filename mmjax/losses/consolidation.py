"""Elastic weight consolidation: parameters that mattered for earlier data are held."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.trees import PyTree

ExampleLosses = Callable[[PyTree, PyTree, PyTree], Float[Array, " b"]]


class Prior(NamedTuple):
    """What earlier training says of the parameters.

    Attributes:
      anchor: where they stood.
      fisher: the same tree: how much each of them mattered, at least 0.
    """

    anchor: PyTree
    fisher: PyTree


def fisher_diagonal(
    losses: ExampleLosses, params: PyTree, frozen: PyTree, batches: Iterable[PyTree]
) -> PyTree:
    """The diagonal of the empirical Fisher information: E_i[(d loss_i / d params)^2].

    Args:
      losses: (params, frozen, batch) -> -log p of every example [b], without dropout.
      params: where the earlier training ended.
      frozen: what else the losses read.
      batches: of earlier training data, all of one shape.

    Returns:
      The same tree as `params`, f32, at least 0.

    Source: Kirkpatrick et al., 2017, with the labels of the data (the "empirical" Fisher).
    """

    @jax.jit
    def add(sums: PyTree, params: PyTree, frozen: PyTree, batch: PyTree) -> PyTree:
        each, pull = jax.vjp(lambda p: losses(p, frozen, batch), params)

        # One example after the other: all at once would hold b copies of the parameters.
        def square(total: PyTree, one_hot: Float[Array, " b"]) -> tuple[PyTree, None]:
            (gradient,) = pull(one_hot)
            return jax.tree.map(lambda t, g: t + jnp.square(g), total, gradient), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(square, zeros, jnp.eye(len(each), dtype=each.dtype))
        return jax.tree.map(jnp.add, sums, (total, jnp.float32(len(each))))

    sums = (jax.tree.map(jnp.zeros_like, params), jnp.float32(0))
    for batch in batches:
        # One at a time: emulated devices wait for each other for ever when many reductions of all
        # devices are in flight, for each holds a thread and threads are few.
        sums = jax.block_until_ready(add(sums, params, frozen, batch))
    fisher, examples = sums
    return jax.tree.map(lambda f: f / examples, fisher)


def penalty(params: PyTree, prior: Prior) -> Float[Array, ""]:
    """1/2 sum_k fisher_k (params_k - anchor_k)^2; 0 at the anchor.

    Args:
      params: what is trained now.
      prior: of the earlier training; the same tree twice.

    Returns:
      An f32 scalar.

    Source: Kirkpatrick et al., 2017, equation 3, without its weight.
    """
    parts = jax.tree.map(
        lambda p, a, f: jnp.sum(f * jnp.square(p - a)), params, prior.anchor, prior.fisher
    )
    return sum(jax.tree.leaves(parts), start=jnp.zeros(())) / 2
