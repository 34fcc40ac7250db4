"""Visual instructions: a frozen language model learns to answer about what a frozen ViT sees."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, Shaped

from mmjax.adapters.catalog import Adapter, make_adapter
from mmjax.adapters.hooks import LayerAdapter
from mmjax.adapters.lora import Lora
from mmjax.adapters.multimodal import Multimodal, place_images
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders.base import Encoder
from mmjax.encoders.inserted import TokenHook
from mmjax.encoders.language_model import embed, extend, logits, read_tiles
from mmjax.encoders.llava import Llava
from mmjax.encoders.output import Batch, Inputs
from mmjax.encoders.vision import VisionTransformer, class_tokens
from mmjax.errors import MmjaxError, check, setting
from mmjax.generation import sampling
from mmjax.losses.language_modeling import answer_hidden, next_token
from mmjax.metrics import Metrics
from mmjax.rng import DropoutKey
from mmjax.specs.instruct import OWN, InstructSpec
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.tasks.adapting import adapter_in
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

        def cast(x: Array) -> Array:
            return x.astype(self.language.param_dtype)  # type: ignore[attr-defined]

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

    def answer_logits(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: DropoutKey = None
    ) -> Float[Array, "b a v"]:
        """Logits of the answers' tokens alone, float32 [b, a, v]; a key means dropout."""
        text, frozen = batch["text"], self.whole(trainable, frozen)
        language, vision = self.parts.training(trainable, key, self._layers)
        pictures = None
        if "image" in batch:
            pictures = self.image_tokens(trainable, vision, frozen, batch["image"])
            pictures = jnp.repeat(pictures, len(text["input_ids"]) // len(pictures), axis=0)
        first = trainable["modality"]["embedding"][text["modality"]] if self.parts.routed else None
        words = embed(self.language, frozen["language"], text["input_ids"])
        x = place_images(words, pictures, text["image_slot"], first)
        padding = "right, first hidden" if self.parts.routed else "right"
        mask = text["attention_mask"]
        hidden, _ = extend(self.language, frozen["language"], language, x, mask, padding=padding)
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


@dataclass(frozen=True)
class LlavaTask(InstructTask):
    """Adapters in a LLaVA's decoder and image tower, or its own weights, or both.

    In the frozen tree `language` is the decoder's, `image` all else: `vision`, the projector. A
    batch's `pixel_values` [m, t, h, w, 3] are the tiles of m pictures; `image_slot` is a place as
    in `Llava.mix`, counted in the row's own picture.
    """

    @staticmethod
    def seeing(vision: nn.Module, parts: Multimodal) -> nn.Module:
        """The LLaVA with an adapter in its image tower."""
        return typed.clone(vision, vision_hook=parts.vision)

    @property
    def _layers(self) -> tuple[int, int]:
        config = self.vision.config  # type: ignore[attr-defined]
        return config.text.num_layers, config.vision.num_layers

    def tower(self, image: PyTree) -> PyTree:
        """The image tower's own parameters."""
        return image["vision"]

    def image_tokens(
        self, trainable: PyTree, adapters: PyTree, frozen: PyTree, inputs: Inputs
    ) -> Float[Array, "m t d"]:
        """What a text may read of each picture: what ends a row of patches, then all patches."""
        image, tiles = self.whole(trainable, frozen)["image"], inputs["pixel_values"]
        m, t = tiles.shape[:2]
        squares = tiles.reshape(m * t, *tiles.shape[2:])
        patches = read_tiles(self.vision, image, squares, adapters)
        width = patches.shape[-1]
        newline = image.get("image_newline", jnp.zeros(width)).astype(patches.dtype)
        first = jnp.broadcast_to(newline[None, None], (m, 1, width))
        return jnp.concatenate([first, patches.reshape(m, -1, width)], axis=1)


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def make_instruct(stage: Stage, language: Encoder, vision: Encoder) -> InstructTask:
    """Builds the task of an `instruct` stage.

    Args:
      stage: the recipe's stage.
      language: the frozen language model; a LLaVA's decoder.
      vision: the frozen vision transformer; a LLaVA, for its other half.

    Returns:
      The task.

    Raises:
      MmjaxError: an encoder of another kind than its role needs, or nothing that learns.
    """
    spec, parts = stage.instruct, parts_of(stage.instruct)
    if stage.adapters:
        own = {role: _named(stage, role) for role in ("language", "image")}
        parts = dataclasses.replace(parts, language=own["language"], vision=own["image"])
    module = vision.module
    if not isinstance(module, Llava | VisionTransformer):
        raise MmjaxError(
            f"{setting('encoders.image')} is {vision.name!r}, a {vision.family} "
            "encoder; the instruct task needs a vision transformer"
        )
    inline, weights = isinstance(module, Llava), _weights(spec, language, vision)
    if inline:
        parts = dataclasses.replace(parts, taps=0)
        expected = "False: a LLaVA's pictures are read in every step"
        check(not stage.train.cache_features, "train.cache_features", True, expected)
        expected = "an adapter: nothing of a LLaVA learns with 'none' and train='adapter'"
        check(bool(weights) or parts.language is not None, "instruct.adapter", "none", expected)
    else:
        parts.tapped(vision.config.num_layers)
        good = spec.train != "projector" or spec.adapter == "none"
        expected = "'none' with train='projector': LaVIN's projection learns beside adapters anyway"
        check(good, "instruct.adapter", spec.adapter, expected)
    task = LlavaTask if inline else InstructTask
    return task.of(parts, language.module, module, spec.remat, weights)


def _weights(spec: InstructSpec, language: Encoder, vision: Encoder) -> tuple[tuple[str, str], ...]:
    """Which weights of the frozen models learn; see `InstructTask.weights`."""
    inline, weights = isinstance(vision.module, Llava), list[tuple[str, str]]()
    if spec.train == "full":
        weights += [("language", name) for name in language.params]
    if spec.train != "adapter":
        whole = spec.train == "full" and spec.visual
        names = [n for n in vision.params if whole or (inline and n != "vision")]
        weights += [("image", name) for name in names]
    params = {"language": language.params, "image": vision.params}
    learned = [params[role][name] for role, name in weights]
    small = any(not jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(learned))
    expected = f"'adapter' with {setting('encoders.language.quantize')}: int8 does not learn"
    check(not small, "instruct.train", spec.train, expected)
    return tuple(weights)


def parts_of(spec: InstructSpec) -> Multimodal:
    """What an `instruct` stage trains, but for what `adapters` puts into its encoders."""
    return Multimodal(
        adapter_of(spec, "language"),
        adapter_of(spec, "image") if spec.visual else None,
        spec.taps,
        spec.hidden,
        spec.tap_layers,
        spec.norm_taps,
    )


def _named(stage: Stage, role: str) -> LayerAdapter | None:
    """The adapter that `adapters` puts into a tower.

    Raises:
      MmjaxError: one of its weights or of tokens in front of the text.
    """
    adapter = adapter_in(stage, role)
    if adapter is None:
        return None
    kind, where = stage.adapters[role]["kind"], f"adapters.{role}.kind"
    prompt = role == "language" and isinstance(adapter, TokenHook)
    check(not prompt, where, kind, "'prefix_tuning': answers are written from a cache")
    return _of_layers(adapter, kind, where)


def _of_layers(adapter: Adapter, kind: str, where: str) -> LayerAdapter:
    """The adapter, if it sits in layers."""
    hook = isinstance(adapter, LayerAdapter)
    check(hook, where, kind, "an adapter of layers; instruct.train='full' learns the weights")
    assert isinstance(adapter, LayerAdapter)
    return adapter


def adapter_of(spec: InstructSpec, role: str) -> LayerAdapter | None:
    """The adapter in the layers of one tower."""
    if spec.adapter == "none":
        return None
    if spec.adapter == "lora":
        targets = spec.targets if role == "language" else ("query", "value")
        return Lora(spec.rank, spec.alpha, spec.dropout, targets)
    if spec.adapter not in OWN:
        made = make_adapter(spec.adapter, spec.adapter_settings, "instruct.adapter")
        return _of_layers(made, spec.adapter, "instruct.adapter")
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
