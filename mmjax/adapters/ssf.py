"""SSF: what frozen maps give is scaled and shifted, channel by channel."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax.adapters.hooks import chosen, maps, widths, with_maps
from mmjax.encoders.layers import PyTree


@dataclasses.dataclass(frozen=True)
class SSF:
    """g * y + b at every target; at first y itself.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`).

    Attributes:
      targets: maps by place, or anchored patterns of places. The paper has every one, as here, and
        the norms and the embedding of patches too.

    Source: Lian et al. 2022 (arXiv 2210.08823), equation 2.
    """

    targets: tuple[str, ...] = (".*",)

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """{target: {"scale" [n, out], "shift" [n, out]}} of ones and zeros; nothing is drawn.

        Args:
          key: not read.
          layers: the frozen layers' parameters (or shapes), leaves [n, ...].

        Returns:
          The parameters, float32.

        Raises:
          MmjaxError: a target that these layers do not have.
        """
        sizes = {place: (n, out) for place, (n, _, out) in widths(layers).items()}
        places = chosen(self.targets, sizes, "SSF")
        return {p: {"scale": jnp.ones(sizes[p]), "shift": jnp.zeros(sizes[p])} for p in places}

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """As `Lora.__call__`."""
        if place not in adapter:
            return y
        own = adapter[place]
        return (y * own["scale"][None, None] + own["shift"][None, None]).astype(y.dtype)

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """The layers with scaled kernels, and biases everywhere; see `Lora.merge`."""
        frozen, changed = dict(maps(layers)), {}
        for place, own in adapters.items():
            old = frozen[place]["kernel"]
            bias = frozen[place].get("bias", 0.0) * own["scale"] + own["shift"]
            kernel = old * own["scale"][:, None]
            changed[place] = {"kernel": kernel.astype(old.dtype), "bias": bias.astype(old.dtype)}
        return with_maps(layers, changed)
