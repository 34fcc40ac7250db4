"""LoRA: low-rank additions to the dense maps of frozen layers."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import DROPOUT, dropout, maps, widths, with_maps
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError


@dataclasses.dataclass(frozen=True)
class Lora:
    """W x + alpha / rank * B A dropout(x) at every target; at first W x itself.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`).

    Attributes:
      rank: of the addition.
      alpha: its scale is alpha / rank.
      dropout: rate on the input of A while training.
      targets: dense maps by place: `query`, `key`, `value`, `out`; and the feed-forward part's,
        `gate`, `up` and `down` of a LLaMA, `fc1` and `fc2` of a vision transformer or of CLIP,
        `intermediate` and `output` of a BERT.

    Source: Hu et al. 2021 (arXiv 2106.09685), equation 3; initial values as in PEFT.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "key", "value", "out")

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """Parameters for every layer, with which the model is unchanged.

        Args:
          key: draws A.
          layers: the frozen layers' parameters (or shapes), leaves [n, ...].

        Returns:
          {target: {"down": {"kernel" [n, in, r]}, "up": {"kernel" [n, r, out]}}}, float32.

        Raises:
          MmjaxError: a target that these layers do not have: nothing is left out silently.
        """
        sizes = widths(layers)
        unknown = [name for name in self.targets if name not in sizes]
        if unknown or not self.targets:
            raise MmjaxError(f"LoRA targets {self.targets}: choose from {sorted(sizes)}")
        params = {}
        for i, target in enumerate(self.targets):
            n, width_in, width_out = sizes[target]
            a = jax.random.uniform(jax.random.fold_in(key, i), (n, width_in, self.rank))
            params[target] = {
                "down": {"kernel": (2 * a - 1) * width_in**-0.5},
                "up": {"kernel": jnp.zeros((n, self.rank, width_out))},
            }
        return params

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """What comes out of one place of one layer.

        Args:
          adapter: the layer's slice of the parameters; a `dropout_key` in it means training.
          place: of the map.
          x: float [b, l, in].
          y: float [b, l, out], the frozen map's.
          kernel: the frozen map's, which is not read: its product is y already.

        Returns:
          Float [b, l, out] in the dtype of y.
        """
        if place not in self.targets:
            return y
        x = self.dropped(adapter, place, x)
        return y + self.added(adapter[place], x).astype(y.dtype)

    def dropped(self, adapter: PyTree, place: str, x: Array) -> Array:
        """The input of a target while training, with dropout of its own; else x itself."""
        key = adapter.get(DROPOUT)
        if key is not None:
            key = jax.random.fold_in(key, self.targets.index(place))
        return dropout(x, self.dropout, key)

    def added(self, own: PyTree, x: Array) -> Array:
        """What one target's parameters add for x: alpha / rank * B A x."""
        down, up = (own[name]["kernel"].astype(x.dtype) for name in ("down", "up"))
        return self.alpha / self.rank * (x @ down @ up)

    def folded(self, own: PyTree, kernel: Float[Array, "n i o"]) -> Float[Array, "n i o"]:
        """A frozen kernel of all layers, float32, with one target's parameters in it."""
        return kernel + self.alpha / self.rank * (own["down"]["kernel"] @ own["up"]["kernel"])

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """Folds the parameters into the kernels.

        Args:
          layers: the frozen layers' parameters, float, leaves [n, ...].
          adapters: the parameters.

        Returns:
          The layers with new kernels.
        """
        frozen, changed = dict(maps(layers)), {}
        for target in self.targets:
            old = frozen[target]["kernel"]
            kernel = self.folded(adapters[target], old.astype(jnp.float32))
            changed[target] = {**frozen[target], "kernel": kernel.astype(old.dtype)}
        return with_maps(layers, changed)
