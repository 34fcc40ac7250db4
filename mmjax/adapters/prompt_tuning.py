"""Prompt tuning: learnt tokens among those that the first layer reads."""

import dataclasses

import jax
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import unmerged, widths
from mmjax.encoders.layers import PyTree
from mmjax.specs.bounds import Natural, Scale, Width


@dataclasses.dataclass(frozen=True)
class PromptTuning:
    """`tokens` learnt vectors in front of a text, or behind the first token of what has one.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`). The model is another one from
    the first step on. What comes out has the model's own tokens alone.

    Attributes:
      tokens: learnt ones.
      std: of the normal that they are drawn from.
      at: how many tokens stay in front; None takes none in a BERT or a LLaMA, the first one in
        CLIP's towers and in vision transformers.

    Source: Lester et al. 2021 (arXiv 2104.08691), section 2; PEFT's numerics.
    """

    tokens: Width = 20
    std: Scale = 0.02
    at: Natural | None = None

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """{"tokens" [p, d]}, float32.

        Args:
          key: draws them.
          layers: the frozen layers' parameters (or shapes), leaves [n, ...].
        """
        _, d, _ = widths(layers)["query"]
        return {"tokens": self.std * jax.random.normal(key, (self.tokens, d))}

    def first(self, adapters: PyTree) -> Float[Array, "p d"]:
        """The tokens before the first layer."""
        return adapters["tokens"]

    def by_layer(self, adapters: PyTree) -> PyTree:
        """Layers read no parameters."""
        return None

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """Nothing else is changed."""
        return y

    def merge(self, layers: PyTree, adapters: PyTree) -> PyTree:
        """Refused: tokens are no weights.

        Raises:
          MmjaxError: always.
        """
        raise unmerged(type(self).__name__, "learnt tokens are no part of a frozen map")
