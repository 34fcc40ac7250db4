"""Prompts of any kind and length as one padded batch of embeddings."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mmjax.encoders.language_model import LanguageModel, Message, embed
from mmjax.encoders.text_preprocess import bucket
from mmjax.errors import MmjaxError

# A text, messages for the chat template, token ids, or embeddings [l, d] of words and pictures.
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int] | np.ndarray
_BUCKETS = tuple(16 << i for i in range(13))


class Prepared(NamedTuple):
    """Prompts as one padded batch, the padding in front."""

    embeddings: Float[Array, "b l d"]
    mask: Int[Array, "b l"]


def prepare(
    model: LanguageModel, prompts: Sequence[Prompt], max_new_tokens: int
) -> tuple[Prepared, int]:
    """Makes prompts a batch of a bucket's shape.

    Args:
      model: its tokenizer and its word embeddings.
      prompts: n prompts.
      max_new_tokens: room to leave.

    Returns:
      (the batch, n): at least n rows; those beyond n repeat the first prompt's last token.

    Raises:
      MmjaxError: a prompt that is empty or too long.
    """
    given = [isinstance(prompt, np.ndarray) for prompt in prompts]
    if any(given) and not all(given):
        raise MmjaxError("give all prompts as embeddings, or none of them")
    items = [
        prompt
        if isinstance(prompt, np.ndarray)
        else np.array(model.encode_prompt(prompt), np.int32)
        for prompt in prompts
    ]
    longest, limit = max(map(len, items)), model.config.max_length
    if min(map(len, items)) < 1 or longest + max_new_tokens > limit:
        raise MmjaxError(
            f"prompts of {min(map(len, items))} to {longest} tokens and {max_new_tokens} new ones "
            f"do not fit: this model takes 1 to {limit} tokens in all"
        )
    length = min(bucket(longest, _BUCKETS), limit)
    data = 1 if model.mesh is None else model.mesh.shape.get("data", 1)
    rows = -(-(1 << (len(items) - 1).bit_length()) // data) * data
    items += [items[0][-1:]] * (rows - len(items))
    batch = np.zeros((rows, length, *items[0].shape[1:]), items[0].dtype)
    mask = np.zeros((rows, length), np.int32)
    for row, item in enumerate(items):
        # In front: the next token of every row then has the same slot.
        batch[row, length - len(item) :], mask[row, length - len(item) :] = item, 1
    placed = [split_rows(jnp.asarray(x), model.mesh) for x in (batch, mask)]
    if not any(given):
        placed[0] = _embed(model.module, model.params, placed[0])
    return Prepared(placed[0], placed[1]), len(prompts)


_embed = jax.jit(embed, static_argnames="module")


def split_rows(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Splits the first axis over `data`."""
    if mesh is None:
        return x
    return jax.device_put(x, NamedSharding(mesh, P("data" if "data" in mesh.shape else None)))
