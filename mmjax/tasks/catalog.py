"""Every task by name, and how a recipe's stage becomes one."""

from collections.abc import Mapping

from mmjax.errors import MmjaxError
from mmjax.spec import Stage
from mmjax.tasks.base import DualEncoder, Task, Tower
from mmjax.tasks.contrastive import ContrastiveTask
from mmjax.tasks.domain import DomainTask
from mmjax.tasks.language import LanguageTask
from mmjax.tasks.projection import ProjectionTask


def make_task(stage: Stage, towers: Mapping[str, Tower], base: Task | None = None) -> Task:
    """Builds the task of a stage.

    Args:
      stage: the recipe's stage.
      towers: role -> frozen tower.
      base: the task of the base that `language` and `domain` build on.

    Returns:
      The task.

    Raises:
      MmjaxError: an adapter that needs token outputs on an encoder that gives pooled ones.
    """
    if stage.task == "contrastive":
        return ContrastiveTask(
            towers["image"], towers["text"], stage.image_head, stage.text_head, stage.loss
        )
    if stage.task == "projection":
        if stage.projection.mode == "single":
            towers = {"joined": Tower("joined", sum(tower.width for tower in towers.values()))}
        return ProjectionTask(dict(towers), stage.projection)
    if stage.task == "domain":
        assert isinstance(base, DualEncoder)
        return DomainTask(base, stage.residual, stage.weighting, stage.continual, stage.loss)
    assert isinstance(base, ContrastiveTask)
    if not stage.encoders["foreign"].output.startswith("tokens"):
        raise MmjaxError(
            "config.encoders.foreign.output must be 'tokens' or 'tokens_deep': the language "
            "adapter reads each token"
        )
    return LanguageTask(towers["foreign"], base, stage.adapter, stage.loss)
