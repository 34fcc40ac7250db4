"""Language adaptation: a foreign text encoder takes the place of a frozen dual encoder's own."""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.adapters.language import LanguageAdapter, PooledAdapter
from mmjax.adapters.towers import begun, within
from mmjax.encoders.output import Batch, EmbedFn, Inputs, Tower
from mmjax.losses import distill
from mmjax.losses.members import member_info_nce, reported
from mmjax.losses.temperature import initial_logit_scale
from mmjax.metrics import mean_of
from mmjax.rng import DropoutKey
from mmjax.specs.dual_encoder import AdapterSpec, LossSpec
from mmjax.tasks import typed
from mmjax.tasks.base import Loss, TextSpace
from mmjax.trees import PyTree


@dataclass(frozen=True)
class LanguageTask:
    """An adapter on a frozen foreign encoder, towards the text space of a frozen base.

    The frozen tree holds `base` (what the base trained) and, where features are not cached, the
    encoders' weights under their roles. A batch holds `foreign` (the new language) and either
    `text` (the same sentence in the base's language) or `image`.

    Attributes:
      foreign: the foreign text tower, token outputs.
      base: the frozen dual encoder.
      adapter: sizes.
      loss_spec: which objective.
      mesh: a contrastive loss goes round its data axis; None leaves the batch to the compiler.
    """

    foreign: Tower
    base: TextSpace
    adapter: AdapterSpec
    loss_spec: LossSpec
    mesh: Mesh | None = None

    @property
    def text_role(self) -> str:
        """The encoder that reads queries."""
        return self.foreign.role

    def _module(self) -> nn.Module:
        a = self.adapter
        out = self.base.width if a.space == "joint" else self.base.text.width
        if a.kind != "transformer":
            hidden = a.skip_hidden if a.kind == "mlp" else 0
            return PooledAdapter(out, hidden, a.input_dropout, a.dropout, a.members)
        return LanguageAdapter(
            out_dim=out,
            width=a.width,
            num_layers=a.num_layers,
            num_heads=a.num_heads,
            mlp_ratio=a.mlp_ratio,
            dropout=a.dropout,
            input_dropout=a.input_dropout,
            skip=a.skip,
            skip_hidden=a.skip_hidden,
            members=a.members,
        )

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """Returns {"adapter", ["logit_scale"]}."""
        adapters = begun({"foreign": self.foreign}, key, frozen)
        read = self.foreign(within(frozen, adapters, {}), batch["foreign"])
        mask = read["mask"].astype(bool)
        params = typed.init(self._module(), key, read["features"], mask)
        trainable: dict[str, PyTree] = {"adapter": params, **adapters}
        contrastive = self.loss_spec.kind in ("contrastive", "two_stage")
        if contrastive and self.loss_spec.learn_temperature:
            trainable["logit_scale"] = initial_logit_scale(self.loss_spec.init_temperature)
        return trainable

    def logit_scale(self, trainable: PyTree, frozen: PyTree = None) -> Float[Array, ""]:
        """Logarithm of the inverse temperature, learnt or fixed."""
        if "logit_scale" in trainable:
            return trainable["logit_scale"]
        return initial_logit_scale(self.loss_spec.init_temperature)

    def _student(
        self,
        trainable: PyTree,
        frozen: PyTree,
        inputs: Inputs,
        key: DropoutKey = None,
    ) -> Float[Array, "m b d"]:
        """The adapter's own outputs, un-normalised, in the space that it is distilled into."""
        frozen = within(frozen, trainable, {"foreign": self.foreign}, key)
        read = self.foreign(frozen, inputs)
        mask = read["mask"].astype(bool)
        return typed.apply(self._module(), trainable["adapter"], read["features"], mask, key=key)

    def _joint(self, frozen: PyTree, members: Float[Array, "m b d"]) -> Float[Array, "b e"]:
        """The mean of the adapter's outputs, in the joint space."""
        mean = members.mean(axis=0)
        if self.adapter.space == "joint":
            return mean
        return self.base.project("text", frozen["base"], mean)

    def _teacher(self, frozen: PyTree, inputs: Inputs) -> Float[Array, "b d"]:
        """What the base's own text tower says of the same sentence in its language."""
        if self.adapter.space == "joint":
            return self.base.embed("text", frozen["base"], frozen, inputs)
        return self.base.text(frozen, inputs)["features"]

    def embed(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """From a tower's inputs to un-normalised vectors of the joint space."""
        if role == self.text_role:
            return self._joint(frozen, self._student(trainable, frozen, inputs, key))
        return self.base.embed(role, frozen["base"], frozen, inputs)

    def normalize(self, projected: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """Unit vectors of the joint space."""
        return self.base.normalize(projected)

    def loss(self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> Loss:
        """Distillation where the batch holds `text`, contrastive where it holds `image`."""
        members = self._student(trainable, frozen, batch["foreign"], key)
        if "image" in batch:
            image = self.embed("image", trainable, frozen, batch["image"])
            pairs = self.base.members(image), self.base.members(self._joint(frozen, members))
            logit_scale, captions = self.logit_scale(trainable), batch["foreign"]["row"]
            smoothing = self.loss_spec.label_smoothing
            loss, rows = member_info_nce(*pairs, logit_scale, captions, smoothing, self.mesh)
            return loss, reported(rows, logit_scale)
        teacher = jax.lax.stop_gradient(self._teacher(frozen, batch["text"]))
        kind = self.loss_spec.kind.removeprefix("distill_")
        name = self.loss_spec.distill if kind == "two_stage" else kind
        # Each member learns by itself: of their mean alone they would make one larger member.
        distance = {"mse": distill.mse, "cosine": distill.cosine}[name]
        each = jnp.stack([distance(member, teacher) for member in members]).mean(axis=0)
        similarity = 1 - distill.cosine(members.mean(axis=0), teacher)
        metrics = {f"distill_{name}": mean_of(each), "cosine_to_teacher": mean_of(similarity)}
        return each.mean(), metrics

    def functions(self) -> Mapping[str, EmbedFn]:
        """`embed_texts` reads the new language, `embed_base_texts` the base's own."""
        base = self.base.functions()
        return {
            "embed_texts": lambda t, f, inputs: self.normalize(
                self.embed(self.text_role, t, f, inputs)
            ),
            "embed_base_texts": lambda _, f, inputs: base["embed_texts"](f["base"], f, inputs),
            "embed_images": lambda _, f, inputs: base["embed_images"](f["base"], f, inputs),
        }
