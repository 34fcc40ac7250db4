"""A dual encoder's run put together."""

from typing import TypeAlias

from mmjax.data.library import Library
from mmjax.evals import Evaluator, Retrieval, TextRetrieval
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import weights_in_step
from mmjax.tasks.base import Task
from mmjax.tasks.dual_encoder.data import PairsData, System, prepare
from mmjax.tasks.dual_encoder.stacking import load_base, make_task
from mmjax.tasks.run import Assembly, Run
from mmjax.trees import PyTree

Joined: TypeAlias = Assembly[Task, PairsData]


def assemble_dual_encoder(run: Run, library: Library) -> Joined:
    """Builds the task, its data and its frozen tree.

    Args:
      run: a stage with a seed.
      library: loads encoders and tables once.

    Returns:
      The assembly; `frozen` lies on the mesh.
    """
    stage = run.stage
    below = run.base.stage if run.base is not None else None
    data = prepare(stage, run.recipe, run.seed, library, below)
    frozen: dict[str, PyTree] = {}
    base_task = base_card = None
    if run.base is not None:
        base_task, frozen, base_card = load_base(run.base.adapter, data.towers, library.mesh)
    frozen |= weights_in_step(stage, library)
    return Assembly(
        make_task(stage, data.towers, base_task, library.mesh),
        data,
        frozen,
        base_card,
        evaluators=_evaluators(stage, data.val),
        prior=data.prior,
    )


def _evaluators(stage: Stage, val: System | None) -> list[Evaluator]:
    """What is measured on the validation items while training."""
    if val is None:
        return []
    evaluators: list[Evaluator] = [Retrieval()] if len(val.data.images) else []
    pairs = stage.task == "language" and len(val.data.base_texts) > 0
    return [*evaluators, TextRetrieval()] if pairs else evaluators
