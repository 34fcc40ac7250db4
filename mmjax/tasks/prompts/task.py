"""Few-shot classification with a frozen dual encoder: prompts, and what they are compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs]  # it has none
from jaxtyping import Array, Float, Int, Key

from mmjax.adapters.catalog import Adapter
from mmjax.adapters.classifiers import (
    Clap,
    ClipAdapter,
    LinearProbe,
    LinearProbePlus,
    TaskResidual,
    TipAdapter,
    zero_shot,
)
from mmjax.adapters.hooks import WeightAdapter
from mmjax.adapters.prompts import (
    EncodePrompts,
    FactorisedPrompts,
    InTowerPrompts,
    Known,
    Scored,
)
from mmjax.adapters.towers import begun, within
from mmjax.encoders.base import Encoder
from mmjax.encoders.layers import Hook
from mmjax.encoders.output import ADAPTERS, Batch, EmbedFn, Inputs, Tower
from mmjax.encoders.prompted import read_embeddings, word_table
from mmjax.metrics import Mean, mean_of
from mmjax.rng import DropoutKey
from mmjax.specs.dual_encoder import LossSpec
from mmjax.specs.prompts import PromptSpec
from mmjax.tasks.base import DualEncoder, Loss, below
from mmjax.tasks.prompts.pictures import PicturesInStep
from mmjax.trees import PyTree

WordsOf = Callable[[PyTree, Int[Array, "c l"]], Float[Array, "c l d"]]


@runtime_checkable
class FewShotMethod(Protocol):
    """A method: from pictures' embeddings to logits of the classes."""

    def init(self, key: Key[Array, ""], known: Known, inputs: Mapping[str, Array]) -> PyTree:
        """What is trained, before the first step."""
        ...

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Mapping[str, Array]) -> Scored:
        """(logits [b c], penalty beside the cross-entropy)."""
        ...


@runtime_checkable
class CoupledMethod(FewShotMethod, Protocol):
    """A method with tokens in the towers' layers, which it makes of what it trains."""

    def in_towers(self, trainable: PyTree, frozen: PyTree) -> dict[str, PyTree]:
        """Role -> what the hook of a tower reads; leaves [layers, ...]."""
        ...


@dataclass(frozen=True)
class PromptsTask:
    """Cross-entropy over classes of which a few pictures and the names are known.

    The frozen tree holds `known` (see `mmjax.tasks.prompts.data`), for prompts in the tower also
    the text tower's weights by its role, `base` and `below`, and of an image tower with an adapter
    its weights as `image`; to be asked about classes that were not trained on, `new`. A batch holds
    `image` (the base's embeddings as `features`, perhaps `patches`; or pictures) and `label`.

    Attributes:
      classifier: the method.
      smoothing: of the labels.
      new_classes: whether the method says something of other classes.
      towers: role -> tower with an adapter.
      pictures: embeds pictures in the step; None where they are embedded beforehand.
      words: (frozen, ids) -> token vectors, of a text tower whose own vectors learn.
    """

    classifier: FewShotMethod
    smoothing: float = 0.0
    new_classes: bool = False
    towers: Mapping[str, Tower] = field(default_factory=dict[str, Tower])
    pictures: PicturesInStep | None = None
    words: WordsOf | None = None

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """What the method trains, and the towers' adapters where they have some."""
        adapters = begun(self.towers, key, frozen)
        inputs = self._read(within(frozen, adapters, self.towers), batch["image"])
        return adapters | jax.tree.map(
            jnp.copy, self.classifier.init(key, frozen["known"], inputs)
        )  # the state's buffers are donated, what is known must stay

    def coupled(self, trainable: PyTree, frozen: PyTree) -> dict[str, PyTree]:
        """Role -> what a method itself puts into a tower's layers; mostly nothing."""
        method = self.classifier
        return method.in_towers(trainable, frozen) if isinstance(method, CoupledMethod) else {}

    def _read(self, frozen: PyTree, inputs: Inputs) -> Inputs:
        return inputs if self.pictures is None else self.pictures(frozen, inputs)

    def _score(
        self, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Scored:
        """The method's, with the adapters in their towers; a key means dropout in them."""
        frozen = within(frozen, trainable, self.towers, key)
        frozen = within(frozen, {ADAPTERS: self.coupled(trainable, frozen)}, {})
        if self.words is not None:
            known = frozen["known"]
            own = {**known, "embeddings": self.words(frozen, known["ids"])}
            frozen = {**frozen, "known": own}
        return self.classifier.score(trainable, frozen, self._read(frozen, inputs))

    def loss(self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> Loss:
        """Mean cross-entropy of the batch, and the method's own penalty."""
        logits, penalty = self._score(trainable, frozen, batch["image"], key)
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
            return self._score(trainable, frozen, inputs)[0]

        def base(_: PyTree, frozen: PyTree, inputs: Inputs) -> Float[Array, "b c"]:
            return zero_shot(frozen["known"], self._read(frozen, inputs)["features"])

        found = {"score": adapted, "score_base": base, "score_base_new": _of_new(base)}
        return found | ({"score_new": _of_new(adapted)} if self.new_classes else {})


def _of_new(function: EmbedFn) -> EmbedFn:
    """The same, asked about the other half of the classes."""
    return lambda t, frozen, inputs: function(t, {**frozen, "known": frozen["new"]}, inputs)


def encode_prompts(
    base: DualEncoder,
    encoder: Encoder,
    output: str = "pooled",
    adapter: Adapter | Hook | None = None,
) -> EncodePrompts:
    """The frozen text tower and the base's own head, from token vectors on.

    Args:
      base: gives the joint space.
      encoder: the text encoder; only its module is used, the weights are an argument.
      output: which of the encoder's outputs the base reads: a language adapter reads each token.
      adapter: inside the encoder; its parameters are among what is frozen.

    Returns:
      (frozen, token vectors, ids, mask) -> unit vectors.
    """
    role = base.text_role
    tower = encoder if adapter is None else encoder.with_hook(adapter)

    def encode(frozen: PyTree, embeddings: Any, ids: Any, mask: Any) -> Float[Array, "n e"]:
        own = frozen.get(ADAPTERS, {}).get(role)
        read, tokens = read_embeddings(tower, frozen[role], embeddings, ids, mask, own, output)
        inputs = {"features": read}
        if output.startswith("tokens"):
            inputs["mask"] = tokens.astype(bool)
        found = base.embed(role, frozen["base"], below(frozen), inputs)
        return base.normalize(found)

    return encode


def words_of_tower(encoder: Encoder, adapter: WeightAdapter, role: str) -> WordsOf:
    """A text tower's own token vectors, which an adapter of its weights moves."""

    def words(frozen: PyTree, ids: Int[Array, "c l"]) -> Float[Array, "c l d"]:
        params = adapter.tuned(frozen[role], frozen[ADAPTERS][role])
        return word_table(params)[ids]

    return words


def make_prompts_task(
    spec: PromptSpec,
    loss: LossSpec,
    encode: Callable[[], EncodePrompts],
    towers: Mapping[str, Tower] | None = None,
    pictures: PicturesInStep | None = None,
    words: WordsOf | None = None,
    couple: Callable[[InTowerPrompts], FewShotMethod] | None = None,
) -> PromptsTask:
    """The task of a method.

    Args:
      spec: which method, with its sizes.
      loss: label smoothing.
      encode: makes the text tower; called where a method reads it in a step.
      towers: those with an adapter.
      pictures: embeds pictures in the step.
      words: a text tower's token vectors that learn.
      couple: adds what learns in the image tower's layers; for `maple`.

    Returns:
      The task.
    """
    if spec.in_tower:
        plain = spec.method != "structured"
        prompts = InTowerPrompts(
            encode(),
            spec.general,
            0 if plain else spec.instance,
            spec.domain,
            spec.method == "cocoop",
            spec.anchor,
            spec.chunk,
        )
        classifier: FewShotMethod = prompts
        if spec.couples:
            assert couple is not None
            classifier = couple(prompts)
    else:
        classifier = {
            "factorised": lambda: FactorisedPrompts(
                spec.general > 0, spec.domain, spec.instance, spec.attention, spec.alpha
            ),
            "linear_probe": LinearProbe,
            "linear_probe_plus": LinearProbePlus,
            "tip_adapter": lambda: TipAdapter(spec.alpha, spec.beta),
            "clip_adapter": lambda: ClipAdapter(spec.bottleneck, spec.ratio),
            "task_residual": lambda: TaskResidual(spec.alpha),
            "clap": lambda: Clap(spec.anchor),
        }[spec.method]()
    new = spec.names_new_classes
    return PromptsTask(classifier, loss.label_smoothing, new, towers or {}, pictures, words)
