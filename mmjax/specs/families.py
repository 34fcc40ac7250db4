"""Every task's settings by name."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from mmjax import plugins
from mmjax.specs import dual_encoder, instruct, projection, prompts
from mmjax.specs.family import TaskSettings

FAMILIES: Mapping[str, TaskSettings] = {
    "contrastive": dual_encoder.CONTRASTIVE,
    "pretrained": dual_encoder.PRETRAINED,
    "language": dual_encoder.LANGUAGE,
    "domain": dual_encoder.DOMAIN,
    "projection": projection.FAMILY,
    "prompts": prompts.FAMILY,
    "instruct": instruct.FAMILY,
}


@runtime_checkable
class HasFamily(Protocol):
    """A task of another package; `mmjax.tasks.definition.Definition` says what else it has."""

    @property
    def family(self) -> TaskSettings:
        """Its settings."""
        ...


# Those of other packages: a recipe is read without what trains and measures the tasks of mmjax.
_OTHERS = plugins.Catalog[HasFamily](plugins.TASKS, "a task", HasFamily, {}, tuple(FAMILIES))


def family_of(task: str) -> TaskSettings:
    """The settings of a task.

    Args:
      task: one of mmjax's, of an installed package's, or `package.module:Name`.

    Raises:
      MmjaxError: there is none of this name.
    """
    return FAMILIES[task] if task in FAMILIES else _OTHERS.find(task, "task").family


def main_name(task: str) -> str:
    """What the stage is called that a recipe of this task is about."""
    return task.rpartition(":")[2]


def task_names() -> list[str]:
    """Every task that has a name."""
    return _OTHERS.names()
