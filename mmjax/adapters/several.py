"""Several adapters on one frozen model: named, switched, added with weights, merged."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax.adapters.hooks import DROPOUT, LayerAdapter, unmerged
from mmjax.encoders.inserted import TokenHook
from mmjax.encoders.layers import PrefixHook, PyTree
from mmjax.errors import MmjaxError


@dataclasses.dataclass(frozen=True)
class Several:
    """y + sum_i w_i (y_i - y) at every place, y_i what adapter i alone would give.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`) whose parameters are those of its
    adapters by name. One alone, at weight 1, is that adapter to the last bit.

    Attributes:
      adapters: (name, adapter) of each.
      weights: (name, weight) of those that are switched on, in any number.
    """

    adapters: tuple[tuple[str, LayerAdapter], ...]
    weights: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuses what cannot be added up, and names that are not there."""
        names = [name for name, _ in self.adapters]
        if not names or len(set(names)) != len(names):
            raise MmjaxError(f"Several needs adapters of different names, got {names}")
        for name, adapter in self.adapters:
            if isinstance(adapter, PrefixHook | TokenHook):
                raise MmjaxError(
                    f"{name!r} is {type(adapter).__name__}: tokens of several adapters cannot be "
                    "added up; take it alone"
                )
        unknown = [name for name, _ in self.weights if name not in names]
        if unknown:
            raise MmjaxError(f"there are no adapters {unknown}; there are {names}")

    def using(self, *names: str, **weights: float) -> "Several":
        """The same with others switched on.

        Args:
          *names: at weight 1.
          **weights: name -> weight.

        Raises:
          MmjaxError: a name that is not there.
        """
        chosen = dict.fromkeys(names, 1.0) | weights
        return dataclasses.replace(self, weights=tuple(chosen.items()))

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """{name: parameters} with which the model is unchanged; see `LayerAdapter.init`."""
        return {
            name: adapter.init(jax.random.fold_in(key, i), layers)
            for i, (name, adapter) in enumerate(self.adapters)
        }

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """What comes out of a place of one layer; see `mmjax.encoders.layers.Hook`."""
        hooks, output = dict(self.adapters), y
        for name, weight in self.weights:
            own = adapter[name]
            if DROPOUT in adapter:
                own = {**own, DROPOUT: adapter[DROPOUT]}
            alone = hooks[name](own, place, x, y, kernel)
            if len(self.weights) == 1 and weight == 1:
                return alone
            output = output + (weight * (alone - y)).astype(y.dtype)
        return output

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """The layers with what is switched on in them; see `LayerAdapter.merge`.

        Raises:
          MmjaxError: one that no layers hold, or biases that only some of them need.
        """
        hooks, merged = dict(self.adapters), jax.tree.map(_float32, layers)
        for name, weight in self.weights:
            alone = hooks[name].merge(layers, adapters[name])
            if jax.tree.structure(alone) != jax.tree.structure(layers):
                raise unmerged(repr(name), "it needs biases that the frozen maps have not")
            merged = jax.tree.map(
                lambda total, new, old, w=weight: total + w * (_float32(new) - _float32(old)),
                merged,
                alone,
                layers,
            )
        return jax.tree.map(lambda new, old: new.astype(old.dtype), merged, layers)


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def together(adapters: Mapping[str, LayerAdapter]) -> Several:
    """Several adapters, none of them switched on yet."""
    return Several(tuple(adapters.items()))
