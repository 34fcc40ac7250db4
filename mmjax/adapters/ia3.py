"""IA3: learned vectors that rescale what frozen layers compute inside."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax.adapters.hooks import chosen, maps, widths, with_maps
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError

# The last map of the feed-forward part: a LLaMA's, CLIP's and a ViT's, a BERT's.
INPUTS = ("down", "fc2", "output")


@dataclasses.dataclass(frozen=True)
class IA3:
    """Multiplies keys and values, and what the feed-forward part's last map reads; at first by 1.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`). It has no settings but its
    places: no rank, no scale, no dropout.

    Attributes:
      targets: maps whose output is rescaled, its bias too; by place, or by anchored pattern.
      inputs: maps whose input is; of those named here the ones that the layers have.

    Source: Liu et al. 2022 (arXiv 2205.05638), section 3.3; PEFT's numerics.
    """

    targets: tuple[str, ...] = ("key", "value")
    inputs: tuple[str, ...] = INPUTS

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """Vectors of ones for every layer, with which the model is unchanged.

        Args:
          key: not read: nothing is drawn.
          layers: the frozen layers' parameters (or shapes), leaves [n, ...].

        Returns:
          {target: {"scale" [n, out]}, input: {"scale" [n, in]}}, float32.

        Raises:
          MmjaxError: a target that these layers do not have, or neither targets nor inputs.
        """
        sizes = widths(layers)
        inputs = [place for place in self.inputs if place in sizes]
        targets = chosen(self.targets, sizes, "IA3") if self.targets or not inputs else ()
        if set(targets) & set(inputs):
            raise MmjaxError(
                f"IA3 targets {self.targets}, inputs {self.inputs}: choose each place once, from "
                f"{sorted(sizes)}"
            )
        ends = [(place, sizes[place][2]) for place in targets]
        ends += [(place, sizes[place][1]) for place in inputs]
        return {place: {"scale": jnp.ones((sizes[place][0], width))} for place, width in ends}

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """What comes out of one place of one layer.

        Args:
          adapter: the layer's slice of the parameters.
          place: of the map.
          x: float [b, l, in].
          y: float [b, l, out], the frozen map's.
          kernel: float32 [in, out], the frozen map's.

        Returns:
          Float [b, l, out] in the dtype of y.
        """
        if place not in adapter:
            return y
        scale = adapter[place]["scale"][None, None]
        if place not in self.inputs:
            return (y * scale).astype(y.dtype)
        assert kernel is not None
        return y + ((x * (scale - 1)).astype(x.dtype) @ kernel.astype(x.dtype)).astype(y.dtype)

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """The layers with rescaled kernels, and biases of rescaled outputs; see `Lora.merge`."""
        frozen, changed = dict(maps(layers)), {}
        for place, own in adapters.items():
            scaled = {"kernel": own["scale"][:, :, None]}  # of the input
            if place not in self.inputs:
                scaled = {"kernel": own["scale"][:, None], "bias": own["scale"]}
            changed[place] = {
                name: (leaf * scaled[name]).astype(leaf.dtype) if name in scaled else leaf
                for name, leaf in frozen[place].items()
            }
        return with_maps(layers, changed)
