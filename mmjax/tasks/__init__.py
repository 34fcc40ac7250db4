"""Tasks: what is trained, on which frozen features, with which objective."""

from mmjax.encoders.output import Batch, Inputs, Tower
from mmjax.tasks.base import Continual, DualEncoder, Task
from mmjax.tasks.catalog import make_instruct, make_task

__all__ = [
    "Batch",
    "Continual",
    "DualEncoder",
    "Inputs",
    "Task",
    "Tower",
    "make_instruct",
    "make_task",
]
