"""Every task by name, and how a recipe's stage becomes one."""

import math
from collections.abc import Mapping

from jax.sharding import Mesh

from mmjax.errors import MmjaxError
from mmjax.spec import Stage
from mmjax.tasks.base import DualEncoder, Task, TextSpace, Tower
from mmjax.tasks.contrastive import ContrastiveTask
from mmjax.tasks.domain import DomainTask
from mmjax.tasks.language import LanguageTask
from mmjax.tasks.pretrained import PretrainedTask
from mmjax.tasks.projection import ProjectionTask


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
                "config.residual.tune is 'heads', but a pretrained base has none; set it to "
                "'adapter'"
            )
        trained = stage.residual, stage.weighting, stage.continual, stage.loss
        return DomainTask(base, *trained, ring)
    assert isinstance(base, TextSpace)
    if not stage.encoders["foreign"].output.startswith("tokens"):
        raise MmjaxError(
            "config.encoders.foreign.output must be 'tokens' or 'tokens_deep': the language "
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
