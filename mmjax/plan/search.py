"""Which mesh and which micro-batches: those that divide are tried, the best that fits is named."""

from collections.abc import Iterator
from dataclasses import replace

from mmjax.errors import MmjaxError
from mmjax.plan.planning import Plan, Planner, with_mesh
from mmjax.specs.recipe import Recipe


def candidates(recipe: Recipe, devices: int, slices: int = 1) -> Iterator[tuple[int, int, int]]:
    """(data, model, accumulate) that divide, the recipe's own micro-batches first.

    Args:
      recipe: its batches must divide over `data` and the micro-batches.
      devices: of the topology.
      slices: `model` stays within one.
    """
    train = recipe.main.train
    model = 1
    while model <= devices // slices:
        data = devices // model
        if data * model == devices:
            for accumulate in (train.accumulate, 2 * train.accumulate, 4 * train.accumulate):
                if train.batch_size % (data * accumulate) or not _takes(recipe, accumulate):
                    continue
                yield data, model, accumulate
        model *= 2


def _takes(recipe: Recipe, accumulate: int) -> bool:
    """Whether the recipe's tasks take such micro-batches."""
    try:
        with_mesh(recipe, -1, 1, accumulate)
    except MmjaxError:
        return False
    return True


def search(planner: Planner, recipe: Recipe) -> list[Plan]:
    """Plans every candidate's train steps.

    Args:
      planner: of a topology.
      recipe: what is run.

    Returns:
      Plans, the best first: those that fit by the time of a step, then the others by memory.

    Raises:
      MmjaxError: no mesh divides the recipe's batch.
    """
    plans = []
    steps = replace(planner, only=planner.only or "train step")
    for data, model, accumulate in candidates(
        recipe, planner.topology.devices, planner.topology.slices
    ):
        plans.append(steps.plan(with_mesh(recipe, data, model, accumulate)))
    if not plans:
        raise MmjaxError(
            f"no mesh over the {planner.topology.devices} devices of {planner.topology} divides "
            f"config.train.batch_size={recipe.main.train.batch_size}; choose a multiple of it"
        )
    return sorted(plans, key=lambda plan: (not plan.fits, plan.step if plan.fits else _worst(plan)))


def change_for(planner: Planner, recipe: Recipe, plan: Plan) -> str:
    """The smallest change that makes a plan fit, proved by planning it.

    Args:
      planner: of the topology.
      recipe: what did not fit.
      plan: of it.

    Returns:
      Flags; "" where none of those that divide fits.
    """
    failing = [line.program for line in plan.lines if not line.fits]
    steps = replace(planner, only=failing[0]) if failing else planner
    for data, model, accumulate in candidates(
        recipe, planner.topology.devices, planner.topology.slices
    ):
        if model < plan.model or (model == plan.model and accumulate <= plan.accumulate):
            continue
        if steps.plan(with_mesh(recipe, data, model, accumulate)).fits:
            flags = [f"--config.mesh.model={model}"] if model != plan.model else []
            if accumulate != recipe.main.train.accumulate:
                flags.append(f"--config.train.accumulate={accumulate}")
            return " ".join(flags)
    return ""


def _worst(plan: Plan) -> float:
    return max(line.share for line in plan.lines)
