"""Every task by name: the only list of tasks there is."""

from collections.abc import Mapping
from typing import TypeAlias

from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.tasks.base import Task
from mmjax.tasks.definition import Definition
from mmjax.tasks.dual_encoder.adapted import Adapted
from mmjax.tasks.dual_encoder.definition import DualEncoders
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.instruct.definition import Instruct
from mmjax.tasks.projection.definition import Projections
from mmjax.tasks.prompts.adapted import Classifier
from mmjax.tasks.prompts.definition import Prompts
from mmjax.tasks.run import Assembly, Data, Run

AnyAdapted: TypeAlias = Adapted | Classifier | Answering
_DUAL = DualEncoders()
TASKS: Mapping[str, Definition[AnyAdapted]] = {
    "contrastive": _DUAL,
    "pretrained": _DUAL,
    "language": _DUAL,
    "domain": _DUAL,
    "prompts": Prompts(),
    "projection": Projections(),
    "instruct": Instruct(),
}


def definition_of(task: str) -> Definition[AnyAdapted]:
    """The definition of a task.

    Raises:
      MmjaxError: there is none of this name.
    """
    if task not in TASKS:
        raise MmjaxError(f"there is no task {task!r}; known: {', '.join(TASKS)}")
    return TASKS[task]


def assemble(run: Run, library: Library) -> Assembly[Task, Data]:
    """A run's task with its data and everything frozen under it; see `Definition.assemble`."""
    return definition_of(run.stage.task).assemble(run, library)
