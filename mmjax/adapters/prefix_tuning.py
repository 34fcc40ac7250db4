"""Prefix tuning: learnt keys and values in front of those of every layer."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import unmerged, widths
from mmjax.adapters.prompt_tuning import PromptTuning
from mmjax.encoders.language_model import LanguageModel, extend
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError
from mmjax.specs.bounds import Scale, Width


@dataclasses.dataclass(frozen=True)
class PrefixTuning:
    """Every token of every layer reads `tokens` learnt keys and values too.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`). The model is another one from
    the first step on: what its tokens read is shared with the prefix. A LLaMA's learnt keys are not
    rotated, and its words stand behind them, as in PEFT.

    Attributes:
      tokens: of the prefix.
      std: of the normal that its keys and values are drawn from.

    Source: Li and Liang 2021 (arXiv 2101.00190), section 4, without the network that makes the
      prefix while training; PEFT's numerics.
    """

    tokens: Width = 20
    std: Scale = 0.02

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """{"keys" [n, p, d], "values" [n, p, d]} for every layer, float32.

        Args:
          key: draws them.
          layers: the frozen layers' parameters (or shapes), leaves [n, ...].

        Returns:
          The parameters; d is the width of the layers' own keys.
        """
        n, _, d = widths(layers)["key"]
        drawn = self.std * jax.random.normal(key, (2, n, self.tokens, d))
        return {"keys": drawn[0], "values": drawn[1]}

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """Nothing else is changed."""
        return y

    def key_values(self, adapter: PyTree) -> tuple[Float[Array, "p d"], Float[Array, "p d"]]:
        """One layer's own keys and values."""
        return adapter["keys"], adapter["values"]

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """Refused: no map of the layers holds keys of its own.

        Raises:
          MmjaxError: always.
        """
        raise unmerged("PrefixTuning", "its keys and values are no part of a frozen map")


def as_prefix(model: LanguageModel, prompt: PromptTuning, adapters: PyTree) -> PyTree:
    """Learnt tokens of a decoder as keys and values: texts then need not stand behind them.

    Args:
      model: the frozen decoder.
      prompt: the adapter, in front of the text.
      adapters: its parameters.

    Returns:
      Parameters of `PrefixTuning` with which the model says the same; with them it decodes from a
      cache too.

    Raises:
      MmjaxError: tokens that do not stand in front, or a model without a cache.
    """
    if prompt.at or not isinstance(model, LanguageModel):
        raise MmjaxError(
            f"{prompt} of {model.name!r} cannot be read ahead; that takes tokens in front of what "
            "a language model reads"
        )
    bare, tokens = model.with_hook(None), prompt.first(adapters)[None]
    mask = jnp.ones(tokens.shape[:2], jnp.int32)
    _, past = jax.jit(extend, static_argnums=0)(bare.module, bare.params, None, tokens, mask)
    # [layers, 1, heads, p, c] to all heads side by side.
    flat = [x[:, 0].swapaxes(1, 2).reshape(len(x), prompt.tokens, -1) for x in past]
    return {"keys": flat[0], "values": flat[1]}
