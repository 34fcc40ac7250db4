"""An `instruct` stage's task, made of its settings and its frozen models."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.adapters.catalog import Adapter, make_adapter
from mmjax.adapters.hooks import LayerAdapter
from mmjax.adapters.lora import Lora
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders.base import Encoder
from mmjax.encoders.inserted import TokenHook
from mmjax.encoders.llava import ReadsPictures
from mmjax.encoders.vision import VisionTransformer
from mmjax.errors import MmjaxError, check, setting
from mmjax.specs.instruct import OWN, InstructSpec
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import adapter_in
from mmjax.tasks.instruct.own_tower import OwnTowerTask
from mmjax.tasks.instruct.task import InstructTask, frozen_tree


def make_instruct(stage: Stage, language: Encoder, vision: Encoder) -> InstructTask:
    """Builds the task of an `instruct` stage.

    Args:
      stage: the recipe's stage.
      language: the frozen language model; a decoder of one that has an image tower of its own.
      vision: the frozen vision transformer; that model, for its other half.

    Returns:
      The task.

    Raises:
      MmjaxError: an encoder of another kind than its role needs, an adapter that has no place in
        it, or nothing that learns.
    """
    spec, parts = stage.instruct, parts_of(stage.instruct)
    if stage.adapters:
        own = {role: _named(stage, role) for role in ("language", "image")}
        parts = dataclasses.replace(parts, language=own["language"], vision=own["image"])
    module = vision.module
    if not isinstance(module, ReadsPictures | VisionTransformer):
        raise MmjaxError(
            f"{setting('encoders.image')} is {vision.name!r}, a {vision.family} "
            "encoder; the instruct task needs a vision transformer"
        )
    weights = _weights(spec, language, vision)
    if isinstance(module, ReadsPictures):
        parts = dataclasses.replace(parts, taps=0)
        _check_tower(stage, parts, module, vision.family)
        expected = f"False: a {vision.family}'s pictures are read in every step"
        check(not stage.train.cache_features, "train.cache_features", True, expected)
        expected = f"an adapter: nothing of a {vision.family} learns with 'none', train='adapter'"
        adapted = parts.language is not None or parts.vision is not None
        check(bool(weights) or adapted, "instruct.adapter", "none", expected)
    else:
        parts.tapped(vision.config.num_layers)
        good = spec.train != "projector" or spec.adapter == "none"
        expected = "'none' with train='projector': LaVIN's projection learns beside adapters anyway"
        check(good, "instruct.adapter", spec.adapter, expected)
    task = OwnTowerTask if isinstance(module, ReadsPictures) else InstructTask
    return task.of(parts, language.module, module, spec.remat, weights)


def _check_tower(stage: Stage, parts: Multimodal, module: ReadsPictures, family: str) -> None:
    """Refuses an adapter that has no place in a model's own image tower."""
    named = "image" in stage.adapters
    where = "adapters.image.kind" if named else "instruct.adapter"
    kind = stage.adapters["image"]["kind"] if named else stage.instruct.adapter
    other = "leave adapters.image out" if named else f"set --{setting('instruct.visual')}=False"
    good = module.inserts or not isinstance(parts.vision, TokenHook)
    check(good, where, kind, f"no tokens in the image tower of a {family}: {other}")
    routed = isinstance(parts.vision, RepAdapter) and parts.vision.experts > 1
    expected = f"no router in the image tower of a {family}, whose rows hold several pictures"
    check(not (module.packs and routed), where, kind, f"{expected}: 'single', or {other}")


def _weights(spec: InstructSpec, language: Encoder, vision: Encoder) -> tuple[tuple[str, str], ...]:
    """Which weights of the frozen models learn; see `InstructTask.weights`."""
    own, weights = isinstance(vision.module, ReadsPictures), list[tuple[str, str]]()
    if spec.train == "full":
        weights += [("language", name) for name in language.params]
    if spec.train != "adapter":
        whole = spec.train == "full" and spec.visual
        names = [n for n in vision.params if whole or (own and n != "vision")]
        weights += [("image", name) for name in names]
    params = frozen_tree(language, vision)
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
