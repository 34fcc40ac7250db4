"""Few-shot classifiers on cached embeddings: no text is encoded in a step.

Each has `init(key, known, inputs)` and `score(trainable, frozen, inputs) -> (logits, penalty)`;
`known` (`frozen["known"]`) holds `text` [c e] (hand-written prompts), `logit_scale` and, in
training, `support` [c * shots, e], the shots class by class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.prompts import Known, Scored
from mmjax.adapters.residual import ResidualAdapter
from mmjax.losses.distill import unit

PyTree = Any
Inputs = Mapping[str, Array]


def zero_shot(known: Known, image: Float[Array, "b e"]) -> Float[Array, "b c"]:
    """exp(s) cos(v, t_c): logits of the hand-written prompts."""
    return jnp.exp(known["logit_scale"]) * image @ known["text"].T


@dataclass(frozen=True)
class LinearProbe:
    """Logistic regression on the embeddings, from zero; it reads no name."""

    def init(self, key: Key[Array, ""], known: Known, inputs: Inputs) -> PyTree:
        """A kernel and a bias of zeros."""
        module = nn.Dense(len(known["text"]), kernel_init=nn.initializers.zeros)
        return module.init(key, inputs["features"])["params"]

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Scored:
        """exp(s) v W + b: the scale makes learning rates mean the same for every method."""
        scale = jnp.exp(frozen["known"]["logit_scale"])
        return scale * inputs["features"] @ trainable["kernel"] + trainable["bias"][
            None
        ], jnp.zeros(())


@dataclass(frozen=True)
class TipAdapter:
    """Zero-shot logits beside those of a cache of the shots; Tip-Adapter-F trains its keys.

    Attributes:
      alpha: weight of the cache.
      beta: how quickly a shot's vote falls with its distance.

    Source: Tip-Adapter (arXiv 2111.03930), equations 3-6.
    """

    alpha: float
    beta: float

    def init(self, key: Key[Array, ""], known: Known, inputs: Inputs) -> PyTree:
        """The shots' own embeddings as keys; their labels follow from the order."""
        return {"keys": known["support"]}

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Scored:
        """100 v W + alpha exp(-beta (1 - v F^T)) L, with the model's own scale for 100."""
        known, image = frozen["known"], inputs["features"]
        logits = zero_shot(known, image)
        votes = jnp.exp(-self.beta * (1 - image @ trainable["keys"].T))
        by_class = votes.reshape(len(image), len(known["text"]), -1).sum(axis=-1)
        return logits + self.alpha * by_class, jnp.zeros(())


@dataclass(frozen=True)
class ClipAdapter:
    """A residual adapter on the pictures' embeddings; the classifier is the zero-shot one.

    Source: CLIP-Adapter (arXiv 2110.04544), equations 4-6; see `ResidualAdapter`.
    """

    bottleneck: int
    ratio: float

    def _module(self) -> ResidualAdapter:
        return ResidualAdapter(self.bottleneck, self.ratio)

    def init(self, key: Key[Array, ""], known: Known, inputs: Inputs) -> PyTree:
        """An adapter that changes nothing yet."""
        return self._module().init(key, inputs["features"])["params"]

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Scored:
        """Zero-shot logits of adapted pictures."""
        image: Any = self._module().apply({"params": trainable}, inputs["features"])
        return zero_shot(frozen["known"], unit(image)), jnp.zeros(())


@dataclass(frozen=True)
class TaskResidual:
    """A residual on every class's embedding.

    Source: TaskRes (arXiv 2211.10277), equation 5.
    """

    alpha: float

    def init(self, key: Key[Array, ""], known: Known, inputs: Inputs) -> PyTree:
        """Residuals of zero."""
        return {"residual": jnp.zeros_like(known["text"])}

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Scored:
        """exp(s) cos(v, t_c + alpha x_c)."""
        known = frozen["known"]
        moved = {**known, "text": unit(known["text"] + self.alpha * trainable["residual"])}
        return zero_shot(moved, inputs["features"]), jnp.zeros(())


@dataclass(frozen=True)
class LinearProbePlus:
    """LP++'s classifier: a learnt vector a class beside its name's, blended by a share a class.

    It starts as the zero-shot classifier and takes the recipe's optimizer; the paper's own steps,
    and its initial values from the shots, are not used.

    Source: LP++ (arXiv 2404.02285), equation 2.
    """

    def init(self, key: Key[Array, ""], known: Known, inputs: Inputs) -> PyTree:
        """Vectors of zero, and every name at its full share."""
        text = known["text"]
        return {"vectors": jnp.zeros_like(text), "shares": jnp.ones((len(text), 1), text.dtype)}

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Scored:
        """exp(s) v (w_c + alpha_c t_c)."""
        known = frozen["known"]
        text = trainable["vectors"] + trainable["shares"] * known["text"]
        return zero_shot({**known, "text": text}, inputs["features"]), jnp.zeros(())


@dataclass(frozen=True)
class Clap:
    """A linear probe that starts at the class names and is held there, class by class.

    A class is held by how sure the zero-shot classifier is of it on the shots; nothing is tuned.

    Source: CLAP (arXiv 2312.12730), equations 5-8, with one fixed multiplier a class.
    """

    weight: float

    def init(self, key: Key[Array, ""], known: Known, inputs: Inputs) -> PyTree:
        """The zero-shot classifier."""
        return {"prototypes": known["text"]}

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Scored:
        """exp(s) cos(v, w_c), and the mean over classes of lambda_c ||w_c - t_c||^2."""
        known, weights = frozen["known"], trainable["prototypes"]
        logits = zero_shot({**known, "text": unit(weights)}, inputs["features"])
        if "support" not in known:
            return logits, jnp.zeros(())
        shots = jax.nn.softmax(zero_shot(known, known["support"]), axis=-1)
        classes = len(weights)
        sure = shots.reshape(classes, -1, classes).mean(axis=1).diagonal()
        moved = jnp.square(weights - known["text"]).sum(axis=-1)
        return logits, self.weight * (sure * moved).mean()
