"""Joins two frozen towers into one space: a small head on each, trained contrastively.

With image and text towers that never saw each other this makes the dual encoder that other tasks
adapt, where no CLIP weights can be had.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.language import masked_mean
from mmjax.adapters.projection import ProjectionHead, unit
from mmjax.losses.contrastive import info_nce
from mmjax.metrics import Metrics, mean_of
from mmjax.spec import HeadSpec, LossSpec
from mmjax.tasks.base import Batch, EmbedFn, Inputs, Tower
from mmjax.trees import PyTree


@dataclass(frozen=True)
class ContrastiveTask:
    """Two projection heads and a temperature, on frozen features.

    Attributes:
      image: the image tower.
      text: the text tower.
      image_head: sizes of the head on image features.
      text_head: sizes of the head on text features.
      loss_spec: temperature and label smoothing.
    """

    image: Tower
    text: Tower
    image_head: HeadSpec
    text_head: HeadSpec
    loss_spec: LossSpec

    def _head(self, role: str) -> ProjectionHead:
        spec = {"image": self.image_head, "text": self.text_head}[role]
        return ProjectionHead(spec.hidden, spec.out_dim, spec.dropout, spec.noise)

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Returns {"image", "text", ["logit_scale"]}."""
        trainable: dict[str, PyTree] = {}
        for tower in (self.image, self.text):
            key, sub = jax.random.split(key)
            variables = self._head(tower.role).init(sub, jnp.zeros((1, tower.width)))
            trainable[tower.role] = variables["params"]
        if self.loss_spec.learn_temperature:
            trainable["logit_scale"] = self._initial_logit_scale()
        return trainable

    def _initial_logit_scale(self) -> Float[Array, ""]:
        return -jnp.log(jnp.asarray(self.loss_spec.init_temperature, jnp.float32))

    def logit_scale(self, trainable: PyTree) -> Float[Array, ""]:
        """Logarithm of the inverse temperature, learnt or fixed."""
        if self.loss_spec.learn_temperature:
            return trainable["logit_scale"]
        return self._initial_logit_scale()

    def project(
        self,
        role: str,
        trainable: PyTree,
        features: Float[Array, "b d"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b e"]:
        """One tower's pooled features in the joint space, un-normalised; dropout only with a key."""
        rngs = None if key is None else {"dropout": key}
        return self._head(role).apply(
            {"params": trainable[role]}, features, deterministic=key is None, rngs=rngs
        )  # type: ignore[return-value]

    def embed(
        self,
        role: str,
        trainable: PyTree,
        frozen: PyTree,
        inputs: Inputs,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b e"]:
        """From a tower's inputs to un-normalised vectors of the joint space."""
        read = {"image": self.image, "text": self.text}[role](frozen, inputs)
        features = read["features"]
        if features.ndim == 3:
            features = masked_mean(features, read["mask"])
        return self.project(role, trainable, features, key)

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Symmetric InfoNCE over the global batch; see `mmjax.losses.contrastive.info_nce`."""
        image_key, text_key = jax.random.split(key)
        image = unit(self.embed("image", trainable, frozen, batch["image"], image_key))
        text = unit(self.embed("text", trainable, frozen, batch["text"], text_key))
        logit_scale = self.logit_scale(trainable)
        each = info_nce(image, text, logit_scale, self.loss_spec.label_smoothing)
        nearest = jnp.argmax(image @ text.T, axis=-1) == jnp.arange(len(image))
        metrics = {
            "contrastive": mean_of(each),
            "batch_accuracy": mean_of(nearest.astype(jnp.float32)),
            "temperature": mean_of(jnp.exp(-logit_scale)[None]),
        }
        return each.mean(), metrics

    def functions(self) -> Mapping[str, EmbedFn]:
        """`embed_images` and `embed_texts`, both onto the unit sphere of the joint space."""
        return {
            "embed_images": lambda t, f, inputs: unit(self.embed("image", t, f, inputs)),
            "embed_texts": lambda t, f, inputs: unit(self.embed("text", t, f, inputs)),
        }
