"""Few-shot classification with a frozen dual encoder: prompts, and what they are compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs]  # it has none
from jaxtyping import Array, Float, Key

from mmjax.adapters.classifiers import (
    Clap,
    ClipAdapter,
    LinearProbe,
    TaskResidual,
    TipAdapter,
    zero_shot,
)
from mmjax.adapters.prompts import (
    EncodePrompts,
    FactorisedPrompts,
    InTowerPrompts,
    Known,
    Scored,
)
from mmjax.encoders.base import Encoder
from mmjax.encoders.output import Batch, EmbedFn, Inputs
from mmjax.encoders.prompted import embed_from_embeddings
from mmjax.metrics import Mean, Metrics, mean_of
from mmjax.specs.dual_encoder import LossSpec
from mmjax.specs.prompts import PromptSpec
from mmjax.tasks.base import DualEncoder, below
from mmjax.trees import PyTree


@runtime_checkable
class Classifier(Protocol):
    """A method: from pictures' embeddings to logits of the classes."""

    def init(self, key: Key[Array, ""], known: Known, inputs: Mapping[str, Array]) -> PyTree:
        """What is trained, before the first step."""
        ...

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Mapping[str, Array]) -> Scored:
        """(logits [b c], penalty beside the cross-entropy)."""
        ...


@dataclass(frozen=True)
class PromptsTask:
    """Cross-entropy over classes of which a few pictures and the names are known.

    The frozen tree holds `known` (see `mmjax.tasks.prompts.data`), for prompts in the tower also
    `text` (the tower's weights), `base` and `below`; to be asked about classes that were not
    trained on, `new`. A batch holds `image` (the base's embeddings as `features`, perhaps
    `patches`) and `label`.

    Attributes:
      classifier: the method.
      smoothing: of the labels.
      new_classes: whether the method says something of other classes.
    """

    classifier: Classifier
    smoothing: float = 0.0
    new_classes: bool = False

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """What the method trains."""
        return jax.tree.map(
            jnp.copy, self.classifier.init(key, frozen["known"], batch["image"])
        )  # the state's buffers are donated, what is known must stay

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean cross-entropy of the batch, and the method's own penalty."""
        logits, penalty = self.classifier.score(trainable, frozen, batch["image"])
        labels = batch["label"]["label"]
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), self.smoothing)
        each = optax.softmax_cross_entropy(logits, targets)
        right = logits.argmax(axis=-1) == labels
        metrics = {
            "cross_entropy": mean_of(each),
            "batch_accuracy": mean_of(right.astype(jnp.float32)),
            "penalty": Mean(penalty, jnp.ones(())),
        }
        return each.mean() + penalty, metrics

    def functions(self) -> Mapping[str, EmbedFn]:
        """`score` and `score_base` (the zero-shot classifier): [b c] logits; `*_new` of others."""

        def adapted(trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Float[Array, "b c"]:
            return self.classifier.score(trainable, frozen, inputs)[0]

        def base(_: PyTree, frozen: PyTree, inputs: Inputs) -> Float[Array, "b c"]:
            return zero_shot(frozen["known"], inputs["features"])

        found = {"score": adapted, "score_base": base, "score_base_new": _of_new(base)}
        return found | ({"score_new": _of_new(adapted)} if self.new_classes else {})


def _of_new(function: EmbedFn) -> EmbedFn:
    """The same, asked about the other half of the classes."""
    return lambda t, frozen, inputs: function(t, {**frozen, "known": frozen["new"]}, inputs)


def encode_prompts(base: DualEncoder, encoder: Encoder) -> EncodePrompts:
    """The frozen text tower and the base's own head, from token vectors on.

    Args:
      base: gives the joint space.
      encoder: the text encoder; only its module is used, the weights are an argument.

    Returns:
      (frozen, token vectors, ids, mask) -> unit vectors.
    """

    def encode(frozen: PyTree, embeddings: Any, ids: Any, mask: Any) -> Float[Array, "n e"]:
        pooled = embed_from_embeddings(encoder, frozen["text"], embeddings, ids, mask)
        inputs = {"features": pooled}
        found = base.embed(base.text_role, frozen["base"], below(frozen), inputs)
        return base.normalize(found)

    return encode


def make_prompts_task(
    spec: PromptSpec, loss: LossSpec, encode: Callable[[], EncodePrompts]
) -> PromptsTask:
    """The task of a method.

    Args:
      spec: which method, with its sizes.
      loss: label smoothing.
      encode: makes the text tower; called where a method reads it in a step.

    Returns:
      The task.
    """
    if spec.in_tower:
        plain = spec.method != "structured"
        classifier: Classifier = InTowerPrompts(
            encode(),
            spec.general,
            0 if plain else spec.instance,
            spec.domain,
            spec.method == "cocoop",
            spec.anchor,
            spec.chunk,
        )
    else:
        classifier = {
            "factorised": lambda: FactorisedPrompts(
                spec.general > 0, spec.domain, spec.instance, spec.attention, spec.alpha
            ),
            "linear_probe": LinearProbe,
            "tip_adapter": lambda: TipAdapter(spec.alpha, spec.beta),
            "clip_adapter": lambda: ClipAdapter(spec.bottleneck, spec.ratio),
            "task_residual": lambda: TaskResidual(spec.alpha),
            "clap": lambda: Clap(spec.anchor),
        }[spec.method]()
    return PromptsTask(classifier, loss.label_smoothing, spec.names_new_classes)
