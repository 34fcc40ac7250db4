"""Joins two frozen towers into one space: a small head on each, trained contrastively.

With image and text towers that never saw each other this makes the dual encoder that other tasks
adapt, where no CLIP weights can be had.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.adapters.language import masked_mean
from mmjax.adapters.projection import ProjectionHead
from mmjax.adapters.towers import begun, within
from mmjax.encoders.output import Batch, Inputs, Tower
from mmjax.losses.distill import unit
from mmjax.losses.members import member_info_nce, reported
from mmjax.losses.temperature import initial_logit_scale
from mmjax.rng import DropoutKey
from mmjax.specs.dual_encoder import HeadSpec, LossSpec
from mmjax.tasks import typed
from mmjax.tasks.base import Embedding, Loss, Rows
from mmjax.tasks.dual_encoder.towers import TwoTowers
from mmjax.trees import PyTree


@dataclass(frozen=True)
class ContrastiveTask(TwoTowers, Embedding):
    """Two projection heads and a temperature, on frozen features.

    Attributes: as of `TwoTowers`, and
      image_head: sizes of the head on image features.
      text_head: sizes of the head on text features.
      loss_spec: temperature and label smoothing.
      mesh: the loss goes round its data axis; None leaves a sharded batch to the compiler.
    """

    image_head: HeadSpec
    text_head: HeadSpec
    loss_spec: LossSpec
    mesh: Mesh | None = None

    def _head(self, role: str) -> ProjectionHead:
        spec = {"image": self.image_head, "text": self.text_head}[role]
        return ProjectionHead(
            spec.hidden, spec.out_dim, spec.dropout, spec.hidden_dropout, spec.members
        )

    @property
    def width(self) -> int:
        """Dimensions of the joint space."""
        return self.text_head.members * self.text_head.out_dim

    def members(self, projected: Float[Array, "b me"]) -> Float[Array, "m b e"]:
        """Every member's unit vectors."""
        split = projected.reshape(len(projected), self.text_head.members, -1)
        return unit(split.transpose(1, 0, 2))

    def normalize(self, projected: Float[Array, "b me"]) -> Float[Array, "b me"]:
        """Unit vectors of the joint space: a cosine in it is the mean of the members' cosines."""
        parts = self.members(projected) / self.text_head.members**0.5
        return jnp.concatenate(list(parts), axis=-1)

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """Returns {"image", "text", ["logit_scale"]}; see `ProjectionHead` for the batch's part."""
        trainable: dict[str, PyTree] = begun(self.towers, key, frozen)
        frozen = within(frozen, trainable, self.towers)
        for tower in (self.image, self.text):
            key, sub = jax.random.split(key)
            features = self._features(tower, frozen, batch[tower.role])
            trainable[tower.role] = typed.init(self._head(tower.role), sub, features)
        if self.loss_spec.learn_temperature:
            trainable["logit_scale"] = initial_logit_scale(self.loss_spec.init_temperature)
        return trainable

    def logit_scale(self, trainable: PyTree, frozen: PyTree = None) -> Float[Array, ""]:
        """Logarithm of the inverse temperature, learnt or fixed."""
        if self.loss_spec.learn_temperature:
            return trainable["logit_scale"]
        return initial_logit_scale(self.loss_spec.init_temperature)

    def project(
        self, role: str, trainable: PyTree, features: Float[Array, "b d"], key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """One tower's pooled features in the joint space, un-normalised; a key means dropout."""
        return typed.apply(self._head(role), trainable[role], features, key=key)

    def embed(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """From a tower's inputs to un-normalised vectors of the joint space."""
        tower = {"image": self.image, "text": self.text}[role]
        frozen = within(frozen, trainable, self.towers, key)
        return self.project(role, trainable, self._features(tower, frozen, inputs), key)

    def _features(self, tower: Tower, frozen: PyTree, inputs: Inputs) -> Float[Array, "b d"]:
        read = tower(frozen, inputs)
        features = read["features"]
        return masked_mean(features, read["mask"]) if features.ndim == 3 else features

    def embedded(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> Rows:
        """What the loss is made of, row by row; see `mmjax.tasks.base.Embedding`."""
        image_key, text_key = jax.random.split(key)
        return {
            "image": self.embed("image", trainable, frozen, batch["image"], image_key),
            "text": self.embed("text", trainable, frozen, batch["text"], text_key),
        }

    def compare(self, embedded: Rows, trainable: PyTree, frozen: PyTree, batch: Batch) -> Loss:
        """Symmetric InfoNCE over the global batch; equal texts are positives of each other."""
        image, text = self.members(embedded["image"]), self.members(embedded["text"])
        logit_scale, captions = self.logit_scale(trainable), batch["text"]["row"]
        smoothing = self.loss_spec.label_smoothing
        loss, pairs = member_info_nce(image, text, logit_scale, captions, smoothing, self.mesh)
        return loss, reported(pairs, logit_scale)
