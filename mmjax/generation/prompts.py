"""Prompts of any kind and length as one padded batch of embeddings."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from mmjax.checks import arguments
from mmjax.checks.arguments import several, token_ids
from mmjax.encoders import tokenizer_files
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.inserted import TokenHook
from mmjax.encoders.language_model import LanguageModel, Message, embed, mix, see
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.llava_images import WORD, Mixed
from mmjax.encoders.mllama_images import BesideWords, SeenPictures
from mmjax.encoders.padding import bucket
from mmjax.errors import MmjaxError, shown
from mmjax.trees import PyTree

# A text, messages for the chat template, token ids, or embeddings [l, d] of words and pictures.
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int] | np.ndarray
BUCKETS = tuple(16 << i for i in range(13))  # of tokens, read or written


class Prepared(NamedTuple):
    """Prompts as one padded batch, the padding in front."""

    embeddings: Float[Array, "b l d"]
    mask: Int[Array, "b l"]
    positions: Int[Array, "b l 3"] | None = None  # of a Qwen-VL's prompts with pictures
    pictures: SeenPictures | None = None  # of an Mllama's, which stand beside the words
    # Of a Gemma's: which tokens are pictures', of which all read one another.
    together: Bool[Array, "b l"] | None = None

    @property
    def offset(self) -> Int[Array, "b"] | None:
        """What a later token's position is beside the tokens in front of it; None for 0."""
        if self.positions is None:
            return None
        return self.positions.max((1, 2)) + 1 - self.mask.sum(axis=1)

    def positions_behind(self, prefix: KeyValues | None) -> Int[Array, "b l 3"] | None:
        """The positions, counted from the start of a prefix; None where tokens are counted."""
        if self.positions is None or prefix is None:
            return self.positions
        return self.positions + prefix.keys.shape[3]

    @property
    def later(self) -> SeenPictures | None:
        """What tokens behind the prompts see of their pictures."""
        return None if self.pictures is None else self.pictures.later


def prepare(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    images: Sequence[Sequence[ImageLike]] | None = None,
    adapters: PyTree = None,
    behind: int = 0,
) -> tuple[Prepared, int]:
    """Makes prompts a batch of a bucket's shape.

    Args:
      model: its tokenizer and its word embeddings.
      prompts: n prompts.
      max_new_tokens: room to leave.
      images: for each prompt its pictures; None takes those that its messages hold.
      adapters: parameters for the model's hooks; those of a LLaVA's image tower are read here.
      behind: tokens of a prefix in front of every prompt, see `mmjax.generation.prefix`.

    Returns:
      (the batch, n): at least n rows; those beyond n repeat the first prompt's last token.

    Raises:
      MmjaxError: a prompt that is empty or too long, or whose pictures are not as many as its
        image tokens.
    """
    prompts = [
        checked(model, prompt, f"prompt {i}")
        for i, prompt in enumerate(several(prompts, "prompts"))
    ]
    embedded = [isinstance(prompt, np.ndarray) for prompt in prompts]
    if any(embedded) and not all(embedded):
        raise MmjaxError("give all prompts as embeddings, or none of them")
    items = [encoded(model, prompt, behind > 0) for prompt in prompts]
    mixed = _mixed(model, items, prompts, images)
    if mixed is not None:
        items = mixed.ids
    longest, limit = max(map(len, items)), model.config.max_length - behind
    if min(map(len, items)) < 1 or longest + max_new_tokens > limit:
        raise MmjaxError(
            f"prompts of {min(map(len, items))} to {longest} tokens and {max_new_tokens} new ones "
            f"do not fit: this model takes 1 to {limit} tokens in all"
            + (f" behind a prefix of {behind}" if behind else "")
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
    positions, pictures, together = None, None, None
    if isinstance(mixed, BesideWords):
        if behind:
            raise MmjaxError(
                f"{model.name!r} reads pictures beside all words of a prompt, so a prefix would "
                "see them too; put its text into the prompts"
            )
        tiles, ratios = (_padded(x, _rows(len(x), data)) for x in (mixed.tiles, mixed.ratios))
        more = [split_rows(jnp.asarray(x), model.mesh) for x in (tiles, ratios)]
        more += [split_rows(jnp.asarray(x), model.mesh) for x in mixed.seats(rows, length)]
        own = model.checked_adapters(adapters, "image")
        pictures = _see(model.module, model.params, *more, own, model.mesh)
        placed[0] = _embed(model.module, model.params, placed[0])
    elif mixed is not None:
        places = np.full((rows, length), WORD, np.int32)
        for row, item in enumerate(mixed.places):
            places[row, length - len(item) :] = item
        tiles = _padded(mixed.tiles, _rows(len(mixed.tiles), data))
        more = [split_rows(jnp.asarray(x), model.mesh) for x in (tiles, places)]
        if mixed.positions is not None:
            turns = np.zeros((rows, length, 3), np.int32)
            for row, item in enumerate(mixed.positions):
                turns[row, length - len(item) :] = item
            positions = split_rows(jnp.asarray(turns), model.mesh)
        if mixed.together:
            together = more[1] != WORD
        own = model.checked_adapters(adapters, "image")
        placed[0] = _mix(model.module, model.params, placed[0], *more, own)
    elif not any(embedded):
        placed[0] = _embed(model.module, model.params, placed[0])
    return Prepared(placed[0], placed[1], positions, pictures, together), len(prompts)


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
    hook = model.module.hook
    if isinstance(hook, TokenHook):
        raise MmjaxError(
            f"{function} reads from a cache, in which the tokens of {type(hook).__name__} have no "
            "place; take them as keys and values: mmjax.adapters.prefix_tuning.as_prefix"
        )


def checked(model: LanguageModel, prompt: Any, what: str) -> Prompt:
    """A prompt of one of the four kinds; ids become ints.

    Args:
      model: that reads it.
      prompt: what was given.
      what: names it in messages.

    Returns:
      The prompt.

    Raises:
      MmjaxError: it is of none of the kinds.
    """
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
    return token_ids(entries, getattr(model.config, "text", model.config).words, what)


def encoded(model: LanguageModel, prompt: Prompt, behind: bool) -> np.ndarray:
    """A prompt's token ids; embeddings stay what they are.

    Args:
      model: its tokenizer.
      prompt: of one of the four kinds.
      behind: whether a prefix stands in front, which has the first special tokens.

    Returns:
      Int32 [l], or the embeddings [l, d].

    Raises:
      MmjaxError: no token at all, or messages behind a prefix.
    """
    if isinstance(prompt, np.ndarray):
        return prompt
    if behind and isinstance(prompt, str):
        prompt = model.spelt(prompt)
        with tokenizer_files.guarded(f"the tokenizer of {model.name}"):
            ids = model.preprocess.tokenizer.encode(prompt, add_special_tokens=False).ids
        return np.array(model.encode_prompt(ids), np.int32)
    if behind and prompt and isinstance(prompt[0], Mapping):
        raise MmjaxError(
            "messages cannot stand behind a prefix, as a chat template begins a conversation anew; "
            "give texts or token ids"
        )
    return np.array(model.encode_prompt(prompt), np.int32)


def vocab_size(model: LanguageModel) -> int:
    """How many tokens a model may say."""
    return getattr(model.config, "text", model.config).vocab_size


def _rows(count: int, data: int) -> int:
    """A power of two that holds them, rounded up to what the mesh's axis divides."""
    return -(-(1 << (count - 1).bit_length()) // data) * data


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
    """The same with rows of zeros behind."""
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


@functools.partial(jax.jit, static_argnames=("module", "mesh"))
def _see(
    module: nn.Module,
    params: PyTree,
    tiles: Float[Array, "p t s s c"],
    ratios: Int[Array, "p"],
    seats: Int[Array, "b i"],
    reads: Bool[Array, "b l i"],
    adapters: PyTree,
    mesh: Mesh | None,
) -> SeenPictures:
    seen = see(module, params, tiles, ratios, seats, reads, adapters)
    return SeenPictures(*split_cache(KeyValues(seen.keys, seen.values), mesh), *seen[2:])


_embed = jax.jit(embed, static_argnames="module")
_mix = jax.jit(mix, static_argnames="module")


def _mixed(
    model: LanguageModel,
    items: Sequence[np.ndarray],
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[ImageLike]] | None,
) -> Mixed | BesideWords | None:
    """Prompts with their pictures; None where there are none."""
    if images is not None:
        for entry in several(images, "lists of pictures"):
            arguments.pictures(entry)
    if images is not None and len(images) != len(prompts):
        raise MmjaxError(f"{len(prompts)} prompts but {len(images)} lists of pictures")
    pictures = [_in_messages(p) for p in prompts] if images is None else [list(p) for p in images]
    if model.images is None and any(pictures):
        raise MmjaxError(
            f"{model.name!r} ({model.family}) reads no pictures; a LLaVA, a Qwen-VL or another "
            "model with an image tower does"
        )
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


def split_cache(past: KeyValues, mesh: Mesh | AbstractMesh | None) -> KeyValues:
    """Inside a program: splits rows over `data`, heads over `model`, where they divide."""
    if mesh is None:
        return past
    _, rows, heads, _, _ = past.keys.shape
    axes = (
        axis if axis in mesh.shape and size % mesh.shape[axis] == 0 else None
        for axis, size in (("data", rows), ("model", heads))
    )
    sharding = NamedSharding(mesh, P(None, *axes))
    return KeyValues(*(jax.lax.with_sharding_constraint(x, sharding) for x in past))


def replicate(x: Array, mesh: Mesh | AbstractMesh | None) -> Array:
    """Inside a program: a small result is whole on every device, where every process reads it."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))
