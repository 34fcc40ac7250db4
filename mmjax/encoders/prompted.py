"""Texts whose token vectors are given instead of looked up: prompts that are learnt in the tower.

BERTs (with a head or without), CLIP's and SigLIP's text towers alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmjax.encoders.base import Encoder
from mmjax.errors import MmjaxError

PyTree = Any


def word_table(params: PyTree) -> Float[Array, "v d"]:
    """The table of token vectors of a text tower.

    Args:
      params: of a `Bert`, `BertWithHead` or `ClipText`.

    Returns:
      One row an id.

    Raises:
      MmjaxError: the tower is of another kind.
    """
    for name in ("word_embeddings", "token_embeddings"):
        table = params.get("bert", params).get(name)
        if table is not None:
            return table["embedding"]
    raise MmjaxError(
        f"prompts cannot be put into this text encoder (it holds {sorted(params)}); "
        "expected a BERT or CLIP's text tower"
    )


def embed_from_embeddings(
    encoder: Encoder,
    params: PyTree,
    input_embeddings: Float[Array, "b l d"],
    input_ids: Int[Array, "b l"],
    attention_mask: Int[Array, "b l"],
    adapters: PyTree = None,
) -> Float[Array, "b e"]:
    """Embeds texts from their token vectors, before positions and the first norm are added.

    With the tower's own vectors of `input_ids` it is `encoder.apply(...).pooled`, bit for bit.

    Args:
      encoder: a text encoder of BERT's or CLIP's kind.
      params: tree like `encoder.params`.
      input_embeddings: one vector a token.
      input_ids: of the same texts: CLIP's tower finds a text's end in them; where a vector is no
        word's, any id that is not the end's.
      attention_mask: 1 at real tokens.
      adapters: parameters for the encoder's hook; leaves [layers, ...].

    Returns:
      f32 embeddings as the encoder pools.
    """
    return read_embeddings(encoder, params, input_embeddings, input_ids, attention_mask, adapters)[
        0
    ]


def read_embeddings(
    encoder: Encoder,
    params: PyTree,
    input_embeddings: Float[Array, "b l d"],
    input_ids: Int[Array, "b l"],
    attention_mask: Int[Array, "b l"],
    adapters: PyTree = None,
    output: str = "pooled",
) -> tuple[Float[Array, "b *rest"], Int[Array, "b l"]]:
    """The same with any of the encoder's outputs.

    Args:
      encoder: see `embed_from_embeddings`, as the four that follow.
      params: the same.
      input_embeddings: the same.
      input_ids: the same.
      attention_mask: the same.
      adapters: the same.
      output: `pooled`, `tokens` or `tokens_deep`.

    Returns:
      (f32 what the encoder says, its mask of tokens).
    """
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "input_embeddings": input_embeddings,
    }
    encoded = encoder.apply(params, inputs, adapters)
    return encoded.select(output).astype(jnp.float32), encoded.mask


@dataclass(frozen=True)
class PromptLayout:
    """Where every prompt's parts stand: frame | General | Domain | Instance | ending | frame.

    Words that the encoder puts before every text, as E5 does "query: ", belong to the frame.

    Attributes:
      ids: of each token; any word's id where a learnt vector stands.
      mask: 1 at tokens, 0 at padding.
      slots: which learnt vector stands there: General first, then Instance, then (where names are
        left out) the class's own; -1 where the token is a word.
    """

    ids: Int[np.ndarray, "c l"]
    mask: Int[np.ndarray, "c l"]
    slots: Int[np.ndarray, "c l"]


def lay_out(
    encoder: Encoder,
    names: Sequence[str],
    general: int,
    instance: int,
    domain: bool = True,
    ending: str = "",
    kept: Sequence[int] = (),
) -> PromptLayout:
    """Lays out one prompt a class.

    Args:
      encoder: a text encoder.
      names: of the classes.
      general: learnt vectors before the name, shared by all classes.
      instance: learnt vectors after it.
      domain: whether the name stands in the prompt; else one learnt vector of the class's own.
      ending: words at the end, such as CoOp's full stop.
      kept: ids of words between the General vectors and the name, as in MaPLe's "X X of a {class}."

    Returns:
      The layout, padded to the longest prompt.

    Raises:
      MmjaxError: a name without a token, or a prompt longer than the encoder reads.
    """
    before, (_, after) = front_of(encoder), frame_of(encoder)
    words = words_of(encoder, names)
    last = [(i, -1) for i in words_of(encoder, [ending])[0]] if ending else []
    most = encoder.preprocess.max_length
    # CLIP's older configs find the end of a text by the largest id: a low one never is.
    blank = min(i for ids in words for i in ids)
    rows: list[list[tuple[int, int]]] = []  # (id, slot)
    for name, ids in zip(names, words, strict=True):
        own = [(i, -1) for i in ids] if domain else [(blank, general + instance)]
        shared = [(blank, slot) for slot in range(general + instance)]
        row = [*((i, -1) for i in before), *shared[:general], *((i, -1) for i in kept)]
        row += [*own, *shared[general:]]
        row += [*last, *((i, -1) for i in after)]
        if len(row) > most:
            raise MmjaxError(
                f"the prompt of class {name!r} has {len(row)} tokens ({general} General, "
                f"{len(own)} of the name, {instance} Instance, {len(last)} at the end), but text "
                f"encoder {encoder.name!r} reads {most}; shorten the name, or set fewer "
                "--config.prompts.general or --config.prompts.instance"
            )
        rows.append(row)
    length = max(map(len, rows))
    mask = np.asarray([[1] * len(r) + [0] * (length - len(r)) for r in rows], np.int32)
    padded = [r + [(encoder.preprocess.pad_token_id, -1)] * (length - len(r)) for r in rows]
    table = np.asarray(padded, np.int32)
    return PromptLayout(table[..., 0], mask, table[..., 1])


def front_of(encoder: Encoder) -> list[int]:
    """The tokens before every prompt: special ones, and words that the encoder puts there.

    Raises:
      MmjaxError: see `frame_of`.
    """
    before, _ = frame_of(encoder)
    name = encoder.preprocess.default_prompt
    put_first = encoder.preprocess.prompts[name].strip() if name else ""
    return before + (words_of(encoder, [put_first])[0] if put_first else [])


def frame_of(encoder: Encoder) -> tuple[list[int], list[int]]:
    """The special tokens before and after every text.

    Raises:
      MmjaxError: texts are not framed, so that prompts have no end to be read at.
    """
    (empty,) = encoder.preprocess.tokenize([""], prompt="").ids
    if encoder.family == "siglip":  # reads texts at their last place, whatever stands there
        return [], empty
    if len(empty) < 2:
        raise MmjaxError(
            f"text encoder {encoder.name!r} frames an empty text as {empty}; prompts need a token "
            "before and one after them"
        )
    return empty[:1], empty[1:]


def words_of(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts without their frame.

    Raises:
      MmjaxError: a text without a token, or one that is longer than the encoder reads.
    """
    before, after = frame_of(encoder)
    tokens = encoder.preprocess.tokenize(texts, prompt="")
    words = [ids[len(before) : len(ids) - len(after)] for ids in tokens.ids]
    empty = [text for text, ids in zip(texts, words, strict=True) if not ids]
    if empty:
        raise MmjaxError(
            f"class names {empty[:5]} have no token in text encoder {encoder.name!r}; give them "
            "names that it can read"
        )
    if tokens.num_truncated:
        most = encoder.preprocess.max_length
        long = [t for t, ids in zip(texts, tokens.ids, strict=True) if len(ids) == most]
        raise MmjaxError(
            f"class names such as {long[0][:60]!r} are longer than the {most} tokens that text "
            f"encoder {encoder.name!r} reads; shorten them"
        )
    return words


def vectors_of(params: PyTree, input_ids: Int[np.ndarray, "*b"]) -> Float[Array, "*b d"]:
    """The tower's own token vectors of ids."""
    return jnp.asarray(word_table(params))[jnp.asarray(input_ids)]
