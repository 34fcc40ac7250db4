"""Prompts of any kind and length as one padded batch of embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mmjax.checks import arguments
from mmjax.checks.arguments import several, token_ids
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import LanguageModel, Message, embed, mix
from mmjax.encoders.llava import WORD
from mmjax.encoders.llava_images import Mixed
from mmjax.encoders.text_preprocess import bucket
from mmjax.errors import MmjaxError, shown
from mmjax.trees import PyTree

# A text, messages for the chat template, token ids, or embeddings [l, d] of words and pictures.
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int] | np.ndarray
BUCKETS = tuple(16 << i for i in range(13))  # of tokens, read or written


class Prepared(NamedTuple):
    """Prompts as one padded batch, the padding in front."""

    embeddings: Float[Array, "b l d"]
    mask: Int[Array, "b l"]


def prepare(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    images: Sequence[Sequence[ImageLike]] | None = None,
    adapters: PyTree = None,
) -> tuple[Prepared, int]:
    """Makes prompts a batch of a bucket's shape.

    Args:
      model: its tokenizer and its word embeddings.
      prompts: n prompts.
      max_new_tokens: room to leave.
      images: for each prompt its pictures; None takes those that its messages hold.
      adapters: parameters for the model's hooks; those of a LLaVA's image tower are read here.

    Returns:
      (the batch, n): at least n rows; those beyond n repeat the first prompt's last token.

    Raises:
      MmjaxError: a prompt that is empty or too long, or whose pictures are not as many as its
        image tokens.
    """
    prompts = [_checked(model, i, prompt) for i, prompt in enumerate(several(prompts, "prompts"))]
    given = [isinstance(prompt, np.ndarray) for prompt in prompts]
    if any(given) and not all(given):
        raise MmjaxError("give all prompts as embeddings, or none of them")
    items = [
        prompt
        if isinstance(prompt, np.ndarray)
        else np.array(model.encode_prompt(prompt), np.int32)
        for prompt in prompts
    ]
    mixed = _mixed(model, items, prompts, images)
    if mixed is not None:
        items = mixed.ids
    longest, limit = max(map(len, items)), model.config.max_length
    if min(map(len, items)) < 1 or longest + max_new_tokens > limit:
        raise MmjaxError(
            f"prompts of {min(map(len, items))} to {longest} tokens and {max_new_tokens} new ones "
            f"do not fit: this model takes 1 to {limit} tokens in all"
        )
    length = min(bucket(longest, BUCKETS), limit)
    data = 1 if model.mesh is None else model.mesh.shape.get("data", 1)
    rows = _rows(len(items), data)
    items += [items[0][-1:]] * (rows - len(items))
    batch = np.zeros((rows, length, *items[0].shape[1:]), items[0].dtype)
    mask = np.zeros((rows, length), np.int32)
    for row, item in enumerate(items):
        # In front: the next token of every row then has the same slot.
        batch[row, length - len(item) :], mask[row, length - len(item) :] = item, 1
    placed = [split_rows(jnp.asarray(x), model.mesh) for x in (batch, mask)]
    if mixed is not None:
        places = np.full((rows, length), WORD, np.int32)
        for row, item in enumerate(mixed.places):
            places[row, length - len(item) :] = item
        tiles = np.zeros((_rows(len(mixed.tiles), data), *mixed.tiles.shape[1:]), np.float32)
        tiles[: len(mixed.tiles)] = mixed.tiles
        more = [split_rows(jnp.asarray(x), model.mesh) for x in (tiles, places)]
        own = model.checked_adapters(adapters, "image")
        placed[0] = _mix(model.module, model.params, placed[0], *more, own)
    elif not any(given):
        placed[0] = _embed(model.module, model.params, placed[0])
    return Prepared(placed[0], placed[1]), len(prompts)


def check_model(model: object, adapters: object, function: str) -> None:
    """Refuses what says nothing, and an adapter without its parameters.

    Raises:
      MmjaxError: no language model, or a hook without parameters (or the reverse).
    """
    if not isinstance(model, LanguageModel):
        raise MmjaxError(
            f"{function} takes a language model from load_encoder, got {shown(model)[:80]}"
        )
    model.checked_adapters(adapters)


def _checked(model: LanguageModel, number: int, prompt: Any) -> Prompt:
    """A prompt of one of the four kinds; ids become ints."""
    what = f"prompt {number}"
    if isinstance(prompt, np.ndarray | jax.Array) and prompt.ndim == 2:
        width = model.config.hidden_size
        numbers = jnp.issubdtype(prompt.dtype, jnp.floating)
        if prompt.shape[1] != width or not numbers:
            raise MmjaxError(
                f"{what} is {prompt.dtype} {list(prompt.shape)}; embeddings are floats "
                f"[l, {width}] for this model"
            )
        return np.asarray(prompt)
    if isinstance(prompt, str):
        return prompt
    entries = several(prompt, f"messages or token ids as {what}")
    if len(entries) and isinstance(entries[0], Mapping):
        for entry in entries:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("role"), str):
                raise MmjaxError(
                    f"{what}: expected messages {{'role': ..., 'content': ...}}, got {shown(entry)}"
                )
        return entries
    return token_ids(entries, vocab_size(model), what)


def vocab_size(model: LanguageModel) -> int:
    """How many tokens a model knows."""
    return getattr(model.config, "text", model.config).vocab_size


def _rows(count: int, data: int) -> int:
    """A power of two that holds them, rounded up to what the mesh's axis divides."""
    return -(-(1 << (count - 1).bit_length()) // data) * data


_embed = jax.jit(embed, static_argnames="module")
_mix = jax.jit(mix, static_argnames="module")


def _mixed(
    model: LanguageModel,
    items: Sequence[np.ndarray],
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[ImageLike]] | None,
) -> Mixed | None:
    """Prompts with their pictures; None where there are none."""
    if images is not None:
        for entry in several(images, "lists of pictures"):
            arguments.pictures(entry)
    if images is not None and len(images) != len(prompts):
        raise MmjaxError(f"{len(prompts)} prompts but {len(images)} lists of pictures")
    pictures = [_in_messages(p) for p in prompts] if images is None else [list(p) for p in images]
    if model.images is None and any(pictures):
        raise MmjaxError(f"{model.name!r} ({model.family}) reads no pictures; a LLaVA does")
    if any(isinstance(prompt, np.ndarray) for prompt in prompts):
        if any(pictures):
            raise MmjaxError("prompts given as embeddings take no pictures; mix them in before")
        return None
    if model.images is None:
        return None
    mixed = model.images.mix([item.tolist() for item in items], pictures)
    return mixed if len(mixed.tiles) else None


def _in_messages(prompt: Prompt) -> list[ImageLike]:
    """The pictures among the parts of messages."""
    messages = [] if isinstance(prompt, str | np.ndarray) else prompt
    contents = [m.get("content") for m in messages if isinstance(m, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part["image"] for part in parts if part.get("type") == "image" and "image" in part]


def split_rows(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Splits the first axis over `data`."""
    if mesh is None:
        return x
    return jax.device_put(x, NamedSharding(mesh, P("data" if "data" in mesh.shape else None)))


def replicate(x: Array, mesh: Mesh | AbstractMesh | None) -> Array:
    """Inside a program: a small result is whole on every device, where every process reads it."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))
