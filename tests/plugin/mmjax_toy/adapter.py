"""An adapter: one gate for each layer's attention, closed before training."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mmjax.adapters.hooks import widths, with_maps
from mmjax.trees import PyTree


@dataclass(frozen=True)
class Gate:
    """Multiplies what attention says by 1 + scale * gate.

    Attributes:
      scale: of the gates.
    """

    scale: float = 1.0

    def init(self, key: jax.Array, layers: PyTree) -> PyTree:
        """Gates at zero: the frozen layers are unchanged."""
        return {"gate": jnp.zeros(widths(layers)["out"][0])}

    def __call__(
        self,
        adapter: PyTree,
        place: str,
        x: jax.Array,
        y: jax.Array,
        kernel: jax.Array | None,
    ) -> jax.Array:
        """Opens the gate behind `out`."""
        return y * (1 + self.scale * adapter["gate"]).astype(y.dtype) if place == "out" else y

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """The frozen layers with the gates in their kernels."""
        gate = (1 + self.scale * adapters["gate"])[:, None, None]
        out = layers["attention"]["out"]
        return with_maps(layers, {"out": {**out, "kernel": out["kernel"] * gate}})
