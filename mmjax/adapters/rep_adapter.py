"""Mixture-of-modality adapters: linear bottlenecks where a layer reads, mixed by a router."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import (
    ATTENTION_INPUT,
    DROPOUT,
    FEED_FORWARD,
    FEED_FORWARD_INPUT,
    dropout,
    widths,
    with_maps,
)
from mmjax.encoders.language_model import LanguageModel
from mmjax.encoders.layers import Dtype, PyTree
from mmjax.encoders.llama import LlamaLayer, self_attention
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.errors import MmjaxError
from mmjax.specs.bounds import Few, Rate, Scale, Temperature, Width

WEIGHTS = "weights"  # routing weights that are given rather than computed
BLOCK = "feed_forward"  # in an adapter's parameters, those of its part before the feed-forward maps


@dataclasses.dataclass(frozen=True)
class RepAdapter:
    """x + scale * sum_e w_e (B_e dropout(A x + a) + b_e) in place of x.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`), at what attention reads; B and b
    start at 0. It has no activation: with constant w it is a linear map, which
    `mmjax.adapters.merging` folds into the frozen kernels.

    Attributes:
      rank: width of the bottleneck.
      groups: of the up-projections: group i of the output's channels reads group i of the
        bottleneck's.
      experts: up-projections that the router mixes; 1 has no router.
      scale: of what is added.
      temperature: of the router: softmax((W x + b) / temperature). 10 for the paper's 7B, 5 for
        its 13B. It is part of the adapter: another value means other outputs.
      dropout: rate on the bottleneck while training.
      routing: what the router reads. `first_token`: the normed first token of the row, which the
        others cannot see: a constant of the row's modality. `per_image`: every token on itself.
        `first_in_batch`: as the original's CLIP runs, every token on the token at the same place
        of the batch's first picture, so that a result depends on its neighbours.
      router_weight_dtype: `float16` rounds the weights as the original does, even in float32 runs.
      feed_forward: whether another one, with a router of its own, sits at what the feed-forward
        part reads. The original calls that `router_block` in CLIP and `block` in LLaMA; its
        published models have none.

    Source: Luo et al. 2023 (LaVIN, arXiv 2305.15023), equations 1-5; Luo et al. 2023 (RepAdapter,
      arXiv 2302.08106).
    """

    rank: Width = 8
    groups: Few = 2
    experts: Few = 2
    scale: Scale = 1.0
    temperature: Temperature = 10.0
    dropout: Rate = 0.1
    routing: Literal["first_token", "per_image", "first_in_batch"] = "first_token"
    router_weight_dtype: Literal["float32", "float16"] = "float32"
    feed_forward: bool = False

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """Parameters for every layer, with which the model is unchanged.

        Args:
          key: draws the down-projection and the router.
          layers: the frozen layers' parameters (or shapes), leaves [n, ...].

        Returns:
          {"down": {"kernel" [n, d, r], "bias" [n, r]}, "up": {"kernel" [n, e, g, r / g, d / g],
          "bias" [n, e, d]}, "router": {"kernel" [n, d, e], "bias" [n, e]}}, float32; the same
          once more under `feed_forward` where there is one.

        Raises:
          MmjaxError: groups that do not divide the rank and the width.
        """
        n, d, _ = widths(layers)["query"]
        r, g = self.rank, self.groups
        if r % g or d % g:
            raise MmjaxError(f"{g} groups do not divide the rank {r} and the model's width {d}")
        params = self._init(key, n, d)
        return (
            params | {BLOCK: self._init(jax.random.fold_in(key, 1), n, d)}
            if self.feed_forward
            else params
        )

    def _init(self, key: Key[Array, ""], n: int, d: int) -> PyTree:
        """Parameters of one place in n layers of width d."""
        r, e, g = self.rank, self.experts, self.groups
        down, kernel, bias = jax.random.split(key, 3)

        def uniform(key: Key[Array, ""], shape: tuple[int, ...], limit: float) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, -limit, limit)

        params: dict[str, PyTree] = {
            "down": {
                "kernel": uniform(down, (n, d, r), (6 / (d + r)) ** 0.5),
                "bias": jnp.zeros((n, r)),
            },
            "up": {"kernel": jnp.zeros((n, e, g, r // g, d // g)), "bias": jnp.zeros((n, e, d))},
        }
        if e > 1:
            params["router"] = {
                "kernel": uniform(kernel, (n, d, e), d**-0.5),
                "bias": uniform(bias, (n, e), d**-0.5),
            }
        return params

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """What attention or the feed-forward part reads in one layer.

        Args:
          adapter: the layer's slice of the parameters; `weights` [b or 1, e] in it stand in for
            the router's, and a `dropout_key` means training.
          place: only the normed inputs are changed.
          x: float [b, l, d].
          y: what came out of the place.
          kernel: not read: where this adapter sits there is no map.

        Returns:
          Float [b, l, d] in the dtype of y.
        """
        own = self.part(adapter, place)
        return y if own is None else self.adapt(own, y)

    def part(self, adapter: PyTree, place: str) -> PyTree | None:
        """The parameters of one place of one layer; None where this adapter leaves it alone."""
        if place == FEED_FORWARD_INPUT and self.feed_forward:
            key = adapter.get(DROPOUT)
            own = adapter[BLOCK]
            return own if key is None else {**own, DROPOUT: jax.random.fold_in(key, 1)}
        return adapter if place == ATTENTION_INPUT else None

    def adapt(self, adapter: PyTree, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """One normed input of one layer, adapted by that place's parameters; float [b, l, d]."""
        b, l, d = x.shape
        down, up = (jax.tree.map(lambda p: p.astype(x.dtype), adapter[n]) for n in ("down", "up"))
        w = self.weights(adapter, x).astype(x.dtype)
        h = x @ down["kernel"] + down["bias"][None, None]
        h = dropout(h, self.dropout, adapter.get(DROPOUT)).reshape(b, l, self.groups, -1)
        mixed = jnp.einsum("ble,blgr->blegr", jnp.broadcast_to(w, (b, l, self.experts)), h)
        added = jnp.einsum("blegr,egrd->blgd", mixed, up["kernel"]).reshape(b, l, d)
        return x + self.scale * (added + w @ up["bias"])

    def weights(
        self, adapter: PyTree, x: Float[Array, "b l d"]
    ) -> Float[Array, "rows columns experts"]:
        """Routing weights, float32 [b or 1, l or 1, e], that sum to 1."""
        if WEIGHTS in adapter:
            return adapter[WEIGHTS][:, None]
        if self.experts == 1:
            return jnp.ones((1, 1, 1), jnp.float32)
        read = {"first_token": x[:, :1], "per_image": x, "first_in_batch": x[:1]}[self.routing]
        router = adapter["router"]
        logits = read.astype(jnp.float32) @ router["kernel"] + router["bias"][None, None]
        w = jax.nn.softmax(logits / self.temperature, axis=-1)
        return w.astype(self.router_weight_dtype).astype(jnp.float32)

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """Folds the adapter into the maps that read its output; nothing else changes.

        Args:
          layers: the frozen layers' parameters, float, leaves [n, ...].
          adapters: bound to a modality where there is a router; see `bind`.

        Returns:
          The layers with new kernels and biases of queries, keys and values, and of the maps that
          read the feed-forward part's input where the adapter changes that.

        Raises:
          MmjaxError: the router still decides.
        """
        attention = layers["attention"]
        changed = self._fold({n: attention[n] for n in ("query", "key", "value")}, adapters)
        if self.feed_forward:
            reading = {name: layers[name] for name in FEED_FORWARD if name in layers}
            changed |= self._fold(reading, adapters[BLOCK])
        return with_maps(layers, changed)

    def _fold(self, maps: PyTree, adapters: PyTree) -> PyTree:
        """Dense maps of all layers, with what one place's adapter does to their input folded in."""
        n = len(adapters["down"]["kernel"])
        w = adapters.get(WEIGHTS)
        if w is None:
            if self.experts > 1:
                raise MmjaxError(
                    "a routed adapter is merged for one modality: bind it first, "
                    "merge(model, bind(adapters, routing_table(...), modality))"
                )
            w = jnp.ones((n, 1, 1))
        if w.shape[1] != 1:
            raise MmjaxError(
                f"a merged model has one modality, not one of each of {w.shape[1]} rows"
            )
        down, up = adapters["down"], adapters["up"]
        kernel = jnp.einsum("ne,negrd->ngrd", w[:, 0], up["kernel"]) * self.scale
        # Block-diagonal: what bottleneck channel g * r + i adds to every channel of the width.
        eye = jnp.eye(self.groups)
        full = jnp.einsum("ngrd,gh->ngrhd", kernel, eye).reshape(n, self.rank, -1)
        bias = jnp.einsum("ne,ned->nd", w[:, 0], up["bias"]) * self.scale
        bias = bias + jnp.einsum("nr,nrd->nd", down["bias"], full)
        merged = {}
        for place, old in maps.items():
            frozen = old["kernel"].astype(jnp.float32)
            folded = frozen + down["kernel"] @ (full @ frozen)
            added = jnp.einsum("nd,ndo->no", bias, frozen) + old.get("bias", 0.0)
            merged[place] = {
                "kernel": folded.astype(old["kernel"].dtype),
                "bias": added.astype(old["kernel"].dtype),
            }
        return merged


def routing_table(
    model: LanguageModel, adapters: PyTree, modality: Float[Array, "m d"]
) -> Float[Array, "n *p m e"]:
    """The routing weights of every layer for every modality.

    The modality token sees itself alone and is seen by no other token, so what a layer's router
    reads from it depends on nothing else: after training the router is this table.

    Args:
      model: with a routed `RepAdapter` as its hook.
      adapters: its parameters.
      modality: the modality embedding, float [m, d].

    Returns:
      Float32 [layers, m, e]; [layers, 2, m, e], attention's first, with routers before the
      feed-forward maps too. Those read the token as it is after attention, as in training; the
      original's cached decoding has them read what attention did.

    Raises:
      MmjaxError: the model has no routed adapter.
    """
    hook, config, dtype = model.module.hook, model.config, model.module.dtype
    if not isinstance(hook, RepAdapter) or hook.experts == 1:
        raise MmjaxError(f"a routing table is of a model with a routed adapter, not of {hook}")
    return _table(model.params["layers"], adapters, jnp.asarray(modality), hook, config, dtype)


# One program for all calls: whoever asks again, after every evaluation say, gets the compiled one.
@functools.partial(jax.jit, static_argnames=("hook", "config", "dtype"))
def _table(
    layers: PyTree,
    adapters: PyTree,
    modality: Float[Array, "m d"],
    hook: RepAdapter,
    config: LlamaConfig,
    dtype: Dtype,
) -> Float[Array, "n *p m e"]:
    alone = self_attention(config, len(modality))

    def step(x: Array, both: tuple[PyTree, PyTree]) -> tuple[Array, Array]:
        frozen, adapter = both
        weights: list[Array] = []

        def noted(
            adapter: PyTree, place: str, inputs: Array, y: Array, kernel: Array | None
        ) -> Array:
            own = hook.part(adapter, place)
            if own is not None:
                weights.append(hook.weights(own, y)[:, 0])
            return hook(adapter, place, inputs, y, kernel)

        layer = LlamaLayer(config, dtype, hook=noted)
        x, _ = layer.apply({"params": frozen}, x, alone, None, adapter)  # pyright: ignore[reportGeneralTypeIssues]
        return x, jnp.stack(weights) if hook.feed_forward else weights[0]

    return jax.lax.scan(step, modality[:, None].astype(dtype), (layers, adapters))[1]


def bind(adapters: PyTree, table: Float[Array, "n *p m e"], modality: int) -> PyTree:
    """An adapter whose routing weights are those of one modality, whatever tokens it reads.

    With it the modality token need not stand in front of the text any more.

    Args:
      adapters: parameters of a routed `RepAdapter`.
      table: from `routing_table`.
      modality: `TEXT` or `IMAGE`.

    Returns:
      Parameters without a router.
    """
    kept = {name: leaf for name, leaf in adapters.items() if name not in ("router", BLOCK)}
    if BLOCK not in adapters:
        return {**kept, WEIGHTS: table[:, modality : modality + 1]}
    block = bind(adapters[BLOCK], table[:, 1], modality)
    return {**kept, WEIGHTS: table[:, 0, modality : modality + 1], BLOCK: block}
