"""Every task by name, and how a recipe's stage becomes one."""

import math
from collections.abc import Mapping

from jax.sharding import Mesh

from mmjax.adapters.hooks import LayerAdapter
from mmjax.adapters.lora import Lora
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders import Encoder
from mmjax.encoders.llama import Llama
from mmjax.encoders.output import Tower
from mmjax.encoders.vision import VisionTransformer
from mmjax.errors import MmjaxError, setting
from mmjax.specs.instruct import InstructSpec
from mmjax.specs.spec import Stage
from mmjax.tasks.base import DualEncoder, Task, TextSpace
from mmjax.tasks.dual_encoder.contrastive import ContrastiveTask
from mmjax.tasks.dual_encoder.domain import DomainTask
from mmjax.tasks.dual_encoder.language import LanguageTask
from mmjax.tasks.dual_encoder.pretrained import PretrainedTask
from mmjax.tasks.instruct.task import InstructTask
from mmjax.tasks.projection.task import ProjectionTask


def make_task(
    stage: Stage,
    towers: Mapping[str, Tower],
    base: Task | None = None,
    mesh: Mesh | None = None,
) -> Task:
    """Builds the task of a stage.

    Args:
      stage: the recipe's stage.
      towers: role -> frozen tower.
      base: the task of the base that `language` and `domain` build on.
      mesh: of the batches; a contrastive loss goes round its data axis.

    Returns:
      The task.

    Raises:
      MmjaxError: an adapter that needs token outputs on an encoder that gives pooled ones; towers
        that share no space; heads to be tuned where the base has none.
    """
    ring = mesh if mesh is not None and mesh.shape["data"] > 1 else None
    if stage.task == "contrastive":
        heads = stage.image_head, stage.text_head
        return ContrastiveTask(towers["image"], towers["text"], *heads, stage.loss, ring)
    if stage.task == "pretrained":
        return _pretrained(stage, towers["image"], towers["text"])
    if stage.task == "projection":
        if stage.projection.mode == "single":
            towers = {"joined": Tower("joined", sum(tower.width for tower in towers.values()))}
        return ProjectionTask(dict(towers), stage.projection, ring)
    if stage.task == "domain":
        assert isinstance(base, DualEncoder)
        if stage.residual.tune == "heads" and isinstance(base, PretrainedTask):
            raise MmjaxError(
                f"{setting('residual.tune')} is 'heads', but a pretrained base has none; set it to "
                "'adapter'"
            )
        trained = stage.residual, stage.weighting, stage.continual, stage.loss
        return DomainTask(base, *trained, ring)
    assert isinstance(base, TextSpace)
    if not stage.encoders["foreign"].output.startswith("tokens"):
        raise MmjaxError(
            f"{setting('encoders.foreign.output')} must be 'tokens' or 'tokens_deep': the language "
            "adapter reads each token"
        )
    return LanguageTask(towers["foreign"], base, stage.adapter, stage.loss, ring)


def _pretrained(stage: Stage, image: Tower, text: Tower) -> PretrainedTask:
    if image.width != text.width:
        sizes = f"{image.width} and {text.width} dimensions"
        raise MmjaxError(
            f"the towers of {stage.encoders['image'].source} and {stage.encoders['text'].source} "
            f"embed in {sizes}, so they share no space; name the two towers of one model, or join "
            "them with a base of task 'contrastive'"
        )
    known = [t.logit_scale for t in (image, text) if t.logit_scale is not None]
    fixed = -math.log(stage.loss.init_temperature)
    return PretrainedTask(image, text, known[0] if known else fixed)


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
