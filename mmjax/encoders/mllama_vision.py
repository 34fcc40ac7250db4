"""Mllama's image tower: tiles read together, in two stages, and inner layers' features beside."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from mmjax.encoders.attention import attend_where
from mmjax.encoders.layers import (
    PRE_NORM_RULES,
    At,
    Dense,
    Dtype,
    LayerNorm,
    PyTree,
    activation,
    stack,
)
from mmjax.encoders.mllama_config import MllamaTowerConfig
from mmjax.encoders.modules import HookedModule
from mmjax.encoders.vision import check_pixels, cut_patches
from mmjax.trees import Rules
from mmjax.weights.key_rules import COPY, KeyRule, Transform, dense_rules, norm_rules

_EPSILON = 1e-5  # of the norms around the layers


class TileLayer(HookedModule):
    """One pre-norm layer whose branches may have gates; some layers' outputs are kept."""

    config: MllamaTowerConfig
    gated: bool = False

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "b l d"], Float[Array, "k b l d"]],
        allowed: Bool[Array, "b l l"],
        adapter: PyTree = None,
        slot: Int[Array, ""] | None = None,
    ) -> tuple[tuple[Float[Array, "b l d"], Float[Array, "k b l d"]], None]:
        """Attention, then the feed-forward part, each on normalised input and then added.

        Args:
          carry: (float [b, l, d], what is kept: float [k, b, l, d]).
          allowed: which tokens a token reads.
          adapter: this layer's slice of the adapter's parameters.
          slot: where its output is kept; k or None for nowhere.

        Returns:
          ((float [b, l, d], what is kept), None): the pair that a scan wants.
        """
        config, dtypes, (x, kept) = self.config, self.dtypes, carry
        at, d = At(self.hook, adapter), x.shape[-1]

        def norm(name: str) -> nn.LayerNorm:
            return LayerNorm(config.norm_eps, **dtypes, name=name)

        def gate(name: str, branch: Array) -> Array:
            if not self.gated:
                return branch
            own = self.param(name, nn.initializers.constant(np.pi / 4), (1,), self.param_dtype)
            return branch * jnp.tanh(own.astype(self.dtype))[None, None]

        x = at.read("layer_input", x)
        read = at.read("attention_input", norm("norm1")(x))
        attended = _TileAttention(config.num_heads, **dtypes, name="attention")(read, allowed, at)
        x = x + gate("attention_gate", at.add("attention_output", read, attended))
        read = at.read("feed_forward_input", norm("norm2")(x))
        wide = at.map("fc1", Dense(config.intermediate_size, **dtypes, name="fc1"), read)
        wide = activation(config.hidden_act)(wide)
        added = at.map("fc2", Dense(d, **dtypes, name="fc2"), wide)
        x = x + gate("mlp_gate", at.add("feed_forward_output", read, added))
        if slot is not None:
            kept = kept.at[slot].set(x, mode="drop")
        return (x, kept), None


class _TileAttention(nn.Module):
    """Multi-head attention without biases, by a mask of its own."""

    num_heads: int
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], allowed: Bool[Array, "b l l"], at: At
    ) -> Float[Array, "b l d"]:
        """Attends; every token reads an adapter's own keys."""
        b, l, d = x.shape

        def dense(name: str, x: Array) -> Array:
            return at.map(name, Dense(d, False, self.dtype, self.param_dtype, name=name), x)

        def heads(name: str) -> Float[Array, "b h l c"]:
            return dense(name, x).reshape(b, l, self.num_heads, -1).swapaxes(1, 2)

        query, (key, value) = heads("query"), at.behind_prefix(heads("key"), heads("value"))
        front = key.shape[2] - l
        allowed = jnp.pad(allowed, [(0, 0), (0, 0), (front, 0)], constant_values=True)
        mixed = attend_where(query, [key], [value], allowed)
        return dense("out", mixed.swapaxes(1, 2).reshape(b, l, d))


class MllamaVision(HookedModule):
    """Tiles of pictures to tokens; `hook` sits in the layers of the first stage."""

    config: MllamaTowerConfig

    @nn.compact
    def __call__(
        self,
        pixel_values: Float[Array, "p t s s c"],
        ratios: Int[Array, "p"],
        adapters: PyTree = None,
    ) -> Float[Array, "p t n e"]:
        """Encodes.

        Args:
          pixel_values: float [p, max_tiles, image_size, image_size, 3], normalised.
          ratios: int [p]: numbers of the arrangements of tiles, counted from 1; 0 is no picture.
          adapters: parameters for `hook`; leaves [layers of the first stage, ...].

        Returns:
          Float [p, max_tiles, num_tokens, out_size]: the second stage's features, then those of
          inner layers, which change the quickest.

        Source:
          Grattafiori et al. 2024 (Llama 3, section 7), and Meta's code for Llama 3.2.
        """
        config, dtypes = self.config, self.dtypes
        p, t, *size = pixel_values.shape
        side, patch, d = config.image_size, config.patch_size, config.hidden_size
        check_pixels((t, *size), (config.max_tiles, side, side, config.num_channels))
        n, padded = config.num_tokens, config.num_padded
        kinds = 1 + len(config.arrangements)

        def param(name: str, *shape: int) -> Array:
            init = nn.initializers.normal(d**-0.5)
            return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

        def gate(name: str) -> Array:
            zero = self.param(name, nn.initializers.zeros, (1,), self.param_dtype)
            return jnp.tanh(zero.astype(self.dtype))[None, None, None]

        def of_tiles(name: str, tokens: int) -> Array:
            table = param(f"{name}_embedding", kinds, t * tokens * d)
            return table[ratios].reshape(p, t, tokens, d)

        kernel = param("patch_kernel", patch * patch * config.num_channels, d)
        patches = cut_patches(pixel_values.reshape(p * t, *size), patch).astype(self.dtype)
        x = (patches @ kernel).reshape(p, t, n - 1, d)
        x = x + of_tiles("pre_tile", 1) * gate("pre_tile_gate")
        first = jnp.broadcast_to(param("cls_token", d)[None, None, None], (p, t, 1, d))
        x = jnp.concatenate([first, x], axis=2)
        own = gate("position_gate")
        x = x + (1 - own) * param("position_embeddings", n, d)[None, None]
        x = x + own * of_tiles("position_tile", n)
        x = LayerNorm(_EPSILON, **dtypes, name="pre_norm")(x)
        x = jnp.pad(x, [(0, 0), (0, 0), (0, padded - n), (0, 0)]).reshape(p, t * padded, d)

        # What is padding does not read padding, but is read by all else: empty tiles have features.
        counts = np.array([1, *(r * c for r, c in config.arrangements)])
        real = np.arange(t)[None] < jnp.asarray(counts)[ratios][:, None]
        empty = ~(real[:, :, None] & (np.arange(padded) < n)[None, None]).reshape(p, -1)
        allowed = ~(empty[:, :, None] & empty[:, None])

        chosen = sorted(config.features)
        slots = np.full(config.num_layers, len(chosen))
        slots[chosen] = np.arange(len(chosen))
        kept = jnp.zeros((len(chosen), *x.shape), x.dtype)
        layers = stack(TileLayer, config.num_layers, in_axes=(nn.broadcast, 0, 0))
        (x, kept), _ = layers(config, **self.hooked, name="layers")(
            (x, kept), allowed, adapters, jnp.asarray(slots)
        )
        x = LayerNorm(_EPSILON, **dtypes, name="post_norm")(x).reshape(p, t, padded, d)
        x = x + of_tiles("post_tile", 1) * gate("post_tile_gate")
        layers = stack(TileLayer, config.num_global_layers, in_axes=(nn.broadcast,))
        (x, _), _ = layers(config, gated=True, **dtypes, name="global_layers")(
            (x.reshape(p, -1, d), kept[:0]), allowed
        )
        inner = [kept[chosen.index(i)] for i in config.features]
        parts = jnp.concatenate([x, jnp.stack(inner, axis=-1).reshape(p, t * padded, -1)], axis=-1)
        return parts.reshape(p, t, padded, -1)[:, :, :n]


def _patch_rows(config: MllamaTowerConfig) -> Transform:
    """The convolution's kernel, whose numbers lie as `cut_patches` has them."""
    shape = config.hidden_size, config.num_channels, config.patch_size, config.patch_size
    return Transform(lambda _: shape, lambda x: x.transpose(2, 3, 1, 0).reshape(-1, len(x)))


def tower_keys(config: MllamaTowerConfig, top: str, target: str) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `MllamaVision`.

    Args:
      config: the tower's.
      top: what stands in front of the tensors' names, a pattern.
      target: the same of the parameters' paths.

    Returns:
      The rules.
    """
    layer = r"layers\.(?P<layer>\d+)\."
    rules: list[KeyRule] = [
        KeyRule(top + r"patch_embedding\.weight", target + "patch_kernel", _patch_rows(config)),
        KeyRule(top + "class_embedding", target + "cls_token", COPY),
    ]
    positions = top + r"gated_positional_embedding\."
    for source, ours in (
        (positions + "gate", "position_gate"),
        (positions + "embedding", "position_embeddings"),
        (positions + r"tile_embedding\.weight", "position_tile_embedding"),
        *(
            (top + rf"{part}_tile_positional_embedding\.{theirs}", f"{part}_tile_{name}")
            for part in ("pre", "post")
            for theirs, name in (("gate", "gate"), (r"embedding\.weight", "embedding"))
        ),
    ):
        rules.append(KeyRule(source, target + ours, COPY))
    for part in ("pre", "post"):
        rules += norm_rules(top + f"layernorm_{part}", f"{target}{part}_norm")
    for stage, ours in (("transformer", "layers/"), ("global_transformer", "global_layers/")):
        block = top + stage + r"\." + layer
        for name, place in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
            kernel, _ = dense_rules(
                block + rf"self_attn\.{name}_proj", f"{target}{ours}attention/{place}"
            )
            rules.append(kernel)
        for name, place in (("input", "norm1"), ("post_attention", "norm2")):
            rules += norm_rules(block + f"{name}_layernorm", target + ours + place)
        rules += dense_rules(block + r"mlp\.(?P<map>fc1|fc2)", target + ours + "{map}")
    block = top + r"global_transformer\." + layer
    for name, place in (("attn", "attention_gate"), ("ffn", "mlp_gate")):
        rules.append(KeyRule(block + f"gate_{name}", f"{target}global_layers/{place}", COPY))
    return tuple(rules)


def tower_sharding(prefix: str) -> Rules:
    """Who holds what: heads, hidden units and the width of the large table over `model`."""
    inner: list[tuple[str, Any]] = [
        (f"{prefix}(global_)?{pattern}", spec)
        for pattern, spec in PRE_NORM_RULES
        if not pattern.endswith("bias")
    ]
    return (
        *inner,
        (rf"{prefix}(global_)?layers/fc1/bias", P(None, "model")),
        (rf"{prefix}position_tile_embedding", P(None, "model")),
    )
