"""LoRA: low-rank additions to the dense maps of frozen layers."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import DROPOUT, chosen, dropout, maps, sizes, widths, with_maps
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError
from mmjax.specs.bounds import Rate, Scale, Width


@dataclasses.dataclass(frozen=True)
class Lora:
    """W x + alpha / rank * B A dropout(x) at every target; at first W x itself.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`).

    Attributes:
      rank: of the addition.
      alpha: its scale is alpha / rank.
      dropout: rate on the input of A while training.
      targets: dense maps by place, or anchored patterns of places: `query`, `key`, `value`, `out`;
        and the feed-forward part's, `gate`, `up` and `down` of a LLaMA, `fc1` and `fc2` of a vision
        transformer or of CLIP, `intermediate` and `output` of a BERT.

    Source: Hu et al. 2021 (arXiv 2106.09685), equation 3; initial values as in PEFT.
    """

    rank: Width = 8
    alpha: Scale = 16.0
    dropout: Rate = 0.0
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
        frozen, dimensions, params = dict(maps(layers)), widths(layers), {}
        for i, target in enumerate(chosen(self.targets, dimensions, "LoRA")):
            self.check_rank(target, dimensions[target])
            params[target] = self.initial(jax.random.fold_in(key, i), frozen[target])
        return params

    def check_rank(self, target: str, size: tuple[int, int, int]) -> None:
        """Refuses a rank that no addition to a map of this size can have.

        Raises:
          MmjaxError: it is larger than the map.
        """
        _, width_in, width_out = size
        if self.rank > min(width_in, width_out):
            raise MmjaxError(
                f"LoRA rank {self.rank} is larger than {target!r}, a map of {width_in} to "
                f"{width_out}; choose at most {min(width_in, width_out)}"
            )

    def initial(self, key: Key[Array, ""], frozen: PyTree) -> PyTree:
        """One target's parameters, from its frozen map {"kernel" [n, in, out], ...}."""
        n, width_in, width_out = sizes(frozen)
        a = jax.random.uniform(key, (n, width_in, self.rank))
        return {
            "down": {"kernel": (2 * a - 1) * width_in**-0.5},
            "up": {"kernel": jnp.zeros((n, self.rank, width_out))},
        }

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank

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
        if place not in adapter:
            return y
        x = self.dropped(adapter, place, x)
        return y + self.added(adapter[place], x).astype(y.dtype)

    def dropped(self, adapter: PyTree, place: str, x: Array) -> Array:
        """The input of a target while training, with dropout of its own; else x itself."""
        key = adapter.get(DROPOUT)
        if key is not None:
            named = place in self.targets
            number = self.targets.index(place) if named else zlib.crc32(place.encode())
            key = jax.random.fold_in(key, number)
        return dropout(x, self.dropout, key)

    def added(self, own: PyTree, x: Array) -> Array:
        """What one target's parameters add for x: alpha / rank * B A x."""
        down, up = (own[name]["kernel"].astype(x.dtype) for name in ("down", "up"))
        return self.scale * (x @ down @ up)

    def folded(self, own: PyTree, kernel: Float[Array, "n i o"]) -> Float[Array, "n i o"]:
        """A frozen kernel of all layers, float32, with one target's parameters in it."""
        return kernel + self.scale * (own["down"]["kernel"] @ own["up"]["kernel"])

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """Folds the parameters into the kernels.

        Args:
          layers: the frozen layers' parameters, float, leaves [n, ...].
          adapters: the parameters.

        Returns:
          The layers with new kernels.
        """
        frozen, changed = dict(maps(layers)), {}
        for target, own in adapters.items():
            old = frozen[target]["kernel"]
            kernel = self.folded(own, old.astype(jnp.float32))
            changed[target] = {**frozen[target], "kernel": kernel.astype(old.dtype)}
        return with_maps(layers, changed)
