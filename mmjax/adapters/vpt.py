"""VPT: learnt tokens behind the class token, in front of the patches."""

import dataclasses

import jax
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import LAYER_INPUT, widths
from mmjax.adapters.prompt_tuning import PromptTuning
from mmjax.encoders.layers import PyTree
from mmjax.specs.bounds import Natural, Width


@dataclasses.dataclass(frozen=True)
class VPT(PromptTuning):
    """As `PromptTuning`, behind the first token; `deep` has others in every layer.

    Attributes:
      tokens: learnt ones, of every layer that has some.
      std: of the normal that they are drawn from.
      at: how many tokens stay in front.
      deep: whether what a layer made of its tokens is replaced by learnt ones before the next.

    Source: Jia et al. 2022 (arXiv 2203.12119), equations 4 to 7.
    """

    tokens: Width = 10
    at: Natural | None = 1
    deep: bool = False

    def init(self, key: Key[Array, ""], layers: PyTree) -> PyTree:
        """{"tokens"}, float32 [p, d], of a deep one [n, p, d]; see `PromptTuning.init`."""
        if not self.deep:
            return super().init(key, layers)
        n, d, _ = widths(layers)["query"]
        return {"tokens": self.std * jax.random.normal(key, (n, self.tokens, d))}

    def first(self, adapters: PyTree) -> Float[Array, "p d"]:
        """The tokens before the first layer."""
        return adapters["tokens"][0] if self.deep else adapters["tokens"]

    def by_layer(self, adapters: PyTree) -> PyTree:
        """Of a deep one every layer's tokens."""
        return adapters if self.deep else None

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """The stream with a layer's own tokens in it, float [b, l, d]."""
        if place != LAYER_INPUT or not self.deep:
            return y
        at = self.at or 0
        return y.at[:, at : at + self.tokens].set(adapter["tokens"].astype(y.dtype)[None])
