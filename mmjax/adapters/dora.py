"""DoRA: low-rank additions turn the columns of frozen maps; their lengths are learned apart."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

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
        """As `Lora.__call__`; kernel is float32 [in, out]."""
        if place not in adapter:
            return y
        assert kernel is not None
        own, x = adapter[place], self.dropped(adapter, place, x)
        stretch = self.stretch(own, kernel)[None, None]
        # Without dropout the compiler finds this product in y, and computes it once.
        turned = stretch * (x @ kernel.astype(x.dtype)) + (1 + stretch) * self.added(own, x)
        return y + turned.astype(y.dtype)

    def stretch(self, own: PyTree, kernel: Float[Array, "*n i o"]) -> Float[Array, "*n o"]:
        """How much longer every column gets, m / |W + s B A| - 1: float32 [*n, out]."""
        down = self.scale * own["down"]["kernel"]
        frozen, down, up = map(jax.lax.stop_gradient, (kernel, down, own["up"]["kernel"]))
        squares = jnp.square(frozen).sum(-2)
        across, around = down.mT @ frozen, down.mT @ down @ up  # [*n, r, out], both
        turned = jnp.sqrt(squares + 2 * (across * up).sum(-2) + (around * up).sum(-2))
        # With B at zero the difference is zero to the last bit; a quotient would not be one.
        return (jnp.sqrt(squares) - turned + own["magnitude"]) / turned

    def folded(self, own: PyTree, kernel: Float[Array, "n i o"]) -> Float[Array, "n i o"]:
        """As `Lora.folded`, with columns of the learned lengths."""
        return super().folded(own, kernel) * (1 + self.stretch(own, kernel)[:, None])
