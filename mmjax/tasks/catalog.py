"""Every task by name: the only list of tasks there is."""

from mmjax import plugins
from mmjax.data.library import Library
from mmjax.tasks.base import Task
from mmjax.tasks.definition import Definition
from mmjax.tasks.run import Assembly, Data, Run

_DUAL = "mmjax.tasks.dual_encoder.definition:DUAL_ENCODERS"
TASKS = plugins.Catalog[Definition[object]](
    plugins.TASKS,
    "a task",
    Definition,
    {
        "contrastive": _DUAL,
        "pretrained": _DUAL,
        "language": _DUAL,
        "domain": _DUAL,
        "prompts": "mmjax.tasks.prompts.definition:PROMPTS",
        "projection": "mmjax.tasks.projection.definition:PROJECTIONS",
        "instruct": "mmjax.tasks.instruct.definition:INSTRUCT",
    },
)


def definition_of(task: str) -> Definition[object]:
    """The definition of a task; see `mmjax.plugins.Catalog.find`."""
    return TASKS.find(task, "task")


def assemble(run: Run, library: Library) -> Assembly[Task, Data]:
    """A run's task with its data and everything frozen under it; see `Definition.assemble`."""
    return definition_of(run.stage.task).assemble(run, library)
