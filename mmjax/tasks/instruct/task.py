"""Visual instructions: a frozen language model learns to answer about what a frozen ViT sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, Shaped

from mmjax.adapters.catalog import make_adapter
from mmjax.adapters.hooks import LayerAdapter
from mmjax.adapters.lora import Lora
from mmjax.adapters.multimodal import Multimodal, assemble
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders.base import Encoder
from mmjax.encoders.language_model import embed, extend, logits
from mmjax.encoders.llama import Llama
from mmjax.encoders.output import Batch, Inputs
from mmjax.encoders.vision import VisionTransformer, class_tokens
from mmjax.errors import MmjaxError, setting
from mmjax.generation import sampling
from mmjax.losses.language_modeling import answer_hidden, next_token
from mmjax.metrics import Metrics
from mmjax.rng import DropoutKey
from mmjax.specs.instruct import OWN, InstructSpec
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.trees import PyTree


@dataclass(frozen=True)
class InstructTask:
    """Adapters in both frozen towers, and a projection between them.

    The frozen tree holds `language` and `image`. A batch holds `text` as
    `mmjax.data.conversations.collate` makes it and, unless it is text alone, `image`:
    {"pixel_values" [m, h, w, 3]} or, where no adapter sits in the vision transformer, what it said:
    {"class_tokens" [m, taps, c]}. Rows i * b / m to (i + 1) * b / m are about picture i.

    Attributes:
      parts: what is trained.
      language: the language model's module, with the adapter as its hook.
      vision: the vision transformer's, the same.
    """

    parts: Multimodal
    language: nn.Module
    vision: nn.Module

    @classmethod
    def of(
        cls, parts: Multimodal, language: nn.Module, vision: nn.Module, remat: bool = False
    ) -> "InstructTask":
        """Puts the adapters into the towers' modules.

        Args:
          parts: what is trained.
          language: a `Llama`.
          vision: a `VisionTransformer`.
          remat: going backward, compute the language model's layers again instead of keeping them.

        Returns:
          The task.
        """
        adapted = typed.clone(language, hook=parts.language, remat=remat)
        return cls(parts, adapted, typed.clone(vision, hook=parts.vision))

    @property
    def _layers(self) -> tuple[int, int]:
        return self.language.config.num_layers, self.vision.config.num_layers  # type: ignore[attr-defined]

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """The parts' parameters; nothing of the batch is read."""
        return self.parts.init(key, frozen["language"], frozen["image"])

    def image_tokens(
        self, trainable: PyTree, adapters: PyTree, frozen: PyTree, inputs: Inputs
    ) -> Float[Array, "m t d"]:
        """Pictures as embeddings of the language model.

        Args:
          trainable: all that is trained.
          adapters: the vision transformer's.
          frozen: the frozen tree.
          inputs: {"pixel_values"}, or {"class_tokens" [m, taps, c]} where they are computed once
            and for all.

        Returns:
          Float32 [m, taps, d].
        """
        if "class_tokens" in inputs:
            return self.parts.image_tokens(trainable, inputs["class_tokens"].swapaxes(0, 1))
        layers = np.array(self.parts.tapped(self._layers[1]))
        found = class_tokens(self.vision, frozen["image"], inputs["pixel_values"], adapters)
        return self.parts.image_tokens(trainable, found[layers])

    def answer_logits(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: DropoutKey = None
    ) -> Float[Array, "b a v"]:
        """Logits of the answers' tokens alone, float32 [b, a, v]; a key means dropout."""
        text = batch["text"]
        language, vision = self.parts.training(trainable, key, self._layers)
        pictures = None
        if "image" in batch:
            pictures = self.image_tokens(trainable, vision, frozen, batch["image"])
            pictures = jnp.repeat(pictures, len(text["input_ids"]) // len(pictures), axis=0)
        first = trainable["modality"]["embedding"][text["modality"]] if self.parts.routed else None
        words = embed(self.language, frozen["language"], text["input_ids"])
        x = assemble(words, pictures, text["image_slot"], first)
        hidden, _ = extend(self.language, frozen["language"], language, x, text["attention_mask"])
        chosen = answer_hidden(hidden, text["columns"])
        return logits(self.language, frozen["language"], chosen)

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Cross-entropy of the answers' tokens, every token of the batch weighing the same.

        A batch is of one modality: its metrics also stand under that one's own name.
        """
        text = batch["text"]
        found = self.answer_logits(trainable, frozen, batch, key)
        loss, accuracy = next_token(found, text["labels"], text["weights"])
        own = "picture" if "image" in batch else "text"
        return loss.total / loss.examples, {
            **{"token_loss": loss, "token_accuracy": accuracy},
            **{f"{own}_loss": loss, f"{own}_accuracy": accuracy},
        }

    def weight(self, batch: Batch) -> Float[Array, ""]:
        """Answer tokens of a batch: what its loss is a mean over."""
        return batch["text"]["weights"].sum()

    def functions(self) -> Mapping[str, Callable[[PyTree, PyTree, Batch], Shaped[Array, " b"]]]:
        """What is asked of a batch, row by row.

        `log_prob`: of all tokens of the row's answers together, given what stands before each.
        `exact`: whether greedy decoding would give exactly the batch's answers. It would where
        every token of the answer, its end included, is the likeliest one after the question and the
        tokens before it: no token need be decoded to know that.
        """

        def exact(trainable: PyTree, frozen: PyTree, batch: Batch) -> Bool[Array, " b"]:
            text = batch["text"]
            chosen = self.answer_logits(trainable, frozen, batch).argmax(-1)
            return ((chosen == text["labels"]) | (text["weights"] == 0)).all(axis=-1)

        def log_prob(trainable: PyTree, frozen: PyTree, batch: Batch) -> Float[Array, " b"]:
            found = self.answer_logits(trainable, frozen, batch)
            labels, weights = batch["text"]["labels"], batch["text"]["weights"]
            return (sampling.log_prob(found, labels) * weights).sum(axis=-1)

        return {"exact": exact, "log_prob": log_prob}


def make_instruct(stage: Stage, language: Encoder, vision: Encoder) -> InstructTask:
    """Builds the task of an `instruct` stage.

    Args:
      stage: the recipe's stage.
      language: the frozen language model.
      vision: the frozen vision transformer.

    Returns:
      The task.

    Raises:
      MmjaxError: an encoder of another kind than its role needs.
    """
    if not isinstance(language.module, Llama):
        raise MmjaxError(
            f"{setting('encoders.language')} is {language.name!r}, a {language.family} "
            "encoder; the instruct task needs a language model that reads text alone"
        )
    if not isinstance(vision.module, VisionTransformer):
        raise MmjaxError(
            f"{setting('encoders.image')} is {vision.name!r}, a {vision.family} "
            "encoder; the instruct task needs a vision transformer"
        )
    parts = parts_of(stage.instruct)
    parts.tapped(vision.config.num_layers)
    return InstructTask.of(parts, language.module, vision.module, stage.instruct.remat)


def parts_of(spec: InstructSpec) -> Multimodal:
    """What an `instruct` stage trains."""
    return Multimodal(
        adapter_of(spec, "language"),
        adapter_of(spec, "image") if spec.visual else None,
        spec.taps,
        spec.hidden,
        spec.tap_layers,
        spec.norm_taps,
    )


def adapter_of(spec: InstructSpec, role: str) -> LayerAdapter | None:
    """The adapter in the layers of one tower."""
    if spec.adapter == "none":
        return None
    if spec.adapter == "lora":
        targets = spec.targets if role == "language" else ("query", "value")
        return Lora(spec.rank, spec.alpha, spec.dropout, targets)
    if spec.adapter not in OWN:
        return make_adapter(spec.adapter, spec.adapter_settings, "instruct.adapter")
    return RepAdapter(
        rank=spec.rank,
        experts=2 if spec.adapter == "routed" else 1,
        scale=spec.scale,
        temperature=spec.temperature,
        dropout=spec.dropout,
        routing="first_token" if role == "language" else spec.clip_routing,
        router_weight_dtype=spec.router_weight_dtype,
        feed_forward=spec.feed_forward in ("both", "language" if role == "language" else "vision"),
    )
