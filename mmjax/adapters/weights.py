"""Weights of the frozen model that learn: all of them, or those that a pattern names."""

import dataclasses
import re
from collections.abc import Iterator

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax import trees
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError

_STACK = re.compile(r"(.*?/)?(layers/)(.*)")  # where all layers' leaves lie in one array


@dataclasses.dataclass(frozen=True)
class Weights:
    """What is added to weights by path, zero at first: the frozen model is as it was.

    No hook of a layer, but of the whole tower: `Encoder.with_hook` takes it all the same. Of frozen
    weights in bfloat16 the sum is rounded to bfloat16, the difference itself is float32. Weight
    decay pulls the difference to zero, and so the weights to where they began (L2-SP).

    Attributes:
      targets: anchored patterns of parameters' paths; a layer's begin with its number, so that
        `layers/1[01]/.*` are the last two of twelve, `.*/norm1/.*` every layer's first norm.

    Source: for the decay Li et al. 2018 (arXiv 1802.01483).
    """

    targets: tuple[str, ...] = (".*",)

    def init(self, key: Key[Array, ""], params: PyTree) -> PyTree:
        """Differences of zero.

        Args:
          key: not read: nothing is drawn.
          params: the tower's whole parameters (or their shapes).

        Returns:
          A part of that tree, float32; of stacked layers those that are chosen.

        Raises:
          MmjaxError: a pattern that names no parameter, or one whose kernel is quantised.
        """
        differences: dict[str, Array] = {}
        for path, leaf, rows in self._chosen(params):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise MmjaxError(
                    f"{type(self).__name__} targets {path}, which is {leaf.dtype}: quantised "
                    "weights cannot be trained; load the model without quantize, or train an "
                    "adapter beside them"
                )
            shape = leaf.shape if rows is None else (len(rows), *leaf.shape[1:])
            differences[path] = jnp.zeros(shape)
        return flax.traverse_util.unflatten_dict(differences, sep="/")

    def tuned(self, params: PyTree, adapters: PyTree) -> PyTree:
        """The tower's parameters with the differences in them; pure."""
        moved = dict(trees.named_leaves(adapters))
        rows_of = {path: rows for path, _, rows in self._chosen(params)}

        def put(at: tuple[jax.tree_util.KeyEntry, ...], leaf: Array) -> Array:
            path = trees.path_of(at)
            if path not in moved:
                return leaf
            added, rows = moved[path], rows_of[path]
            if rows is None or len(rows) == len(leaf):
                return (leaf + added).astype(leaf.dtype)
            return leaf.at[jnp.array(rows)].add(added.astype(leaf.dtype))

        return jax.tree_util.tree_map_with_path(put, params)

    def _chosen(self, params: PyTree) -> Iterator[tuple[str, Array, tuple[int, ...] | None]]:
        """Yields (path, leaf, which of its layers; None where it has none) of all that learns."""
        used = set[str]()
        for path, leaf in trees.named_leaves(params):
            stacked = _STACK.fullmatch(path)
            if stacked is None:
                hits = [t for t in self.targets if re.fullmatch(t, path)]
                used.update(hits)
                if hits:
                    yield path, leaf, None
                continue
            before, layers, rest = stacked[1] or "", stacked[2], stacked[3]
            rows = list[int]()
            for row in range(leaf.shape[0]):
                name = f"{before}{layers}{row}/{rest}"
                hits = [t for t in self.targets if re.fullmatch(t, name)]
                used.update(hits)
                rows += [row] * bool(hits)
            if rows:
                yield path, leaf, tuple(rows)
        unused = [t for t in self.targets if t not in used]
        if unused or not self.targets:
            paths = sorted(
                {
                    re.sub(r"(.*?/)?layers/", r"\1layers/N/", p)
                    for p, _ in trees.named_leaves(params)
                }
            )
            raise MmjaxError(
                f"{type(self).__name__} targets {tuple(unused) or self.targets}: no parameter has "
                f"such a path; there are {paths}"
            )
