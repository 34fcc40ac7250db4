"""LLaMA 1, 2, 3 and what is built like them (Vicuna, SmolLM2): decoders with rotary positions."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from mmjax.encoders import rope
from mmjax.encoders.family import Family
from mmjax.encoders.layers import (
    At,
    Dense,
    Dtype,
    Hook,
    activation,
    stack,
)
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.sharding import Rules
from mmjax.weights.key_rules import COPY, TRANSPOSE, KeyRule, dense_rules

PyTree = Any


class KeyValues(NamedTuple):
    """Rotated keys, and values, of the tokens that later ones attend to."""

    keys: Float[Array, "*layers b h k c"]
    values: Float[Array, "*layers b h k c"]


class Shared(NamedTuple):
    """What every layer reads alike."""

    mask: Bool[Array, "b l m"]
    cos: Float[Array, "b l half"]
    sin: Float[Array, "b l half"]


def self_attention(config: LlamaConfig, rows: int) -> Shared:
    """What a token reads that stands alone at position 0, in each of so many rows."""
    angles = rope.angles(jnp.zeros((rows, 1), jnp.int32), config.rope.frequencies(config.head_dim))
    return Shared(jnp.ones((rows, 1, 1), bool), *angles)


class RMSNorm(nn.Module):
    """Scales by the root mean square, computed in float32.

    Unlike flax's it rounds to `dtype` before it multiplies by the scale, as the original does: in
    bfloat16 a quarter of all values would else be another one than there.
    """

    epsilon: float
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Normalises the last axis.

        Args:
          x: float [b, l, d].

        Returns:
          Float [b, l, d] in `dtype`.

        Source:
          Zhang and Sennrich 2019.
        """
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return x.astype(self.dtype) * scale.astype(self.dtype)[None, None]


class LlamaAttention(nn.Module):
    """Causal attention in which several query heads share a key and value head."""

    config: LlamaConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], shared: Shared, past: KeyValues | None, at: At
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """Attends to the past and to x itself.

        Args:
          x: float [b, l, d].
          shared: the mask over past and x together, and the rotations of x.
          past: keys and values [b, kv_heads, k, head_dim], or None.
          at: the adapter's places: queries, keys, values and the output.

        Returns:
          (float [b, l, d], keys and values of x).
        """
        config = self.config
        b, l, _ = x.shape
        h, c = config.num_kv_heads, config.head_dim
        group = config.num_heads // h

        def heads(name: str, count: int) -> Float[Array, "b h l c"]:
            dense = Dense(count * c, config.attention_bias, self.dtype, self.param_dtype, name=name)
            return at.map(name, dense, x).reshape(b, l, count, c).swapaxes(1, 2)

        query = rope.rotate(heads("query", h * group), shared.cos, shared.sin) * c**-0.5
        query = query.reshape(b, h, group, l, c)
        new = KeyValues(rope.rotate(heads("key", h), shared.cos, shared.sin), heads("value", h))
        # The past is read where it lies: joining it to the new keys would copy it at every token.
        parts = [new] if past is None else [past, new]
        scores = jnp.concatenate(
            [
                jnp.einsum("bhglc,bhkc->bhglk", query, p.keys, preferred_element_type=jnp.float32)
                for p in parts
            ],
            axis=-1,
        )
        least = jnp.finfo(jnp.float32).min
        scores = jnp.where(shared.mask[:, None, None], scores, least)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        split = jnp.split(weights, [scores.shape[-1] - l], axis=-1)[-len(parts) :]
        # The product's own order: asking for another one turns the values around instead.
        mixed = sum(
            jnp.einsum("bhglk,bhkc->bhglc", w, p.values) for w, p in zip(split, parts, strict=True)
        )
        out = Dense(
            config.hidden_size, config.attention_bias, self.dtype, self.param_dtype, name="out"
        )
        mixed = jnp.reshape(jnp.transpose(mixed, (0, 3, 1, 2, 4)), (b, l, -1))
        return at.map("out", out, mixed), new


class LlamaLayer(nn.Module):
    """One pre-norm layer: attention, then a gated feed-forward part."""

    config: LlamaConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    hook: Hook | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        shared: Shared,
        past: KeyValues | None,
        adapter: PyTree,
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """Runs the layer.

        Args:
          x: float [b, l, d].
          shared: mask and rotations.
          past: this layer's keys and values of earlier tokens, or None.
          adapter: this layer's slice of the adapter's parameters.

        Returns:
          (float [b, l, d], keys and values of x): the pair that a scan wants.
        """
        config = self.config
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        at = At(self.hook, adapter)

        def dense(width: int, name: str, x: jax.Array) -> jax.Array:
            return at.map(name, Dense(width, config.mlp_bias, **dtypes, name=name), x)

        hidden = RMSNorm(config.rms_norm_eps, **dtypes, name="attention_norm")(x)
        hidden = at.read("attention_input", hidden)
        attention = LlamaAttention(config, **dtypes, name="attention")
        attended, new = attention(hidden, shared, past, at)
        x = x + attended
        hidden = RMSNorm(config.rms_norm_eps, **dtypes, name="mlp_norm")(x)
        hidden = at.read("feed_forward_input", hidden)
        gate = activation(config.hidden_act)(dense(config.intermediate_size, "gate", hidden))
        hidden = gate * dense(config.intermediate_size, "up", hidden)
        return x + dense(config.hidden_size, "down", hidden), new


class Llama(nn.Module):
    """A LLaMA: tokens to hidden states, and hidden states to logits.

    `hook` is an adapter: it may change what comes out of any place of every layer. Its parameters
    stay outside the frozen ones: `extend` takes them as a tree whose leaves have a leading axis of
    layers.
    """

    config: LlamaConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    hook: Hook | None = None
    remat: bool = False  # keep layers' inputs only, and compute the rest again going backward

    def setup(self) -> None:
        """Declares the parts."""
        config = self.config
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.embed_tokens = nn.Embed(config.vocab_size, config.hidden_size, **dtypes)
        # Inside a scan nothing can be merged across layers anyway, so nothing need prevent it.
        layer = nn.remat(LlamaLayer, prevent_cse=False) if self.remat else LlamaLayer
        scanned = stack(layer, config.num_layers, in_axes=(nn.broadcast, 0, 0))
        self.layers = scanned(config, **dtypes, hook=self.hook)
        self.norm = RMSNorm(config.rms_norm_eps, **dtypes)
        if not config.tied:
            self.lm_head = Dense(config.vocab_size, use_bias=False, **dtypes)

    def __call__(
        self,
        input_ids: Int[Array, "b l"],
        attention_mask: Int[Array, "b l"],
        adapters: PyTree = None,
    ) -> Float[Array, "b l d"]:
        """Hidden states of whole texts, padded on either side.

        Args:
          input_ids: int [b, l].
          attention_mask: int [b, l], 1 at real tokens.
          adapters: parameters for `hook`; leaves [layers, ...].

        Returns:
          Float [b, l, d] after the last norm.
        """
        hidden, _ = self.extend(self.embed(input_ids), attention_mask, adapters=adapters)
        if self.is_initializing():
            self.logits(hidden)  # or the head would have no parameters
        return hidden

    def embed(self, input_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Looks up word embeddings, float [b, l, d]."""
        return self.embed_tokens(input_ids)

    def extend(
        self,
        embeddings: Float[Array, "b l d"],
        attention_mask: Int[Array, "b m"],
        past: KeyValues | None = None,
        positions: Int[Array, "b l"] | None = None,
        adapters: PyTree = None,
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """Hidden states of tokens that follow a past.

        Args:
          embeddings: float [b, l, d], of words or of anything else.
          attention_mask: int [b, k + l] over the past's k slots and the new tokens: 1 where later
            tokens may look. Every token sees itself, so a 0 at a real token hides it from later
            ones only.
          past: keys and values [layers, b, kv_heads, k, head_dim]; None for k = 0.
          positions: rotary positions; None counts the ones of the mask.
          adapters: parameters for `hook`; leaves [layers, ...].

        Returns:
          (float [b, l, d] after the last norm, keys and values [layers, b, kv_heads, l, head_dim]
          of the new tokens).

        Source:
          Touvron et al. 2023 (LLaMA, LLaMA 2); Grattafiori et al. 2024 (LLaMA 3).
        """
        length = embeddings.shape[1]
        if positions is None:
            positions = jnp.maximum(jnp.cumsum(attention_mask, axis=1) - 1, 0)[:, -length:]
        may = attention_mask.astype(bool)[:, None]
        old, new = jnp.split(may, [attention_mask.shape[1] - length], axis=-1)
        old = jnp.broadcast_to(old, (old.shape[0], length, old.shape[2]))
        new = (new & jnp.tri(length, dtype=bool)[None]) | jnp.eye(length, dtype=bool)[None]
        cos, sin = rope.angles(positions, self.config.rope.frequencies(self.config.head_dim))
        shared = Shared(jnp.concatenate([old, new], axis=-1), cos, sin)
        x, keys_values = self.layers(embeddings.astype(self.dtype), shared, past, adapters)
        return self.norm(x), keys_values

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Next-token logits.

        Args:
          hidden: float [*b, d] after the last norm.

        Returns:
          Float32 [*b, vocab_size].
        """
        # Or XLA would compute the norm once more for every word of the vocabulary.
        hidden = jax.lax.optimization_barrier(hidden)
        logits = self.embed_tokens.attend(hidden) if self.config.tied else self.lm_head(hidden)
        return logits.astype(jnp.float32)


_PREFIX = r"(?:model\.)?"
_LAYER = _PREFIX + r"layers\.(?P<layer>\d+)\."


def key_table(config: LlamaConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `Llama`.

    Args:
      config: says whether there is a head of its own.

    Returns:
      The rules.
    """
    head = [] if config.tied else [KeyRule(r"lm_head\.weight", "lm_head/kernel", TRANSPOSE)]
    return (
        KeyRule(_PREFIX + r"embed_tokens\.weight", "embed_tokens/embedding", COPY),
        KeyRule(_PREFIX + r"norm\.weight", "norm/scale", COPY),
        KeyRule(_LAYER + r"input_layernorm\.weight", "layers/attention_norm/scale", COPY),
        KeyRule(_LAYER + r"post_attention_layernorm\.weight", "layers/mlp_norm/scale", COPY),
        *dense_rules(_LAYER + r"self_attn\.q_proj", "layers/attention/query"),
        *dense_rules(_LAYER + r"self_attn\.k_proj", "layers/attention/key"),
        *dense_rules(_LAYER + r"self_attn\.v_proj", "layers/attention/value"),
        *dense_rules(_LAYER + r"self_attn\.o_proj", "layers/attention/out"),
        *dense_rules(_LAYER + r"mlp\.(?P<part>gate|up|down)_proj", "layers/{part}"),
        *head,
    )


# A buffer; and a tied checkpoint may hold its head a second time.
IGNORED = re.compile(r".*rotary_emb\.inv_freq|lm_head\.weight")


def sharding(config: LlamaConfig) -> Rules:
    """Who holds what: heads, the feed-forward width and the vocabulary are split over `model`.

    Args:
      config: says whether there is a head of its own.

    Returns:
      (anchored pattern, PartitionSpec) pairs.
    """
    head = () if config.tied else ((r"lm_head/kernel", P(None, "model")),)
    return (
        (r"embed_tokens/embedding", P("model", None)),
        (r"layers/(attention/(query|key|value)|gate|up)/kernel", P(None, None, "model")),
        (r"layers/(attention/out|down)/kernel", P(None, "model", None)),
        *head,
        (r".*", P()),
    )


LLAMA = Family("llama", "text", LlamaConfig.from_hf, Llama, key_table, IGNORED, sharding)
