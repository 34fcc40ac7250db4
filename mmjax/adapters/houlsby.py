"""Houlsby's adapters: a bottleneck after attention and after the feed-forward part of a layer."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax.adapters.hooks import (
    ATTENTION_OUTPUT,
    DROPOUT,
    FEED_FORWARD_OUTPUT,
    dropout,
    unmerged,
    widths,
)
from mmjax.encoders.layers import PyTree, activation
from mmjax.specs.bounds import Rate, Scale, Width


@dataclasses.dataclass(frozen=True)
class Houlsby:
    """y + scale * (U dropout(act(D z + d)) + u) in place of what a branch adds, z = y.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`). U and u start at zero, so that
    the model is unchanged; the paper starts near zero.

    Attributes:
      bottleneck: width of the hidden layer.
      act: its activation.
      scale: of what is added.
      dropout: rate on the hidden layer while training.

    Source: Houlsby et al. 2019 (arXiv 1902.00751), section 2.1.
    """

    bottleneck: Width = 64
    act: Literal["relu", "gelu", "silu"] = "gelu"
    scale: Scale = 1.0
    dropout: Rate = 0.0
    places: ClassVar[tuple[str, ...]] = (ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT)
    parallel: ClassVar[bool] = False  # whether z is what the branch has read instead

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """Parameters for every layer, with which the model is unchanged.

        Args:
          key: draws D.
          layers: the frozen layers' parameters (or shapes), leaves [n, ...].

        Returns:
          {place: {"down": {"kernel" [n, d, b], "bias" [n, b]}, "up": {"kernel" [n, b, d], "bias"
          [n, d]}}}, float32.
        """
        n, d, _ = widths(layers)["query"]
        b, params = self.bottleneck, {}
        for i, place in enumerate(self.places):
            limit = (3 / d) ** 0.5  # Kaiming's with a = sqrt(5), as torch's linear maps
            drawn = jax.random.uniform(jax.random.fold_in(key, i), (n, d, b), minval=-1.0)
            params[place] = {
                "down": {"kernel": limit * drawn, "bias": jnp.zeros((n, b))},
                "up": {"kernel": jnp.zeros((n, b, d)), "bias": jnp.zeros((n, d))},
            }
        return params

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """What a branch adds.

        Args:
          adapter: the layer's slice of the parameters; a `dropout_key` in it means training.
          place: of the branch's end.
          x: float [b, l, d], what the branch has read.
          y: float [b, l, d], what it adds.
          kernel: None there.

        Returns:
          Float [b, l, d] in the dtype of y.
        """
        if place not in self.places:
            return y
        key = adapter.get(DROPOUT)
        if key is not None:
            key = jax.random.fold_in(key, self.places.index(place))
        own = jax.tree.map(lambda p: p.astype(y.dtype), adapter[place])
        z = x if self.parallel else y
        hidden = z @ own["down"]["kernel"] + own["down"]["bias"][None, None]
        hidden = dropout(activation(self.act)(hidden), self.dropout, key)
        added = hidden @ own["up"]["kernel"] + own["up"]["bias"][None, None]
        return y + (self.scale * added).astype(y.dtype)

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """Refused: an activation is no linear map.

        Raises:
          MmjaxError: always.
        """
        raise unmerged(type(self).__name__, f"between its two maps stands {self.act}")
