"""How likely labels follow prompts, by their first tokens: one forward pass, nothing decoded."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Int

from mmjax.checks.arguments import several, texts
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import LanguageModel, logits
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.padding import bucket
from mmjax.errors import MmjaxError, shown
from mmjax.generation.prefix import Prefix, check_prefix, past_of, read
from mmjax.generation.prompts import (
    BUCKETS,
    Prepared,
    Prompt,
    check_model,
    checked,
    encoded,
    prepare,
    replicate,
)
from mmjax.trees import PyTree

ROWS, TOKENS = 32, 8192  # the most that are read together


def label_scores(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    labels: Sequence[str],
    prefix: Prefix | None = None,
    adapters: PyTree = None,
    images: Sequence[Sequence[ImageLike]] | None = None,
) -> Float[np.ndarray, "n k"]:
    """Log-probabilities of the labels' first tokens as the prompts' next ones.

    Prompts of like length are read together, at most 32 of them.

    Args:
      model: from `load_encoder`.
      prompts: n prompts, as `generate` takes them.
      labels: k texts, taken without special tokens: one after a text that ends in a word begins
        with its space.
      prefix: as `generate` takes it; no row copies it.
      adapters: as `generate` takes them.
      images: as `generate` takes them.

    Returns:
      Float32 [n, k].

    Raises:
      MmjaxError: two labels that begin with the same token, or what `generate` refuses.
    """
    check_model(model, adapters, "label_scores")
    first = jnp.array(first_tokens(model, labels), jnp.int32)
    behind = check_prefix(prefix, model, adapters)
    if images is not None and len(several(images, "lists of pictures")) != len(prompts):
        raise MmjaxError(f"{len(prompts)} prompts but {len(images)} lists of pictures")
    lengths = [
        _tokens(model, encoded(model, checked(model, prompt, f"prompt {i}"), behind > 0))
        for i, prompt in enumerate(several(prompts, "prompts"))
    ]
    log_probs = np.zeros((len(prompts), len(labels)), np.float32)
    own = model.checked_adapters(adapters)
    past = past_of(prefix)
    for batch in plan(lengths):
        shown_to = None if images is None else [images[i] for i in batch]
        chosen = [prompts[i] for i in batch]
        prepared, rows = prepare(model, chosen, 1, shown_to, adapters, behind)
        scores = _next(model.params, own, prepared, first, past, model.module, model.mesh)
        log_probs[batch] = np.asarray(scores)[:rows]
    return log_probs


def _tokens(model: LanguageModel, item: np.ndarray) -> int:
    """About how many tokens a prompt is read as, its pictures included."""
    if model.images is None or item.ndim > 1:
        return len(item)
    pictures = int((item == model.images.config.image_token_id).sum())
    return len(item) + pictures * model.images.most_tokens


def first_tokens(model: LanguageModel, labels: Sequence[str]) -> list[int]:
    """The token that each label begins with.

    Raises:
      MmjaxError: fewer than two labels, one without a token, or two that begin alike.
    """
    if len(texts(labels, "labels")) < 2:
        raise MmjaxError(f"labels are {shown(list(labels))}; give at least 2 to choose from")
    first: dict[int, str] = {}
    for label in labels:
        ids = model.preprocess.tokenizer.encode(label, add_special_tokens=False).ids
        if not ids:
            raise MmjaxError(f"the label {shown(label)} has no token; give it at least one word")
        if ids[0] in first:
            raise MmjaxError(
                f"the labels {shown(first[ids[0]])} and {shown(label)} begin with the same token, "
                "so one token cannot tell them apart; choose other words"
            )
        model.check_ids(f"the label {shown(label)}", ids, said=True)
        first[ids[0]] = label
    return list(first)


def plan(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of prompts that are read together: of one bucket of lengths, in order.

    Args:
      lengths: tokens of all prompts.

    Returns:
      Batches; a batch that is planned once more, alone, is the same batch.
    """
    buckets: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        buckets.setdefault(bucket(length, BUCKETS), []).append(i)
    batches: list[list[int]] = []
    for size in sorted(buckets):
        rows = max(1, min(ROWS, TOKENS // size))
        numbers = buckets[size]
        batches += [numbers[at : at + rows] for at in range(0, len(numbers), rows)]
    return batches


@functools.partial(jax.jit, static_argnames=("module", "mesh"))
def _next(
    params: PyTree,
    adapters: PyTree,
    prompts: Prepared,
    tokens: Int[Array, "k"],
    prefix: KeyValues | None,
    module: nn.Module,
    mesh: Mesh | AbstractMesh | None,
) -> Float[Array, "b k"]:
    """Log-probabilities of given tokens behind every prompt."""
    hidden, *_ = read(module, params, adapters, prompts, prefix)
    following = jax.nn.log_softmax(logits(module, params, hidden[:, -1]), axis=-1)
    return replicate(following[:, tokens], mesh)
