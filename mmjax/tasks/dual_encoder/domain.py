"""Domain adaptation: a frozen dual encoder learns a domain from few pairs, hard ones first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from mmjax.adapters.residual import ResidualAdapter
from mmjax.adapters.towers import begun, within
from mmjax.encoders.output import Batch, EmbedFn, Inputs, Tower
from mmjax.losses import consolidation, distill
from mmjax.losses.contrastive import info_nce
from mmjax.losses.pairs import PairLoss
from mmjax.losses.temperature import LOGIT_SCALE_RANGE, temperature
from mmjax.losses.weighting import Focal, HardNegatives, LossSoftmax
from mmjax.metrics import Mean, mean_of
from mmjax.rng import DropoutKey
from mmjax.specs.dual_encoder import ContinualSpec, LossSpec, ResidualSpec, WeightingSpec
from mmjax.tasks import typed
from mmjax.tasks.base import GENERAL, DualEncoder, Embedding, Loss, Rows, below
from mmjax.trees import PyTree

_BEFORE = "before_"  # begins the keys of what the base says of general items


@dataclass(frozen=True)
class DomainTask(Embedding):
    """Residual adapters on a frozen dual encoder, or its own heads from where they stand.

    The frozen tree holds `base` (what the base trained) and, where the base has a base of its own,
    `below` (what that one reads). A batch holds `image` and the base's text role; to keep what the
    base knows by distillation, also `general_image` and `general_text`, which are no pairs.

    Attributes:
      base: the frozen dual encoder.
      residual: what is trained.
      weighting: which pairs and negatives count more.
      continual: what holds on to the base's knowledge.
      loss_spec: temperature and label smoothing.
      mesh: the loss goes round its data axis; None leaves a sharded batch to the compiler.
      towers: role -> frozen tower, those with adapters of this task's own among them.
    """

    base: DualEncoder
    residual: ResidualSpec
    weighting: WeightingSpec
    continual: ContinualSpec
    loss_spec: LossSpec
    mesh: Mesh | None = None
    towers: Mapping[str, Tower] = field(default_factory=dict[str, Tower])

    @property
    def text_role(self) -> str:
        """The base's."""
        return self.base.text_role

    def _adapter(self) -> ResidualAdapter:
        r = self.residual
        return ResidualAdapter(r.bottleneck, r.ratio, r.dropout)

    def _base_embed(self, role: str, frozen: PyTree, inputs: Inputs) -> Float[Array, "b e"]:
        return self.base.embed(role, frozen["base"], below(frozen), inputs)

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """Returns {"heads"}, or {"image", "text", ["logit_scale"]} for adapters; equal to the base.

        The adapters' input is standardised by the batch.
        """
        adapters = begun(self.towers, key, frozen)
        if self.residual.tune == "heads":
            return {"heads": jax.tree.map(jnp.copy, frozen["base"]), **adapters}
        trainable: dict[str, PyTree] = dict(adapters)
        for tower in self.residual.towers if self.residual.tune == "adapter" else ():
            key, sub = jax.random.split(key)
            role = "image" if tower == "image" else self.text_role
            embedded = self._base_embed(role, frozen, batch[role])
            trainable[tower] = typed.init(self._adapter(), sub, embedded)
        if self.loss_spec.learn_temperature:
            # A checkpoint's own may lie a rounding above the range that training keeps.
            trainable["logit_scale"] = jnp.clip(
                self.base.logit_scale(frozen["base"]), *LOGIT_SCALE_RANGE
            )
        return trainable

    def logit_scale(self, trainable: PyTree, frozen: PyTree = None) -> Float[Array, ""]:
        """Logarithm of the inverse temperature: the base's, from which it may be trained on."""
        if self.residual.tune == "heads":
            return self.base.logit_scale(trainable["heads"])
        return trainable.get("logit_scale", self.base.logit_scale(frozen["base"]))

    def normalize(self, projected: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """Unit vectors of the joint space, the base's."""
        return self.base.normalize(projected)

    def embed(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """From a tower's inputs to unit vectors of the joint space; a key means dropout."""
        frozen = within(frozen, trainable, self.towers, key)
        if self.residual.tune == "heads":
            embedded = self.base.embed(role, trainable["heads"], below(frozen), inputs, key)
            return self.base.normalize(embedded)
        embedded = self._base_embed(role, frozen, inputs)
        tower = "image" if role == "image" else "text"
        if tower in self.residual.towers and self.residual.tune == "adapter":
            embedded = typed.apply(self._adapter(), trainable[tower], embedded, key=key)
        return self.base.normalize(embedded)

    def pair_loss(
        self,
        image: Float[Array, "b e"],
        text: Float[Array, "b e"],
        logit_scale: Float[Array, ""],
        captions: Int[Array, " b"],
    ) -> tuple[Float[Array, ""], PairLoss]:
        """Weighted symmetric InfoNCE of unit vectors.

        Args:
          image: of each pair.
          text: the same.
          logit_scale: logarithm of the inverse temperature.
          captions: equal ones are the same text, hence positives of each other.

        Returns:
          (scalar, what each pair counted).
        """
        w = self.weighting
        hard = {"none": None, "focal": Focal(w.gamma), "loss_softmax": LossSoftmax(w.temperature)}
        negatives = HardNegatives(w.beta, w.tau_plus) if w.beta or w.tau_plus else None
        return info_nce(
            image,
            text,
            logit_scale,
            positives=captions,
            label_smoothing=self.loss_spec.label_smoothing,
            hard=hard[w.pairs],
            negatives=negatives,
            mesh=self.mesh,
        )

    def embedded(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> dict[str, Float[Array, "b e"]]:
        """What the loss is made of, row by row; see `mmjax.tasks.base.Embedding`."""
        rows = self._embedded(trainable, frozen, batch, tuple(jax.random.split(key)))
        if self.continual.kind == "distill":
            for role, general in self._general:
                inputs = batch[general]
                rows[general] = self.embed(role, trainable, frozen, inputs)
                before = self.base.normalize(self._base_embed(role, frozen, inputs))
                rows[_BEFORE + general] = before
        return rows

    @property
    def _general(self) -> tuple[tuple[str, str], ...]:
        """(role, its key among a batch's general items) of both towers."""
        return ("image", f"{GENERAL}image"), (self.text_role, f"{GENERAL}text")

    def _embedded(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, keys: tuple[Any, Any] = (None, None)
    ) -> dict[str, Float[Array, "b e"]]:
        return {
            role: self.embed(role, trainable, frozen, batch[role], key)
            for role, key in zip(("image", self.text_role), keys, strict=True)
        }

    def compare(self, embedded: Rows, trainable: PyTree, frozen: PyTree, batch: Batch) -> Loss:
        """The pairs' loss, and the penalty for forgetting beside it."""
        loss, pairs = self._of_pairs(embedded, trainable, frozen, batch)
        metrics = {
            "contrastive": mean_of(pairs.loss, pairs.valid),
            "probability": mean_of(pairs.probability, pairs.valid),
            "largest_weight": mean_of(pairs.weight.max()[None]),
            "temperature": mean_of(temperature(self.logit_scale(trainable, frozen))[None]),
        }
        if self.continual.kind != "none":
            penalty = self._forgotten(embedded, trainable, frozen)
            metrics["forgotten"] = Mean(penalty, jnp.ones(()))
            loss = loss + self.continual.weight * penalty
        return loss, metrics

    def _of_pairs(
        self, embedded: Rows, trainable: PyTree, frozen: PyTree, batch: Batch
    ) -> tuple[Float[Array, ""], PairLoss]:
        image, text = (embedded[role] for role in ("image", self.text_role))
        captions = batch[self.text_role]["row"]
        return self.pair_loss(image, text, self.logit_scale(trainable, frozen), captions)

    def _forgotten(self, embedded: Rows, trainable: PyTree, frozen: PyTree) -> Float[Array, ""]:
        if self.continual.kind == "ewc":
            return consolidation.penalty(trainable, frozen["prior"])
        moved: list[Float[Array, ""]] = []
        for _, general in self._general:
            before = jax.lax.stop_gradient(embedded[_BEFORE + general])
            moved.append(distill.cosine(embedded[general], before).mean())
        return sum(moved, start=jnp.zeros(()))

    def example_losses(self, trainable: PyTree, frozen: PyTree, batch: Batch) -> Float[Array, " b"]:
        """Every pair's own loss, without weights and dropout: EWC's Fisher information is of it."""
        embedded = self._embedded(trainable, frozen, batch)
        return self._of_pairs(embedded, trainable, frozen, batch)[1].loss

    def functions(self) -> Mapping[str, EmbedFn]:
        """`embed_*` with the adapters, `embed_base_*` without them."""
        roles = {"images": "image", "texts": self.text_role}

        def adapted(role: str) -> EmbedFn:
            return lambda t, f, inputs: self.embed(role, t, f, inputs)

        def base(role: str) -> EmbedFn:
            return lambda _, f, inputs: self.base.normalize(self._base_embed(role, f, inputs))

        return {f"embed_{name}": adapted(role) for name, role in roles.items()} | {
            f"embed_base_{name}": base(role) for name, role in roles.items()
        }
