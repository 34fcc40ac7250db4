"""DoRA: low-rank additions turn the columns of frozen maps; their lengths are learned apart."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import ATTENTION, DROPOUT, dropout
from mmjax.adapters.lora import Lora
from mmjax.encoders.layers import PyTree


@dataclasses.dataclass(frozen=True)
class DoRA(Lora):
    """m (W + s B A) / |W + s B A| x at every target, |.| the length of every column; at first W x.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`), with the settings of `Lora`. The
    parameter `magnitude` is what m has beside the columns' own lengths: zero at first, whatever the
    frozen map is. No gradient flows through the denominator, as in the paper's section 4.3.

    Source: Liu et al. 2024 (arXiv 2402.09353), equation 5; PEFT's numerics.
    """

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """As `Lora.init`; every target has `magnitude` [n, out] too, zeros."""
        made = super().init(key, layers)
        for own in made.values():
            n, _, width = own["up"]["kernel"].shape
            own["magnitude"] = jnp.zeros((n, width))
        return made

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """What comes out of one place of one layer.

        Args:
          adapter: the layer's slice of the parameters; a `dropout_key` in it means training.
          place: of the map.
          x: float [b, l, in].
          y: float [b, l, out], the frozen map's.
          kernel: float32 [in, out], the frozen map's.

        Returns:
          Float [b, l, out] in the dtype of y.
        """
        if place not in self.targets:
            return y
        assert kernel is not None
        key = adapter.get(DROPOUT)
        if key is not None:
            key = jax.random.fold_in(key, self.targets.index(place))
        own, x = adapter[place], dropout(x, self.dropout, key)
        down, up = (own[name]["kernel"].astype(x.dtype) for name in ("down", "up"))
        stretch = self.stretch(own, kernel)[None, None]
        # Without dropout the compiler finds the first product in y, and computes it once.
        added = stretch * (x @ kernel.astype(x.dtype))
        added += self.alpha / self.rank * (1 + stretch) * (x @ down @ up)
        return y + added.astype(y.dtype)

    def stretch(self, own: PyTree, kernel: Float[Array, "*n i o"]) -> Float[Array, "*n o"]:
        """How much longer every column gets, m / |W + s B A| - 1: float32 [*n, out]."""
        down = self.alpha / self.rank * own["down"]["kernel"]
        frozen, down, up = map(jax.lax.stop_gradient, (kernel, down, own["up"]["kernel"]))
        squares = jnp.square(frozen).sum(-2)
        across, around = down.mT @ frozen, down.mT @ down @ up  # [*n, r, out], both
        turned = jnp.sqrt(squares + 2 * (across * up).sum(-2) + (around * up).sum(-2))
        # With B at zero the difference is zero to the last bit; a quotient would not be one.
        return (jnp.sqrt(squares) - turned + own["magnitude"]) / turned

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """The layers with the learned columns; see `Lora.merge`."""
        merged = super().merge(layers, adapters)
        for target in self.targets:
            frozen = layers["attention"] if target in ATTENTION else layers
            owner = merged["attention"] if target in ATTENTION else merged
            stretch = self.stretch(adapters[target], frozen[target]["kernel"].astype(jnp.float32))
            turned = owner[target]["kernel"]
            scaled = (turned.astype(jnp.float32) * (1 + stretch[:, None])).astype(turned.dtype)
            owner[target] = {**owner[target], "kernel": scaled}
        return merged
