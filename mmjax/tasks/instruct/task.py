"""Visual instructions: a frozen language model learns to answer about what a frozen ViT sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, Shaped

from mmjax.adapters.multimodal import Multimodal
from mmjax.encoders.base import Encoder
from mmjax.encoders.joined import Joined, among
from mmjax.encoders.language_model import embed, extend, logits
from mmjax.encoders.output import Batch, Inputs
from mmjax.encoders.vision import class_tokens
from mmjax.generation import sampling
from mmjax.losses.language_modeling import answer_hidden, next_token
from mmjax.metrics import Metrics
from mmjax.rng import DropoutKey
from mmjax.tasks import typed
from mmjax.trees import PyTree


@dataclass(frozen=True)
class InstructTask:
    """Adapters in both frozen towers, and a projection between them.

    Weights of the towers may learn too: copies of them, under `weights` in the trainable tree, then
    stand for those of the frozen tree, which need not be there.

    The frozen tree holds `language` and `image`. A batch holds `text` as
    `mmjax.data.conversations.collate` makes it and, unless it is text alone, `image`:
    {"pixel_values" [m, h, w, 3]} or, where no adapter sits in the vision transformer, what it said:
    {"class_tokens" [m, taps, c]}. Rows i * b / m to (i + 1) * b / m are about picture i.

    Attributes:
      parts: what is trained.
      language: the language model's module, with the adapter as its hook.
      vision: the vision transformer's, the same.
      weights: which weights learn: (role, name at the top of the role's tree) of each part.
    """

    parts: Multimodal
    language: nn.Module
    vision: nn.Module
    weights: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        parts: Multimodal,
        language: nn.Module,
        vision: nn.Module,
        remat: bool = False,
        weights: tuple[tuple[str, str], ...] = (),
    ) -> "InstructTask":
        """Puts the adapters into the towers' modules.

        Args:
          parts: what is trained.
          language: a `Llama`.
          vision: a `VisionTransformer`.
          remat: going backward, compute the language model's layers again instead of keeping them.
          weights: which weights learn.

        Returns:
          The task.
        """
        adapted = typed.clone(language, hook=parts.language, remat=remat)
        return cls(parts, adapted, cls.seeing(vision, parts), weights)

    @staticmethod
    def seeing(vision: nn.Module, parts: Multimodal) -> nn.Module:
        """What pictures pass through, with its adapter."""
        return typed.clone(vision, hook=parts.vision)

    @property
    def _layers(self) -> tuple[int, int]:
        return self.language.config.num_layers, self.vision.config.num_layers  # type: ignore[attr-defined]

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """The parts' parameters and copies of weights that learn; nothing of the batch is read."""
        trainable = self.parts.init(key, frozen["language"], self.tower(frozen["image"]))
        if not self.weights:
            return trainable
        return {**trainable, "weights": jax.tree.map(_float32, self.chosen(frozen))}

    def tower(self, image: PyTree) -> PyTree:
        """The vision transformer's own parameters."""
        return image

    def chosen(self, frozen: PyTree) -> dict[str, dict[str, PyTree]]:
        """The weights that learn, as they are: {role: {name: tree}}."""
        weights: dict[str, dict[str, PyTree]] = {}
        for role, name in self.weights:
            weights.setdefault(role, {})[name] = frozen[role][name]
        return weights

    def unchosen(self, frozen: PyTree) -> PyTree:
        """The frozen tree without the weights that learn."""
        return {
            role: {k: v for k, v in tree.items() if (role, k) not in self.weights}
            for role, tree in frozen.items()
        }

    def whole(self, trainable: PyTree, frozen: PyTree) -> PyTree:
        """The frozen tree with the weights that learned, in the dtype of the model."""
        learned = trainable.get("weights", {})

        def cast(x: Array | np.ndarray) -> Array:
            return jnp.asarray(x, self.language.param_dtype)  # type: ignore[attr-defined]

        return {
            role: {**tree, **jax.tree.map(cast, learned.get(role, {}))}
            for role, tree in frozen.items()
        }

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
          Float [m, t, d].
        """
        if "class_tokens" in inputs:
            return self.parts.image_tokens(trainable, inputs["class_tokens"].swapaxes(0, 1))
        layers = np.array(self.parts.tapped(self._layers[1]))
        image = self.whole(trainable, frozen)["image"]
        tokens = class_tokens(self.vision, image, inputs["pixel_values"], adapters)
        return self.parts.image_tokens(trainable, tokens[layers])

    def joined(
        self,
        trainable: PyTree,
        adapters: PyTree,
        frozen: PyTree,
        words: Float[Array, "b l d"],
        batch: Batch,
    ) -> Joined:
        """Words with the pictures of a batch that has some.

        Args:
          trainable: all that is trained.
          adapters: the vision transformer's.
          frozen: the whole frozen tree.
          words: float [b, l, d]: embeddings of the texts' tokens.
          batch: of texts and pictures.

        Returns:
          What the language model reads.
        """
        tokens = self.image_tokens(trainable, adapters, frozen, batch["image"])
        return Joined(among(words, tokens, batch["text"]["image_slot"]))

    def answer_logits(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: DropoutKey = None
    ) -> Float[Array, "b a v"]:
        """Logits of the answers' tokens alone, float32 [b, a, v]; a key means dropout."""
        text, frozen = batch["text"], self.whole(trainable, frozen)
        language, vision = self.parts.training(trainable, key, self._layers)
        read = Joined(embed(self.language, frozen["language"], text["input_ids"]))
        if "image" in batch:
            read = self.joined(trainable, vision, frozen, read.embeddings, batch)
        x, padding = read.embeddings, "right"
        if self.parts.routed:
            first = trainable["modality"]["embedding"][text["modality"]]
            x, padding = x.at[:, 0].set(first.astype(x.dtype)), "right, first hidden"
        hidden, _ = extend(
            self.language,
            frozen["language"],
            language,
            x,
            text["attention_mask"],
            positions=text.get("positions"),
            padding=padding,
            pictures=read.pictures,
            together=read.together,
        )
        chosen = answer_hidden(hidden, text["columns"])
        return logits(self.language, frozen["language"], chosen)

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Cross-entropy of the answers' tokens, every token of the batch weighing the same.

        A batch is of one modality: its metrics also stand under that one's own name.
        """
        text = batch["text"]
        answer_logits = self.answer_logits(trainable, frozen, batch, key)
        loss, accuracy = next_token(answer_logits, text["labels"], text["weights"])
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
            answer_logits = self.answer_logits(trainable, frozen, batch)
            labels, weights = batch["text"]["labels"], batch["text"]["weights"]
            return (sampling.log_prob(answer_logits, labels) * weights).sum(axis=-1)

        return {"exact": exact, "log_prob": log_prob}


def frozen_tree(language: Encoder, vision: Encoder) -> dict[str, PyTree]:
    """What the task's frozen tree holds of its language model, and of what pictures pass through.

    The weights that learn are among it; see `InstructTask.unchosen`.
    """
    return {"language": language.params, "image": vision.params}


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)
