"""Where adapters sit inside a frozen layer, and what all of them share."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax.encoders.base import Encoder
from mmjax.encoders.layers import PyTree, WeightHook
from mmjax.errors import MmjaxError
from mmjax.rng import DropoutKey
from mmjax.weights.quantize import kernel_shape

ATTENTION_INPUT, FEED_FORWARD_INPUT = "attention_input", "feed_forward_input"
ATTENTION = ("query", "key", "value", "out")
# Maps that read the feed-forward part's input: LLaMA's, ViT's and CLIP's, BERT's.
FEED_FORWARD = ("gate", "up", "fc1", "intermediate")
LAYER_INPUT = "layer_input"
ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT = "attention_output", "feed_forward_output"
FIXED = "fixed"  # among an adapter's parameters, those that are not trained
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


@runtime_checkable
class WeightAdapter(WeightHook, Protocol):
    """A kind of adapter of a tower's weights; it makes its own parameters."""

    def init(self, key: Key[Array, ""], params: PyTree) -> PyTree:
        """Parameters with which the tower is unchanged."""
        ...


def start(
    adapter: LayerAdapter | WeightAdapter,
    key: Key[Array, ""],
    encoder: Encoder,
    tower: str | None = None,
) -> PyTree:
    """An adapter's parameters for an encoder, before training.

    Args:
      adapter: any kind.
      key: draws what is random.
      encoder: the frozen model.
      tower: as in `Encoder.with_hook`.

    Raises:
      MmjaxError: a place, a width or a weight that the encoder does not have.
    """
    if isinstance(adapter, WeightAdapter):
        return adapter.init(key, encoder.params)
    return adapter.init(key, encoder.frozen_layers(tower))


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
    return {place: sizes(part) for place, part in maps(layers)}


def sizes(part: Mapping[str, Any]) -> tuple[int, int, int]:
    """(layers, width in, width out) of a stacked dense map, whatever its kernel is kept as."""
    n, width_in, width_out = kernel_shape(part)
    return n, width_in, width_out


def chosen(targets: Sequence[str], sizes: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    """The places that targets mean, each once.

    Args:
      targets: names of places, or anchored patterns of such: `query`, `(query|value)`, `.*`.
      sizes: what there is, by place.
      kind: names the adapter in messages.

    Raises:
      MmjaxError: there are no targets, or one that means no place: nothing is left out silently.
    """
    places: dict[str, None] = {}
    for target in targets:
        matched = meant(target, sizes)
        if not matched:
            break
        places |= dict.fromkeys(matched)
    else:
        if places:
            return tuple(places)
    raise MmjaxError(f"{kind} targets {tuple(targets)}: choose from {sorted(sizes)}")


def meant(target: str, places: Iterable[str]) -> list[str]:
    """The places that one target means, by name or by anchored pattern; perhaps none."""
    try:
        return [place for place in places if place == target or re.fullmatch(target, place)]
    except re.error:
        return []


def unmerged(kind: str, reason: str) -> MmjaxError:
    """The refusal of an adapter that no frozen weights can hold."""
    return MmjaxError(f"{kind} cannot be merged: {reason}; keep it beside the frozen model")


def dropout(x: Array, rate: float, key: DropoutKey) -> Array:
    """Sets a share of x to zero and scales up the rest; without a key x itself."""
    if key is None or not rate:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def for_training(adapters: PyTree, key: Key[Array, ""], num_layers: int) -> PyTree:
    """Parameters with a dropout key for each layer."""
    return {**adapters, DROPOUT: jax.random.split(key, num_layers)}
