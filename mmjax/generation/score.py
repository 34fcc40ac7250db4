"""Log-probabilities of given answers: every prompt is read once, its answers in one pass."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Int

from mmjax.checks.arguments import several, token_ids
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import LanguageModel, embed, extend, logits
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.padding import bucket
from mmjax.errors import MmjaxError
from mmjax.generation.prefix import Prefix, check_prefix, past_of, read, seen
from mmjax.generation.prompts import (
    Prepared,
    Prompt,
    check_model,
    prepare,
    replicate,
    split_rows,
    vocab_size,
)
from mmjax.generation.sampling import log_prob

PyTree = Any
_LENGTHS = tuple(1 << i for i in range(17))


class Scored(NamedTuple):
    """How likely a model finds an answer.

    Attributes:
      log_prob: sum over its tokens.
      token_log_probs: float32 [t].
    """

    log_prob: float
    token_log_probs: np.ndarray


def score(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[str | Sequence[int]]],
    adapters: PyTree = None,
    images: Sequence[Sequence[ImageLike]] | None = None,
    prefix: Prefix | None = None,
) -> list[list[Scored]]:
    """Log-probabilities of answers to prompts, for multiple choice and labels.

    A prompt and its answers are cut into tokens apart, so an answer after a text that ends in a
    word begins with its space. Divide by the number of tokens where answers differ in length.

    Args:
      model: from `load_encoder`.
      prompts: n prompts, as `generate` takes them.
      continuations: for each prompt its answers: texts, taken without special tokens, or ids.
      adapters: as `generate` takes them.
      images: as `generate` takes them.
      prefix: as `generate` takes it. No row copies it; a prompt is read once for each answer.

    Returns:
      For each prompt one `Scored` an answer.

    Raises:
      MmjaxError: lists of different lengths, an empty answer, too many tokens, pictures that do not
        go with the prompts, or a prefix of another model.
    """
    check_model(model, adapters, "score")
    several(prompts, "prompts")
    for i, answers in enumerate(several(continuations, "lists of answers")):
        several(answers, f"answers to prompt {i}")
    if len(prompts) != len(continuations):
        raise MmjaxError(f"{len(prompts)} prompts but {len(continuations)} lists of continuations")
    if not any(len(answers) for answers in continuations):
        return [[] for _ in continuations]
    tokenizer = model.preprocess.tokenizer
    ids = [
        [
            tokenizer.encode(answer, add_special_tokens=False).ids
            if isinstance(answer, str)
            else token_ids(answer, vocab_size(model), f"an answer to prompt {i}")
            for answer in answers
        ]
        for i, answers in enumerate(continuations)
    ]
    lengths = [len(answer) for answers in ids for answer in answers]
    if not min(lengths):
        raise MmjaxError("an answer has no token; give it at least one word")
    for answer in (answer for answers in ids for answer in answers):
        model.check_ids("an answer", answer, said=True)
    behind = check_prefix(prefix, model, adapters)
    prepared, _ = prepare(model, prompts, max(lengths), images, adapters, behind)
    shape = (
        prepared.mask.shape[0],
        bucket(max(map(len, ids)), _LENGTHS),
        bucket(max(lengths), _LENGTHS),
    )
    answers = np.zeros(shape, np.int32)
    mask = np.zeros(shape, np.int32)
    for i, row in enumerate(ids):
        for j, answer in enumerate(row):
            answers[i, j, : len(answer)], mask[i, j, : len(answer)] = answer, 1
    placed = [split_rows(jnp.asarray(x), model.mesh) for x in (answers, mask)]
    own = model.checked_adapters(adapters)
    past = past_of(prefix)
    log_probs = _score(model.params, own, prepared, *placed, past, model.module, model.mesh)
    values = np.asarray(log_probs)
    return [
        [_scored(values[i, j, : len(answer)]) for j, answer in enumerate(row)]
        for i, row in enumerate(ids)
    ]


def _scored(log_probs: Float[np.ndarray, "t"]) -> Scored:
    # A copy, or a short answer would keep the whole padded batch in memory.
    return Scored(float(log_probs.sum()), log_probs.copy())


@functools.partial(jax.jit, static_argnames=("module", "mesh"))
def _score(
    params: PyTree,
    adapters: PyTree,
    prompts: Prepared,
    answers: Int[Array, "b n t"],
    mask: Int[Array, "b n t"],
    prefix: KeyValues | None,
    module: nn.Module,
    mesh: Mesh | AbstractMesh | None,
) -> Float[Array, "b n t"]:
    """Log-probability of every answer's tokens; meaningless where the mask is 0."""
    b, n, t = answers.shape
    embeddings = embed(module, params, answers.reshape(b * n, t))
    whole = jnp.repeat(prompts.mask, n, axis=0)
    whole = jnp.concatenate([whole, mask.reshape(b * n, t)], axis=1)
    if prefix is not None:
        # With two pasts, the prefix and the prompt, the longer one would have to be copied a row.
        prompt_embeddings = jnp.repeat(prompts.embeddings, n, axis=0)
        embeddings = jnp.concatenate([prompt_embeddings, embeddings], axis=1)
        mask = seen(whole, prefix)
        positions, offset = prompts.positions_behind(prefix), prompts.offset
        if positions is not None and offset is not None:
            more = _positions(mask, jnp.repeat(offset, n))[:, -t:]
            more = jnp.broadcast_to(more[..., None], (*more.shape, 3))
            positions = jnp.concatenate([jnp.repeat(positions, n, axis=0), more], axis=1)
        together = prompts.together
        if together is not None:  # the answers' tokens are no picture's
            together = jnp.pad(jnp.repeat(together, n, axis=0), [(0, 0), (0, t)])
        hidden, _ = extend(
            module, params, adapters, embeddings, mask, prefix, positions, together=together
        )
        following = logits(module, params, hidden[:, -t - 1 : -1])
        return replicate(log_prob(following.reshape(b, n, t, -1), answers), mesh)
    positions, offset = prompts.positions, prompts.offset
    hidden, past, _ = read(module, params, adapters, prompts, None)
    last = hidden[:, -1]
    past = jax.tree.map(lambda x: jnp.repeat(x, n, axis=1), past)
    if offset is not None:
        positions = _positions(whole, jnp.repeat(offset, n))[:, -t:]
    hidden, _ = extend(
        module, params, adapters, embeddings, whole, past, positions, pictures=prompts.later
    )
    first = logits(module, params, last)[:, None, None]
    following = logits(module, params, hidden[:, :-1]).reshape(b, n, t - 1, first.shape[-1])
    first = jnp.broadcast_to(first, (b, n, 1, first.shape[-1]))
    return replicate(log_prob(jnp.concatenate([first, following], axis=2), answers), mesh)


def _positions(mask: Int[Array, "r m"], offset: Int[Array, "r"]) -> Int[Array, "r m"]:
    """Of tokens behind pictures, whose tokens stand closer than they are many."""
    return jnp.cumsum(mask, axis=1) - 1 + offset[:, None]
