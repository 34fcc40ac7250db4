"""Batched continuation of prompts: one prefill, then a compiled loop over a static cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.checks.arguments import several, texts, token_ids, whole
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import LanguageModel, embed, extend, logits
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.mllama_images import SeenPictures
from mmjax.encoders.padding import bucket
from mmjax.errors import MmjaxError, shown
from mmjax.generation.prefix import Prefix, check_prefix, past_of, read
from mmjax.generation.prompts import (
    BUCKETS,
    Prepared,
    Prompt,
    check_model,
    prepare,
    replicate,
    split_cache,
    vocab_size,
)
from mmjax.generation.reader import Generation, Reader
from mmjax.generation.sampling import Sampling, choose
from mmjax.generation.turned import for_decoding

PyTree = Any


_SHIFTS = {"correct": 0, "legacy": -1}  # of new tokens' rotary positions


class State(NamedTuple):
    """A batch under way; the cache holds the prompts, then the new tokens but the last."""

    past: KeyValues  # [layers, b, kv_heads, slots, head_dim]
    mask: Int[Array, "b slots"]  # 1 at the slots that hold a token of the row
    tokens: Int[Array, "b n"]
    log_probs: Float[Array, "b n"]
    done: Bool[Array, "b"]
    step: Int[Array, ""]  # tokens chosen so far
    offset: Int[Array, "b"] | None = None  # of positions beside the tokens in front


def generate(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 64,
    sampling: Sampling | None = None,
    key: Key[Array, ""] | None = None,
    stop: Sequence[str] = (),
    stop_token_ids: Sequence[int] | None = None,
    on_text: Callable[[int, str], None] | None = None,
    adapters: PyTree = None,
    images: Sequence[Sequence[ImageLike]] | None = None,
    decode_positions: Literal["correct", "legacy"] = "correct",
    look_every: int = 8,
    prefix: Prefix | None = None,
) -> list[Generation]:
    """Continues prompts of any lengths together.

    Lengths, rows and `max_new_tokens` are rounded up to buckets; a call in the same buckets runs
    the same compiled programs. The loop ends as soon as every row has ended.

    Args:
      model: from `load_encoder`. With a mesh, rows are split over `data`, heads and vocabulary over
        `model`.
      prompts: n prompts: all of them texts, messages or ids, or all embeddings [l, d].
      max_new_tokens: the most tokens a row.
      sampling: None takes the likeliest token at every step.
      key: where `sampling` draws from; needed with it. Row i draws from fold_in(key, i).
      stop: texts that end a row; neither they nor what follows are part of its text.
      stop_token_ids: None takes the model's own end tokens.
      on_text: called as on_text(row, new piece of text), a few tokens at a time. A piece is held
        back where it may still become part of a stop string or of an unfinished character.
      adapters: parameters for the model's hook; leaves [layers, ...]. With a hook in a LLaVA's
        image tower they are by tower, see `LanguageModel.checked_adapters`.
      images: a LLaVA's only; for each prompt its pictures, as many as it has image tokens. None
        takes those that its messages hold.
      decode_positions: `legacy` gives new tokens rotary positions one lower than their own, as
        LaVIN's published code decodes: the first one then has that of the prompt's last token, and
        outputs are not those that the model was trained to give.
      look_every: tokens between two looks at stop strings, or two calls of `on_text`; 1 passes on
        every token at once, and waits for the device after each.
      prefix: what stands in front of every prompt, from `cache_prefix`, which says how texts are
        cut into tokens behind it. Every row of the cache gets a copy.

    Returns:
      One `Generation` a prompt, in order.

    Raises:
      MmjaxError: an empty prompt, one that leaves no room for the new tokens, sampling without a
        key, pictures that do not go with the prompts, or a prefix of another model.
    """
    check_model(model, adapters, "generate")
    if not len(several(prompts, "prompts")):
        return []
    whole("max_new_tokens", max_new_tokens, 1)
    whole("look_every", look_every, 1)
    if decode_positions not in _SHIFTS:
        raise MmjaxError(
            f"decode_positions {shown(decode_positions)} must be one of {list(_SHIFTS)}"
        )
    if sampling is not None:
        if not isinstance(sampling, Sampling):
            raise MmjaxError(f"sampling is {shown(sampling)}; expected a Sampling, or None")
        sampling.check()
        if key is None:
            raise MmjaxError("sampling draws random tokens: pass key=jax.random.key(...) too")
    if key is not None and not isinstance(key, jax.Array):
        raise MmjaxError(f"key is {shown(key)}; expected jax.random.key(...)")
    if not all(texts(stop, "stop texts")):
        raise MmjaxError("a stop text is empty; it would end every row at once")
    ends = model.chat.eos_token_ids
    if stop_token_ids is not None:
        ends = tuple(token_ids(stop_token_ids, vocab_size(model), "stop_token_ids"))
    behind = check_prefix(prefix, model, adapters)
    prepared, rows = prepare(model, prompts, max_new_tokens, images, adapters, behind)
    adapters = model.checked_adapters(adapters)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(0) if key is None else key, jnp.arange(prepared.mask.shape[0])
    )
    new_tokens = bucket(max_new_tokens, BUCKETS)
    options = DecodeOptions(model.module, model.mesh, new_tokens, ends, _SHIFTS[decode_positions])
    past = past_of(prefix)
    state = prefill(model.params, adapters, prepared, sampling, keys, options, past)
    readers = [Reader(model, i, stop, ends, on_text) for i in range(rows)]
    ended = np.arange(prepared.mask.shape[0]) >= rows
    chunk = look_every if stop or on_text is not None else max_new_tokens
    later = prepared.later
    params = for_decoding(model, prepared.mask.shape[0], max_new_tokens)
    for limit in [*range(chunk, max_new_tokens, chunk), max_new_tokens]:
        state = decode(params, adapters, state, ended, limit, sampling, keys, options, later)
        tokens = np.asarray(state.tokens)[:, : int(state.step)]
        for i, reader in enumerate(readers):
            ended[i] = reader.read(tokens[i])
        if ended.all():
            break
    log_probs = np.asarray(state.log_probs)
    return [reader.finish(log_probs[i]) for i, reader in enumerate(readers)]


class DecodeOptions(NamedTuple):
    """What a compiled program is made for, beside the shapes of its arguments."""

    module: nn.Module
    mesh: Mesh | AbstractMesh | None
    new_tokens: int
    ends: tuple[int, ...]
    shift: int = 0  # of new tokens' rotary positions


@functools.partial(jax.jit, static_argnames="options")
def prefill(
    params: PyTree,
    adapters: PyTree,
    prompts: Prepared,
    sampling: Sampling | None,
    keys: Key[Array, "b"],
    options: DecodeOptions,
    prefix: KeyValues | None = None,
) -> State:
    """Reads the prompts and chooses every row's first token.

    Args:
      params: the model's parameters.
      adapters: parameters for its hook.
      prompts: b padded prompts of l tokens.
      sampling: None is greedy.
      keys: one a row.
      options: what the program is made for.
      prefix: keys and values of what stands in front of all prompts, one row.

    Returns:
      The state with one token a row, and room for the others.
    """
    module, mesh, n, ends, _ = options
    b = prompts.mask.shape[0]
    hidden, past, mask = read(module, params, adapters, prompts, prefix)
    if prefix is not None:
        past = jax.tree.map(_behind, prefix, past)
    past = jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * 3 + [(0, n), (0, 0)]), past)
    token, log_prob = choose(logits(module, params, hidden[:, -1]), sampling, _fold(keys, 0))
    done = jnp.isin(token, jnp.array(ends, jnp.int32))
    return State(
        split_cache(past, mesh),
        jnp.pad(mask, [(0, 0), (0, n)]),
        replicate(jnp.zeros((b, n), jnp.int32).at[:, 0].set(token), mesh),
        replicate(jnp.zeros((b, n), jnp.float32).at[:, 0].set(log_prob), mesh),
        replicate(done, mesh),
        jnp.int32(1),
        prompts.offset,
    )


def _behind(shared: Float[Array, "n 1 h k c"], own: Float[Array, "n b h l c"]) -> Array:
    """Keys or values of every row behind those that all rows share."""
    whole = jnp.broadcast_to(shared, (*own.shape[:3], *shared.shape[3:]))
    return jnp.concatenate([whole, own], axis=3)


def _fold(keys: Key[Array, "b"], step: Int[Array, ""] | int) -> Key[Array, "b"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, step)


@functools.partial(jax.jit, static_argnames="options", donate_argnames="state")
def decode(
    params: PyTree,
    adapters: PyTree,
    state: State,
    ended: Bool[Array | np.ndarray, "b"],
    limit: int | Int[Array, ""],
    sampling: Sampling | None,
    keys: Key[Array, "b"],
    options: DecodeOptions,
    pictures: SeenPictures | None = None,
) -> State:
    """Chooses tokens until every row is done or has `limit` of them.

    Args:
      params: the model's parameters.
      adapters: parameters for its hook.
      state: as `prefill` or this function left it; its memory is used again.
      ended: bool [b], rows that something outside has ended.
      limit: most tokens a row, counted from the prompt's end.
      sampling: None is greedy.
      keys: one a row.
      options: what the program is made for.
      pictures: what new tokens see beside the words, where the prompts have it.

    Returns:
      The state after the last token. A done row's further tokens mean nothing.
    """
    module, mesh, n, ends, shift = options
    prompt = state.mask.shape[1] - n

    def going_on(state: State) -> Bool[Array, ""]:
        return (state.step < limit) & ~state.done.all()

    def advance(state: State) -> State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, axis=1)
        slot = prompt + state.step - 1
        mask = jnp.concatenate([state.mask, jnp.ones_like(last)], axis=1)
        own = None
        if shift or state.offset is not None:
            own = mask.sum(axis=1, keepdims=True) - 1 + shift
            own = own if state.offset is None else own + state.offset[:, None]
        word = embed(module, params, last)
        hidden, new = extend(
            module, params, adapters, word, mask, state.past, own, pictures=pictures
        )
        past = jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, slot, axis=3),
            state.past,
            new,
        )
        following = logits(module, params, hidden[:, 0])
        token, log_prob = choose(following, sampling, _fold(keys, state.step))
        token, log_prob = replicate(token, mesh), replicate(log_prob, mesh)
        return State(
            split_cache(past, mesh),
            jax.lax.dynamic_update_slice_in_dim(state.mask, jnp.ones_like(last), slot, axis=1),
            jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, None], state.step, axis=1),
            jax.lax.dynamic_update_slice_in_dim(
                state.log_probs, log_prob[:, None], state.step, axis=1
            ),
            state.done | jnp.isin(token, jnp.array(ends, jnp.int32)),
            state.step + 1,
            state.offset,
        )

    state = jax.lax.while_loop(going_on, advance, state._replace(done=state.done | ended))
    # What a loop carries is laid out as the compiler likes, whatever its body says.
    rest = jax.tree.map(lambda x: replicate(x, mesh), state[2:])
    return State(state.past, state.mask, *rest)
