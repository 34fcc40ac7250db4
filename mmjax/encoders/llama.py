"""LLaMA 1, 2, 3 and what is built like them (Vicuna, SmolLM2): decoders with rotary positions."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.encoders import inserted, rope
from mmjax.encoders.attention import PLAIN, Kernel, Mask, attend
from mmjax.encoders.family import Family
from mmjax.encoders.layers import At, Dense, PrefixHook, activation, stack
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.llama_keys import IGNORED, heads, key_table, sharding
from mmjax.encoders.modules import AttendingModule, EncoderModule
from mmjax.encoders.norms import RMSNorm
from mmjax.errors import MmjaxError

PyTree = Any
Padding = Literal["any", "right", "right, first hidden"]


class KeyValues(NamedTuple):
    """Rotated keys, and values, of the tokens that later ones attend to."""

    keys: Float[Array, "*layers b h k c"]
    values: Float[Array, "*layers b h k c"]


class Turns(NamedTuple):
    """How a layer turns queries and keys: cosines and sines by token, and radians a position."""

    cos: Float[Array, "b l half"]
    sin: Float[Array, "b l half"]
    frequencies: Float[Array, "half"]


class AttentionInputs(NamedTuple):
    """What every layer reads alike."""

    mask: Mask
    turns: Turns
    local_turns: Turns | None = None  # of local layers, where theirs are others

    def of(self, is_local: Bool[Array, ""] | None) -> "AttentionInputs":
        """What one layer reads; None where all layers read alike."""
        if is_local is None:
            return self
        turns = self.turns
        if self.local_turns is not None:
            turns = jax.tree.map(lambda *x: jnp.where(is_local, *x), self.local_turns, turns)
        return AttentionInputs(self.mask.replace(local=is_local), turns)


def turns_at(positions: Int[Array, "b l ..."], rotary: rope.RopeConfig, head_dim: int) -> Turns:
    """The rotations of tokens at positions [b, l], or of a Qwen-VL's at [b, l, 3]."""
    frequencies = rotary.frequencies(head_dim)
    if positions.ndim == 2:
        angles = rope.angles(positions, frequencies)
    else:
        angles = rope.sectioned_angles(positions, frequencies, rotary.sections)
    return Turns(*angles, jnp.asarray(frequencies))


def self_attention(config: LlamaConfig, rows: int) -> AttentionInputs:
    """What a token reads that stands alone at position 0, in each of so many rows."""
    at = jnp.zeros((rows, 1), jnp.int32)
    return AttentionInputs(Mask(), turns_at(at, config.rope, config.head_dim))


class LlamaAttention(EncoderModule):
    """Causal attention in which several query heads share a key and value head."""

    config: LlamaConfig
    attend_by: Kernel = PLAIN

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], shared: AttentionInputs, past: KeyValues | None, at: At
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
        dtypes = self.dtypes
        bias = config.attention_bias or config.qkv_bias
        turns, mask = shared.turns, shared.mask

        def heads(name: str, count: int) -> Float[Array, "b h l c"]:
            dense = Dense(count * c, bias, **dtypes, name=name)
            return at.map(name, dense, x).reshape(b, l, count, c).swapaxes(1, 2)

        def turned(name: str, count: int) -> Float[Array, "b h l c"]:
            vectors = heads(name, count)
            if config.qk_norm:
                vectors = norm_of(config, **dtypes, name=f"{name}_norm")(vectors)
            return rope.rotate(vectors, turns.cos, turns.sin)

        query = turned("query", h * group)
        new = KeyValues(turned("key", h), heads("value", h))
        parts = [new] if past is None else [past, new]
        if isinstance(at.hook, PrefixHook):
            own = self.prefix(at.hook, at.adapter, b, turns)
            parts, mask = [own, *parts], mask.behind(own.keys.shape[2])
        both = [p.keys for p in parts], [p.values for p in parts]
        scale = config.score_width**-0.5 if config.score_width else None
        mixed = attend(query, *both, mask, self.attend_by, scale)
        out = Dense(config.hidden_size, config.attention_bias, **dtypes, name="out")
        mixed = jnp.reshape(jnp.transpose(mixed, (0, 2, 1, 3)), (b, l, -1))
        return at.map("out", out, mixed), new

    def prefix(self, hook: PrefixHook, adapter: PyTree, rows: int, turns: Turns) -> KeyValues:
        """An adapter's own keys and values, in front of the first token.

        Its keys are not rotated, and the first word stands behind them, as in PEFT. Words count
        from 0 here: seen from there the keys are rotated back by their number.
        """
        config = self.config
        keys, values = (
            x.astype(self.dtype).reshape(1, len(x), config.num_kv_heads, -1).swapaxes(1, 2)
            for x in hook.key_values(adapter)
        )
        back = jnp.full((1, keys.shape[2]), -keys.shape[2])
        keys = rope.rotate(keys, *rope.angles(back, turns.frequencies))
        return KeyValues(*(jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in (keys, values)))


def norm_of(config: LlamaConfig, **settings: Any) -> RMSNorm:
    """A norm of the kind that a model has; the settings are flax's."""
    return RMSNorm(config.rms_norm_eps, offset=config.norm_offset, **settings)


class LlamaLayer(AttendingModule):
    """One pre-norm layer: attention, then a gated feed-forward part; Gemma's norms both again."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        shared: AttentionInputs,
        past: KeyValues | None,
        adapter: PyTree,
        is_local: Bool[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """Runs the layer.

        Args:
          x: float [b, l, d].
          shared: mask and rotations.
          past: this layer's keys and values of earlier tokens, or None.
          adapter: this layer's slice of the adapter's parameters.
          is_local: whether it reads `shared.local`; None where no layer differs.

        Returns:
          (float [b, l, d], keys and values of x): the pair that a scan wants.
        """
        config, dtypes = self.config, self.dtypes
        at = At(self.hook, adapter)

        def dense(width: int, name: str, x: jax.Array) -> jax.Array:
            return at.map(name, Dense(width, config.mlp_bias, **dtypes, name=name), x)

        def normed(name: str, x: jax.Array) -> jax.Array:
            return norm_of(config, **dtypes, name=name)(x)

        x = at.read("layer_input", x)
        hidden = normed("attention_norm", x)
        hidden = at.read("attention_input", hidden)
        attention = LlamaAttention(config, **dtypes, attend_by=self.attend_by, name="attention")
        attended, new = attention(hidden, shared.of(is_local), past, at)
        if config.branch_norms:
            attended = normed("post_attention_norm", attended)
        x = x + at.add("attention_output", hidden, attended)
        hidden = normed("mlp_norm", x)
        hidden = at.read("feed_forward_input", hidden)
        gate = activation(config.hidden_act)(dense(config.intermediate_size, "gate", hidden))
        wide = gate * dense(config.intermediate_size, "up", hidden)
        added = dense(config.hidden_size, "down", wide)
        if config.branch_norms:
            added = normed("post_mlp_norm", added)
        return x + at.add("feed_forward_output", hidden, added), new


class Llama(AttendingModule):
    """A LLaMA: tokens to hidden states, and hidden states to logits.

    `hook` is an adapter: it may change what comes out of any place of every layer. Its parameters
    stay outside the frozen ones: `extend` takes them as a tree whose leaves have a leading axis of
    layers.
    """

    config: LlamaConfig
    remat: bool = False  # keep layers' inputs only, and compute the rest again going backward

    def setup(self) -> None:
        """Declares the parts."""
        config, dtypes = self.config, self.dtypes
        self.embed_tokens = nn.Embed(config.words, config.hidden_size, **dtypes)
        # Inside a scan nothing can be merged across layers anyway, so nothing need prevent it.
        layer = nn.remat(LlamaLayer, prevent_cse=False) if self.remat else LlamaLayer
        scanned = stack(layer, config.num_layers, in_axes=(nn.broadcast, 0, 0, 0))
        self.layers = scanned(config, **self.hooked)
        self.norm = norm_of(config, **dtypes)
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
        words = self.embed_tokens(input_ids)
        if not self.config.scaled_words:
            return words
        return words * jnp.asarray(self.config.hidden_size**0.5, self.dtype)

    def extend(
        self,
        embeddings: Float[Array, "b l d"],
        attention_mask: Int[Array, "b m"],
        past: KeyValues | None = None,
        positions: Int[Array, "b l ..."] | None = None,
        adapters: PyTree = None,
        padding: Padding = "any",
        together: Bool[Array, "b l"] | None = None,
        **more: Any,
    ) -> tuple[Float[Array, "b l d"], KeyValues]:
        """Hidden states of tokens that follow a past.

        Args:
          embeddings: float [b, l, d], of words or of anything else.
          attention_mask: int [b, k + l] over the past's k slots and the new tokens: 1 where later
            tokens may look. Every token sees itself, so a 0 at a real token hides it from later
            ones only.
          past: keys and values [layers, b, kv_heads, k, head_dim]; None for k = 0.
          positions: rotary positions, int [b, l], or of a Qwen-VL [b, l, 3]; None counts the ones
            of the mask.
          adapters: parameters for `hook`; leaves [layers, ...].
          padding: where the mask is 0: `right`, behind each row's last token and nowhere else;
            `right, first hidden` at the very first one of every row too. A GPU's kernel needs to
            know it, and believes it.
          together: which of the new tokens are pictures': what stands side by side of them is read
            by all of it, whatever its order; None reads all in order.
          **more: what `run_layers` of a kind of decoder takes beside.

        Returns:
          (float [b, l, d] after the last norm, keys and values [layers, b, kv_heads, l, head_dim]
          of the new tokens).

        Source:
          Touvron et al. 2023 (LLaMA, LLaMA 2); Grattafiori et al. 2024 (LLaMA 3).
        """
        if isinstance(self.hook, inserted.TokenHook) and past is not None:
            raise MmjaxError(
                "learnt tokens stand in front of whole texts, not behind a past; take them as keys "
                "and values, by mmjax.adapters.prefix_tuning.as_prefix"
            )
        embeddings, seen, adapters = inserted.insert(
            self.hook, adapters, embeddings, attention_mask, 0
        )
        assert seen is not None
        attention_mask = seen
        length = embeddings.shape[1]
        if positions is None:
            positions = jnp.maximum(jnp.cumsum(attention_mask, axis=1) - 1, 0)[:, -length:]
        config, c = self.config, self.config.head_dim
        local, other = config.local_layers, config.local_rope
        mixed_kinds = any(local) and not all(local)
        turns, local_turns = turns_at(positions, config.rope, c), None
        if other is not None and any(local):
            local_turns = turns_at(positions, other, c)
            turns = turns if mixed_kinds else local_turns
        # Learnt tokens stand in front of the first one.
        plain = not isinstance(self.hook, inserted.TokenHook)
        mask = Mask(
            readable=attention_mask.astype(bool),
            causal=True,
            own=True,
            blocks=None if together is None else _blocks(together, attention_mask.shape[1]),
            window=config.window if any(local) else 0,
            right=plain and padding != "any",
            first_hidden=plain and padding == "right, first hidden",
        )
        is_local = jnp.array(local) if mixed_kinds else None
        shared = AttentionInputs(mask, turns, local_turns)
        x = embeddings.astype(self.dtype)
        x, keys_values = self.run_layers(x, shared, past, adapters, is_local, **more)
        return self.norm(inserted.remove(self.hook, x, 0)), keys_values

    def run_layers(self, *arguments: Any) -> tuple[Float[Array, "b l d"], KeyValues]:
        """All layers in turn; takes what a layer takes, with a leading axis where they differ."""
        return self.layers(*arguments)

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


def _blocks(together: Bool[Array, "b l"], width: int) -> Int[Array, "b m"]:
    """Numbers, from 1, of the runs of picture tokens; 0 elsewhere, and of what stands in front."""
    begins = together & ~jnp.pad(together, [(0, 0), (1, 0)])[:, :-1]
    numbers = jnp.where(together, jnp.cumsum(begins, axis=1, dtype=jnp.int32), 0)
    return jnp.pad(numbers, [(0, 0), (width - together.shape[1], 0)])


LLAMA = Family(
    "llama", "text", LlamaConfig.from_hf, Llama, key_table, IGNORED, sharding, heads=heads
)
