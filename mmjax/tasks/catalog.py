"""Every task by name, and how a recipe's stage becomes one."""

from collections.abc import Mapping

from jax.sharding import Mesh

from mmjax.errors import MmjaxError
from mmjax.spec import Stage
from mmjax.tasks.base import DualEncoder, Task, Tower
from mmjax.tasks.contrastive import ContrastiveTask
from mmjax.tasks.domain import DomainTask
from mmjax.tasks.language import LanguageTask


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
      MmjaxError: an adapter that needs token outputs on an encoder that gives pooled ones.
    """
    ring = mesh if mesh is not None and mesh.shape["data"] > 1 else None
    if stage.task == "contrastive":
        heads = stage.image_head, stage.text_head
        return ContrastiveTask(towers["image"], towers["text"], *heads, stage.loss, ring)
    if stage.task == "domain":
        assert isinstance(base, DualEncoder)
        trained = stage.residual, stage.weighting, stage.continual, stage.loss
        return DomainTask(base, *trained, ring)
    assert isinstance(base, ContrastiveTask)
    if not stage.encoders["foreign"].output.startswith("tokens"):
        raise MmjaxError(
            "config.encoders.foreign.output must be 'tokens' or 'tokens_deep': the language "
            "adapter reads each token"
        )
    return LanguageTask(towers["foreign"], base, stage.adapter, stage.loss)
