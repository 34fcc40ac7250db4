"""What many prompts begin with, read once: its keys and values stand in front of every prompt."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mmjax.encoders import tokenizer_files
from mmjax.encoders.language_model import LanguageModel, embed, extend
from mmjax.encoders.layers import Hook
from mmjax.encoders.llama import KeyValues
from mmjax.errors import MmjaxError, shown
from mmjax.generation.prompts import (
    Prepared,
    Prompt,
    check_model,
    checked,
    encoded,
    replicate,
    split_cache,
)
from mmjax.trees import PyTree


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prefix:
    """A read prefix, and whose it is.

    Attributes:
      past: keys and values [layers, 1, kv_heads, length, head_dim].
      model: the model's `outputs_fingerprint`.
      hook: the adapter's function in the decoder; None for none.
      adapters: its parameters.
      mesh: where the model lies.
    """

    past: KeyValues
    model: str
    hook: Hook | None
    adapters: PyTree
    mesh: Mesh | None

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.past.keys.shape[3]


def cache_prefix(model: LanguageModel, prefix: Prompt, adapters: PyTree = None) -> Prefix:
    """Reads a prefix once, for all prompts that `generate`, `score` and `label_scores` put behind.

    A text is cut into tokens by itself and gets the tokens that begin every text of this model
    (BOS), but none that end one. Texts behind it are cut by themselves too, without special tokens;
    ids are taken as they are. So no token reaches over the seam: let a prefix end where a token
    does, at the end of a line, say. (A tokenizer of sentencepiece's kind puts a space before the
    first word behind it.)

    Args:
      model: from `load_encoder`.
      prefix: a text, token ids, or embeddings [l, d]; no messages.
      adapters: as `generate` takes them.

    Returns:
      The prefix, for this model with these adapters on this mesh.

    Raises:
      MmjaxError: a prefix that is empty, leaves no room for a prompt, or has image tokens.
    """
    check_model(model, adapters, "cache_prefix")
    prompt = checked(model, prefix, "the prefix")
    if isinstance(prompt, str):
        prompt = _begun(model, prompt)
    item = encoded(model, prompt, behind=True)
    limit = model.config.max_length
    if not 1 <= len(item) < limit:
        raise MmjaxError(
            f"a prefix of {len(item)} tokens leaves no room for a prompt: this model takes 2 to "
            f"{limit} tokens in all"
        )
    if model.images is not None and item.ndim == 1 and model.config.image_token_id in item:
        raise MmjaxError("a prefix has no pictures; put image tokens into the prompts behind it")
    own = model.checked_adapters(adapters)
    past = _read(model.params, own, item[None], model.module, model.mesh)
    return Prefix(past, model.outputs_fingerprint, _hook(model), own, model.mesh)


def _begun(model: LanguageModel, text: str) -> list[int]:
    """A text's ids with the special tokens in front, and none behind."""
    tokenizer, text = model.preprocess.tokenizer, model.spelt(text)
    with tokenizer_files.guarded(f"the tokenizer of {model.name}"):
        framed = tokenizer.encode(text).ids
        plain = tokenizer.encode(text, add_special_tokens=False).ids
    starts = range(len(framed) - len(plain) + 1)
    at = next((i for i in starts if framed[i : i + len(plain)] == plain), 0)
    return framed[: at + len(plain)]


@functools.partial(jax.jit, static_argnames=("module", "mesh"))
def _read(
    params: PyTree,
    adapters: PyTree,
    item: Int[Array, "1 l"] | Float[Array, "1 l d"],
    module: nn.Module,
    mesh: Mesh | None,
) -> KeyValues:
    """Keys and values of one row."""
    item = replicate(item, mesh)
    embeddings = item if item.ndim == 3 else embed(module, params, item)
    _, past = extend(module, params, adapters, embeddings, jnp.ones(item.shape[:2], jnp.int32))
    return split_cache(past, mesh)


def _hook(model: LanguageModel) -> Hook | None:
    return model.module.hook  # of the decoder; a LLaVA's image tower reads no prefix


def check_prefix(prefix: Prefix | None, model: LanguageModel, adapters: PyTree) -> int:
    """How many tokens stand in front of every prompt; 0 without a prefix.

    Raises:
      MmjaxError: something else than a prefix, or one of another model, adapter or mesh.
    """
    if prefix is None:
        return 0
    if not isinstance(prefix, Prefix):
        raise MmjaxError(f"prefix is {shown(prefix)}; expected what cache_prefix returns, or None")
    again = "make it again by cache_prefix"
    if prefix.model != model.outputs_fingerprint:
        raise MmjaxError(f"the prefix was read by another model than {model.name!r}; {again}")
    if prefix.mesh != model.mesh:
        raise MmjaxError(f"the prefix was read on another mesh than {model.name!r} is on; {again}")
    if prefix.hook != _hook(model) or not _same(prefix.adapters, model.checked_adapters(adapters)):
        raise MmjaxError(f"the prefix was read with other adapters than those given; {again}")
    return prefix.length


def _same(one: PyTree, other: PyTree) -> bool:
    """Whether two trees hold the same values; mostly they are the same arrays."""
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a is b or bool(jnp.array_equal(a, b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def past_of(prefix: Prefix | None) -> KeyValues | None:
    """Keys and values of a prefix, if there is one."""
    return None if prefix is None else prefix.past


def seen(mask: Int[Array, "b l"], past: KeyValues | None) -> Int[Array, "b m"]:
    """Inside a program: a mask over the prefix's tokens, which all rows see, and the prompts'."""
    k = 0 if past is None else past.keys.shape[3]
    return jnp.pad(mask, [(0, 0), (k, 0)], constant_values=1)


def read(
    module: nn.Module,
    params: PyTree,
    adapters: PyTree,
    prompts: Prepared,
    prefix: KeyValues | None,
) -> tuple[Float[Array, "b l d"], KeyValues, Int[Array, "b m"]]:
    """Inside a program: prompts as a model reads them behind a prefix, if there is one.

    Returns:
      (hidden states, the prompts' own keys and values, the mask over the prefix and them).
    """
    mask = seen(prompts.mask, prefix)
    hidden, past = extend(
        module,
        params,
        adapters,
        prompts.embeddings,
        mask,
        prefix,
        prompts.positions_behind(prefix),
        pictures=prompts.pictures,
        together=prompts.together,
    )
    return hidden, past, mask
