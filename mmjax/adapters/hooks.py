"""Where adapters sit inside a frozen layer, and what all of them share."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax.encoders.layers import PyTree
from mmjax.rng import DropoutKey

ATTENTION_INPUT, FEED_FORWARD_INPUT = "attention_input", "feed_forward_input"
ATTENTION = ("query", "key", "value", "out")
# Maps that read the feed-forward part's input: LLaMA's, ViT's and CLIP's, BERT's.
FEED_FORWARD = ("gate", "up", "fc1", "intermediate")
DROPOUT = "dropout_key"  # a layer's key while training; without it nothing is dropped


@runtime_checkable
class LayerAdapter(Protocol):
    """A kind of adapter: a hook of frozen layers that makes its own parameters and merges them."""

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """Parameters, leaves [n, ...], with which the frozen layers are unchanged."""
        ...

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """What comes out of a place of one layer; see `mmjax.encoders.layers.Hook`."""
        ...

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """The frozen layers with the adapter folded in."""
        ...


def maps(layers: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (place, {"kernel", ["bias"]}) of every dense map of stacked layers."""
    for name, part in {**layers, **layers["attention"]}.items():
        if isinstance(part, Mapping) and "kernel" in part:
            yield name, part


def with_maps(layers: Mapping[str, Any], changed: Mapping[str, Any]) -> PyTree:
    """Stacked layers with other dense maps at some places; see `maps`."""
    inner = {place: part for place, part in changed.items() if place in layers["attention"]}
    outer = {place: part for place, part in changed.items() if place not in inner}
    return {**layers, **outer, "attention": {**layers["attention"], **inner}}


def widths(layers: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Place -> (layers, width in, width out) of every dense map."""
    return {place: part["kernel"].shape for place, part in maps(layers)}


def dropout(x: Array, rate: float, key: DropoutKey) -> Array:
    """Sets a share of x to zero and scales up the rest; without a key x itself."""
    if key is None or not rate:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def for_training(adapters: PyTree, key: Key[Array, ""], num_layers: int) -> PyTree:
    """Parameters with a dropout key for each layer."""
    return {**adapters, DROPOUT: jax.random.split(key, num_layers)}
