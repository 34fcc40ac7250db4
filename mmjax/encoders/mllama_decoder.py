"""Mllama's decoder: a LLaMA with layers between its own that attend to pictures."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.encoders.attention import attend_where
from mmjax.encoders.layers import Dense, PyTree, activation, stack
from mmjax.encoders.llama import AttentionInputs, KeyValues, Llama, LlamaLayer
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.mllama_images import SeenPictures
from mmjax.encoders.modules import EncoderModule
from mmjax.encoders.norms import RMSNorm

_CROSS = 0  # a kind of run; others are so many plain layers


class CrossLayer(EncoderModule):
    """One pre-norm layer that attends to pictures; gates weigh what its two branches add."""

    config: LlamaConfig

    def setup(self) -> None:
        """Declares the parts."""
        config, dtypes = self.config, self.dtypes
        dense = functools.partial(Dense, use_bias=False, **dtypes)
        norm = functools.partial(RMSNorm, config.rms_norm_eps, **dtypes)
        width, c = config.hidden_size, config.head_dim
        self.query, self.out = dense(config.num_heads * c), dense(width)
        self.key, self.value = dense(config.num_kv_heads * c), dense(config.num_kv_heads * c)
        self.query_norm, self.key_norm = norm(), norm()
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.gate, self.up = dense(config.intermediate_size), dense(config.intermediate_size)
        self.down = dense(width)
        self.gates = [
            self.param(name, nn.initializers.zeros, (1,), self.param_dtype)
            for name in ("attention_gate", "mlp_gate")
        ]

    def __call__(
        self, x: Float[Array, "b l d"], states: Float[Array, "b m d"]
    ) -> tuple[Float[Array, "b l d"], None]:
        """Every token reads every state; the pair that a scan wants."""
        keys, values = self.keys_values(states)
        all_ = jnp.ones((1, 1, 1), bool)
        return self.attend(x, keys, values, jnp.ones((1, 1, states.shape[1]), bool), all_), None

    def keys_values(self, states: Float[Array, "b m d"]) -> KeyValues:
        """Normalised keys, and values, of pictures: [b, kv_heads, m, head_dim] each."""

        def heads(dense: Dense) -> Float[Array, "b m h c"]:
            return dense(states).reshape(*states.shape[:2], -1, self.config.head_dim)

        keys = self.key_norm(heads(self.key))
        return KeyValues(keys.swapaxes(1, 2), heads(self.value).swapaxes(1, 2))

    def attend(
        self,
        x: Float[Array, "r l d"],
        keys: Float[Array, "b h m c"],
        values: Float[Array, "b h m c"],
        allowed: Bool[Array, "_ _ m"],
        sees: Bool[Array, "_ _ 1"],
    ) -> Float[Array, "r l d"]:
        """Runs the layer.

        Args:
          x: float [r, l, d]; r is a multiple of b where several rows see the same pictures.
          keys: of the pictures.
          values: the same.
          allowed: which of the keys a token reads; one that reads none gets nothing.
          sees: whether a token's feed-forward part counts.

        Returns:
          Float [r, l, d].
        """
        shape, config = x.shape, self.config
        x = x.reshape(len(keys), -1, shape[-1])  # no copy of a row's keys
        b, l, _ = x.shape
        query = self.query(self.attention_norm(x)).reshape(b, l, -1, config.head_dim)
        query = self.query_norm(query).swapaxes(1, 2)
        mixed = attend_where(query, [keys], [values], allowed).swapaxes(1, 2).reshape(b, l, -1)
        mixed = mixed * allowed.any(axis=-1, keepdims=True).astype(mixed.dtype)
        first, second = (jnp.tanh(gate.astype(self.dtype))[None, None] for gate in self.gates)
        x = x + first * self.out(mixed)
        hidden = self.mlp_norm(x)
        wide = activation(config.hidden_act)(self.gate(hidden)) * self.up(hidden)
        added = self.down(wide) * sees.astype(x.dtype)
        return (x + second * added).reshape(shape)


class MllamaDecoder(Llama):
    """A LLaMA with `CrossLayer`s between its layers; without pictures it is that LLaMA.

    `hook` sits in the layers that attend to words, whose parameters are `layers`, in order.
    """

    cross_layers: tuple[int, ...] = ()  # their numbers among all layers

    def setup(self) -> None:
        """Declares the parts."""
        super().setup()
        crossing = stack(CrossLayer, len(self.cross_layers), in_axes=(nn.broadcast,))
        self.crossing = crossing(self.config, **self.dtypes)

    def keys_values(self, states: Float[Array, "p m d"]) -> KeyValues:
        """What the layers read of pictures: [cross layers, p, kv_heads, m, head_dim] each."""
        layer = self._cross_layer()

        def one(_: None, params: PyTree) -> tuple[None, Any]:
            return None, layer.apply({"params": params}, states, method="keys_values")

        return jax.lax.scan(one, None, self.variables["params"]["crossing"])[1]

    def _cross_layer(self) -> CrossLayer:
        return CrossLayer(self.config, **self.dtypes, parent=None)

    def run_layers(  # pyright: ignore[reportIncompatibleMethodOverride]  # pictures beside
        self,
        x: Float[Array, "b l d"],
        shared: AttentionInputs,
        past: KeyValues | None,
        adapters: PyTree,
        is_local: Bool[Array, "n"] | None,
        pictures: SeenPictures | None = None,
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """All layers in turn.

        Args:
          x: float [b, l, d].
          shared: mask and rotations.
          past: keys and values of earlier tokens, of the plain layers alone.
          adapters: parameters for `hook`; leaves [plain layers, ...].
          is_local: None.
          pictures: what the others read; None leaves them out, as transformers does.

        Returns:
          (float [b, l, d], keys and values of x).
        """
        if self.is_initializing():
            self.crossing(x, x)
        if pictures is None:
            return super().run_layers(x, shared, past, adapters, is_local)
        stacks, layer = self.variables["params"], self._cross_layer()
        plain = LlamaLayer(self.config, **self.hooked, parent=None)
        keep: Any = functools.partial(jax.checkpoint, prevent_cse=False) if self.remat else _same
        allowed, sees = pictures.allowed(x.shape[1])

        # Layers are taken out of the whole stack one by one: a part of it would be a copy.
        @keep
        def read(x: Array, params: PyTree, past: PyTree, adapter: PyTree) -> Any:
            return plain.apply({"params": params}, x, shared, past, adapter)

        @keep
        def look(x: Array, params: PyTree, keys: Array, values: Array) -> Any:
            seen = keys, values, allowed, sees
            return layer.apply({"params": params}, x, *seen, method="attend")

        def step(x: Array, inputs: tuple[Array, PyTree]) -> tuple[Array, KeyValues]:
            i, adapter = inputs
            return read(x, _take(stacks["layers"], i), _take(past, i), adapter)

        runs, blocks = pattern(self.cross_layers, self.config.num_layers)
        many = sum(runs)
        crossing = (stacks["crossing"], pictures.keys, pictures.values)

        def block(x: Array, inputs: tuple[Array, PyTree]) -> tuple[Array, KeyValues]:
            n, own = inputs
            new, at, i = [], 0, n * runs.count(_CROSS)
            for run in runs:
                if run == _CROSS:
                    x, i = look(x, *_take(crossing, i)), i + 1
                    continue
                part = jax.tree.map(lambda leaf, s=slice(at, at + run): leaf[s], own)
                x, own_new = jax.lax.scan(step, x, (n * many + at + jnp.arange(run), part))
                new.append(own_new)
                at += run
            return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *new)

        split = jax.tree.map(lambda leaf: leaf.reshape(blocks, many, *leaf.shape[1:]), adapters)
        x, new = jax.lax.scan(block, x, (jnp.arange(blocks), split))
        return x, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), new)


def _same(function: Any) -> Any:
    return function


def _take(tree: PyTree, index: Int[Array, ""]) -> PyTree:
    """One layer of stacked leaves."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


def pattern(cross_layers: tuple[int, ...], plain: int) -> tuple[tuple[int, ...], int]:
    """A decoder's layers as the shortest block that repeats.

    Args:
      cross_layers: numbers, among all layers, of those that attend to pictures.
      plain: how many others there are.

    Returns:
      (the block's runs in order: so many plain layers, or 0 for one that attends to pictures; how
      often it repeats).
    """
    total = plain + len(cross_layers)
    kinds = [i in cross_layers for i in range(total)]
    size = next(n for n in range(1, total + 1) if total % n == 0 and kinds[n:] == kinds[:-n])
    runs: list[int] = []
    for cross in kinds[:size]:
        if cross:
            runs.append(_CROSS)
        elif runs and runs[-1] != _CROSS:
            runs[-1] += 1
        else:
            runs.append(1)
    return tuple(runs), total // size
