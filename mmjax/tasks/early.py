"""What a run can be refused for before its first expensive step, the frozen encoders' features.

First what records, splits and sizes say, with nothing loaded; then what the loaded encoders and the
finished bases below them say, with nothing computed. A start that is refused here has written
nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from mmjax.data.library import Library
from mmjax.errors import MmjaxError, setting, settings_of
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.base import Task
from mmjax.tasks.cards import check_encoder
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.dual_encoder.stacking import load_base
from mmjax.tasks.run import Run
from mmjax.tracking import check_trackers


def check_early(recipe: Recipe, runs: Sequence[Run], library: Library) -> None:
    """Refuses what can be known to fail.

    Args:
      recipe: what is to be trained.
      runs: all of it, in order.
      library: loads records and encoders once; training goes on with them.

    Raises:
      MmjaxError: says which setting of which part of the recipe, or which file.
    """
    check_trackers(recipe.trackers)
    check_asked(recipe, library)
    for run in _main_first(recipe, runs):
        with settings_of(part_of(recipe, run.stage)):
            definition_of(run.stage.task).check(run, library)
    tasks: dict[Path, Task] = {}
    for run in _main_first(recipe, runs):
        with settings_of(part_of(recipe, run.stage)):
            _check_cached_below(run)
            base = _base(run, tasks, library)
            tasks[run.adapter] = definition_of(run.stage.task).task(run, base, library)


def check_asked(recipe: Recipe, library: Library) -> None:
    """Refuses an evaluation that lacks what it needs; see `Definition.check_asked`."""
    definition_of(recipe.main.task).check_asked(recipe, library)


def part_of(recipe: Recipe, stage: Stage) -> str:
    """The part of a recipe that a stage's settings stand in; "" for the recipe itself."""
    if stage is recipe.main:
        return ""
    if stage.name in recipe.links:
        return ".".join(["base"] * (len(recipe.links) - recipe.links.index(stage.name)))
    return f"variants.{stage.name}"


def _check_cached_below(run: Run) -> None:
    """Refuses to stand on outputs that a cache would hold without the adapters inside.

    Raises:
      MmjaxError: says which adapters.
    """
    below = {} if run.base is None else run.base.stage.adapters
    if below:
        raise MmjaxError(
            f"the base of this stage has adapters inside its encoders ({', '.join(sorted(below))})"
            f"; {setting('train.cache_features')} would read their outputs without them. Put the "
            f"adapters into this stage instead: {setting('adapters')}"
        )


def _main_first(recipe: Recipe, runs: Sequence[Run]) -> list[Run]:
    """The runs, variants last: what is wrong with the main stage is no variant's fault."""
    return sorted(runs, key=lambda run: part_of(recipe, run.stage).startswith("variants."))


def _base(run: Run, tasks: dict[Path, Task], library: Library) -> Task | None:
    """The task of a run's base, with encoders that are those it was trained on."""
    if run.base is None:
        return None
    base = tasks.get(run.base.adapter)
    if base is not None:
        return base
    # Of another run folder: finished, or it is no base.
    stage = run.stage
    towers = {role: library.tower(role, spec, None) for role, spec in stage.encoders.items()}
    base, _, card = load_base(run.base.adapter, towers, library.mesh)
    for role in card["encoders"].keys() & stage.encoders.keys():
        allowed, spec = run.recipe.allow_other_encoder, stage.encoders[role]
        check_encoder(library, card, role, spec, allowed, run.base.adapter)
    return base
