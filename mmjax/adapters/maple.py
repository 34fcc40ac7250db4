"""MaPLe: learnt tokens in the layers of both towers, the picture's made of the text's."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import LAYER_INPUT
from mmjax.adapters.prompts import STD, InTowerPrompts, Known, Scored
from mmjax.encoders.layers import LayerNorm, PyTree

TOKENS, LEARNT = "tokens", "learnt"  # of every layer: [n, p, d], and whether they are put in [n]


@dataclass(frozen=True)
class ReplacedTokens:
    """What some layers made of learnt tokens is replaced by others before the next.

    A hook for a frozen transformer (`mmjax.encoders.layers.Hook`) that reads the tokens already, as
    CoOp's context stands in a text.

    Attributes:
      tokens: learnt ones, of every layer.
      at: where the first of them stands.
    """

    tokens: int
    at: int = 1

    def __call__(
        self, adapter: PyTree, place: str, x: Array, y: Array, kernel: Array | None
    ) -> Array:
        """The stream with a layer's own tokens in it, float [b, l, d]."""
        if place != LAYER_INPUT:
            return y
        own = adapter[TOKENS].astype(y.dtype)[None]
        return jnp.where(adapter[LEARNT], y.at[:, self.at : self.at + self.tokens].set(own), y)


@dataclass(frozen=True)
class CoupledTokens(ReplacedTokens):
    """The same of a tower that does not have them yet: they are put in, and taken out at the end.

    A `mmjax.encoders.inserted.TokenHook`. Behind the class token or, as in MaPLe's code, behind the
    patches is the same: nothing says where in a picture they stand.
    """

    def first(self, adapters: PyTree) -> Float[Array, "p d"]:
        """The tokens before the first layer."""
        return adapters[TOKENS][0]

    def by_layer(self, adapters: PyTree) -> PyTree:
        """Every layer's tokens."""
        return adapters


@dataclass(frozen=True)
class MaPLe:
    """A context in the text tower, others in its deeper layers, and linear maps to the picture's.

    Attributes:
      prompts: the text's side, whose General tokens are those before the first layer.
      role: of the text tower.
      layers: of (the text tower, the image tower).
      depth: layers with tokens of their own, the first one among them; of both towers.
      width: of the image tower.
      epsilon: of the norm that CLIP's image tower has before its first layer; None for no norm.

    Source: MaPLe (arXiv 2210.03117), equations 4-9. In the authors' code, as here, the picture's
      first tokens go through that norm, the deeper ones do not.
    """

    prompts: InTowerPrompts
    role: str
    layers: tuple[int, int]
    depth: int
    width: int
    epsilon: float | None

    def init(self, key: Key[Array, ""], known: Known, inputs: Mapping[str, Array]) -> PyTree:
        """What the text's side has, deeper tokens, and as many coupling maps as depths.

        Args:
          key: draws what is random: tokens as CoOp's, maps as torch's linear layers, those of the
            deeper tokens alike, as in the authors' code.
          known: `context` [p, d] and what else `InTowerPrompts.init` reads.
          inputs: unused.

        Returns:
          {"general" [p, d], "coupling": {"kernel" [depth, d, width], "bias" [depth, width]},
          ["deep" [depth - 1, p, d]]}, float32.
        """
        keys = jax.random.split(key, 6)
        tokens, d = known["context"].shape
        bound = d**-0.5

        def maps(first: Key[Array, ""], deeper: Key[Array, ""], *shape: int) -> Float[Array, "..."]:
            own, other = (
                jax.random.uniform(k, (1, *shape), minval=-bound, maxval=bound)
                for k in (first, deeper)
            )
            return jnp.concatenate([own, *[other] * (self.depth - 1)])

        trainable: dict[str, PyTree] = dict(self.prompts.init(keys[0], known, inputs))
        trainable["coupling"] = {
            "kernel": maps(keys[1], keys[2], d, self.width),
            "bias": maps(keys[4], keys[5], self.width),
        }
        if self.depth > 1:
            trainable["deep"] = STD * jax.random.normal(keys[3], (self.depth - 1, tokens, d))
        return trainable

    def in_towers(self, trainable: PyTree, frozen: PyTree) -> dict[str, PyTree]:
        """What the hooks of both towers read.

        Args:
          trainable: see `init`.
          frozen: holds the image tower's weights as `image`.

        Returns:
          Role -> {"tokens" [layers, p, d], "learnt" bool [layers]}.
        """
        text = trainable["general"][None]
        if self.depth > 1:
            text = jnp.concatenate([text, trainable["deep"]])
        coupling = trainable["coupling"]
        image = jnp.einsum("jpd,jdw->jpw", text, coupling["kernel"]) + coupling["bias"][:, None]
        if self.epsilon is not None:
            norm = LayerNorm(self.epsilon, dtype=jnp.float32)
            first = norm.apply({"params": frozen["image"]["pre_norm"]}, image[0])
            image = jnp.concatenate([jnp.asarray(first)[None], image[1:]])
        parts = zip((self.role, "image"), (text, image), self.layers, strict=True)
        return {role: self._by_layer(tokens, layers) for role, tokens, layers in parts}

    def _by_layer(self, tokens: Float[Array, "j p d"], layers: int) -> dict[str, Array]:
        numbers = jnp.arange(layers)
        return {
            TOKENS: jnp.pad(tokens, ((0, layers - self.depth), (0, 0), (0, 0))),
            # The first layer reads them where they stand.
            LEARNT: (numbers > 0) & (numbers < self.depth),
        }

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Mapping[str, Array]) -> Scored:
        """As `InTowerPrompts.score`; both towers have what `in_towers` says in them."""
        return self.prompts.score(trainable, frozen, inputs)
