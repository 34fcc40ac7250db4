"""Language adaptation: a foreign text encoder takes the place of a frozen dual encoder's own."""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.language import LanguageAdapter, PooledAdapter
from mmjax.losses import distill
from mmjax.metrics import Metrics, mean_of
from mmjax.spec import AdapterSpec, LossSpec
from mmjax.tasks.base import Batch, EmbedFn, Inputs, Tower
from mmjax.tasks.contrastive import ContrastiveTask, member_info_nce
from mmjax.trees import PyTree


@dataclass(frozen=True)
class LanguageTask:
    """An adapter on a frozen foreign encoder, towards the text space of a frozen base.

    The frozen tree holds `base` (the base's heads) and, where features are not cached, the
    encoders' weights under their roles. A batch holds `foreign` (the new language) and either
    `text` (the same sentence in the base's language) or `image`.

    Attributes:
      foreign: the foreign text tower, token outputs.
      base: the frozen dual encoder.
      adapter: sizes.
      loss_spec: which objective.
    """

    foreign: Tower
    base: ContrastiveTask
    adapter: AdapterSpec
    loss_spec: LossSpec

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
        read = self.foreign(frozen, batch["foreign"])
        mask = read["mask"].astype(bool)
        params = self._module().init(key, read["features"], mask)["params"]
        trainable = {"adapter": params}
        contrastive = self.loss_spec.kind in ("contrastive", "two_stage")
        if contrastive and self.loss_spec.learn_temperature:
            temperature = jnp.asarray(self.loss_spec.init_temperature, jnp.float32)
            trainable["logit_scale"] = -jnp.log(temperature)
        return trainable

    def _student(
        self,
        trainable: PyTree,
        frozen: PyTree,
        inputs: Inputs,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "m b d"]:
        """The adapter's own outputs, un-normalised, in the space that it is distilled into."""
        read = self.foreign(frozen, inputs)
        return self._module().apply(
            {"params": trainable["adapter"]},
            read["features"],
            read["mask"].astype(bool),
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )  # type: ignore[return-value]

    def _joint(self, frozen: PyTree, student: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """The adapter's output in the joint space."""
        if self.adapter.space == "joint":
            return student
        return self.base.project("text", frozen["base"], student)

    def _teacher(self, frozen: PyTree, inputs: Inputs) -> Float[Array, "b d"]:
        """What the base's own text tower says of the same sentence in its language."""
        if self.adapter.space == "joint":
            return self.base.embed("text", frozen["base"], frozen, inputs)
        return self.base.text(frozen, inputs)["features"]

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Distillation where the batch holds `text`, contrastive where it holds `image`."""
        members = self._student(trainable, frozen, batch["foreign"], key)
        if "image" in batch:
            student = members.mean(axis=0)
            image = self.base.embed("image", frozen["base"], frozen, batch["image"])
            pairs = self.base.members(image), self.base.members(self._joint(frozen, student))
            scale = trainable.get("logit_scale", -jnp.log(self.loss_spec.init_temperature))
            smoothing = self.loss_spec.label_smoothing
            each = member_info_nce(*pairs, scale, smoothing)
            return each.mean(), {"contrastive": mean_of(each)}
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
            "embed_texts": lambda t, f, inputs: self.base.normalize(
                self._joint(f, self._student(t, f, inputs).mean(axis=0))
            ),
            "embed_base_texts": lambda _, f, inputs: base["embed_texts"](f["base"], f, inputs),
            "embed_images": lambda _, f, inputs: base["embed_images"](f["base"], f, inputs),
        }
