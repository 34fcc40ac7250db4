"""Two frozen towers that share a space already, such as CLIP's: a base without any training."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.encoders.output import Batch, Inputs
from mmjax.losses.contrastive import info_nce
from mmjax.losses.distill import unit
from mmjax.metrics import mean_of
from mmjax.rng import DropoutKey
from mmjax.tasks.base import Loss
from mmjax.tasks.dual_encoder.towers import TwoTowers
from mmjax.trees import PyTree


@dataclass(frozen=True)
class PretrainedTask(TwoTowers):
    """A dual encoder as its checkpoint has it.

    Its tree holds the checkpoint's temperature, {"logit_scale"}, and nothing else: what stands on
    it starts from there.

    Attributes: as of `TwoTowers`, whose towers are pooled and projected, and
      initial_logit_scale: logarithm of the inverse temperature.
    """

    initial_logit_scale: float

    @property
    def width(self) -> int:
        """Dimensions of the joint space."""
        return self.text.width

    def members(self, projected: Float[Array, "b e"]) -> Float[Array, "1 b e"]:
        """Unit vectors of its one member."""
        return unit(projected)[None]

    def normalize(self, projected: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """Unit vectors of the joint space."""
        return unit(projected)

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """Returns {"logit_scale"}, whatever the key and the batch."""
        del key, frozen, batch
        return {"logit_scale": jnp.asarray(self.initial_logit_scale, jnp.float32)}

    def logit_scale(self, trainable: PyTree, frozen: PyTree = None) -> Float[Array, ""]:
        """Logarithm of the inverse temperature."""
        return trainable["logit_scale"]

    def project(
        self, role: str, trainable: PyTree, features: Float[Array, "b e"], key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """Features lie in the joint space already."""
        del role, trainable, key
        return features

    def embed(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """From a tower's inputs to un-normalised vectors of the joint space."""
        del trainable, key
        return {"image": self.image, "text": self.text}[role](frozen, inputs)["features"]

    def loss(self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> Loss:
        """Symmetric InfoNCE at the checkpoint's temperature: how well it knows these pairs."""
        del key
        image, text = (unit(self.embed(r, trainable, frozen, batch[r])) for r in ("image", "text"))
        each = info_nce(image, text, self.logit_scale(trainable))[1].loss
        return each.mean(), {"contrastive": mean_of(each)}
