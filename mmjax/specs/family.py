"""What a task says of its settings, and the refusals that several tasks share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mmjax import plugins
from mmjax.errors import check
from mmjax.specs.adapters import ADAPTERS

if TYPE_CHECKING:
    from mmjax.specs.spec import Stage

Names: TypeAlias = tuple[str, ...]
RETRIEVAL: Names = ("retrieval", "zeroshot", "classification")


@dataclass(frozen=True)
class TaskSettings:
    """The settings of one task.

    Attributes:
      roles: each set of encoders' roles that it takes.
      check: refuses a stage whose settings do not fit each other; raises MmjaxError.
      evals: of a stage: the evaluators it may be measured by, and those it is measured by where a
        recipe names none.
      other_evals: whether evaluators of other packages may stand beside them.
      stands_on: tasks whose adapters it may stand on; nothing stands on itself, however far down.
      needs_base: whether it cannot do without one.
      learns_labels: whether it learns the items' labels, so that it needs some.
      own_encoders: whether its encoders may be others than those of the stage it stands on.
      benchmarks: whether `config.benchmarks` is for it.
      in_step: of a stage: encoders into which the task itself puts what learns, so that they run in
        every step.
      inside: roles of towers that another encoder may have inside it; `adapters` may name them.
      on_card: keys that its adapter's card must hold beside those of every card.
      settings: dataclass of what a recipe says under `config.settings`; for tasks of other
        packages, whose stages have no field of their own.
    """

    roles: tuple[frozenset[str], ...]
    check: Callable[[Stage], None]
    evals: Callable[[Stage], tuple[Names, Names]] = lambda _: (RETRIEVAL, RETRIEVAL[:2])
    other_evals: bool = False
    stands_on: Names = ()
    needs_base: bool = False
    own_encoders: bool = False
    learns_labels: bool = False
    benchmarks: bool = True
    in_step: Callable[[Stage], Names] = lambda _: ()
    inside: Names = ()
    on_card: Names = ()
    settings: type[Any] | None = None


def refuse_others(stage: Stage, own: Collection[str] = ()) -> None:
    """Refuses settings that are for other tasks.

    Args:
      stage: the settings.
      own: those of them that are for this task all the same.

    Raises:
      MmjaxError: names the setting.
    """
    train, kind, share = stage.train, stage.loss.kind, stage.pairs.train_fraction
    if "loss.kind" not in own:
        check(kind == "contrastive", "loss.kind", kind, "'contrastive' for this task")
    if "train.accumulate" not in own:
        check(train.accumulate == 1, "train.accumulate", train.accumulate, "1 for this task")
    if "adapters" not in own:
        check_adapters(stage, (), "this task trains on outputs that are computed once")
    if "pairs.train_fraction" not in own:
        check(share == 1, "pairs.train_fraction", share, "1 for this task")


def check_kinds(stage: Stage, inside: Names = ()) -> None:
    """Refuses adapters in encoders that are not there, and kinds that nobody knows.

    Args:
      stage: the settings.
      inside: as of `TaskSettings`.

    Raises:
      MmjaxError: names the setting.
    """
    roles = sorted({*stage.encoders, *inside})
    for role, values in stage.adapters.items():
        place = f"adapters.{role}"
        check(role in roles, place, values, f"adapters of the encoders {roles} alone")
        kind = values.get("kind", "")
        kinds = list(ADAPTERS)
        # Another package's is imported by the task, before it trains.
        good = isinstance(kind, str) and (kind in kinds or plugins.may_be(kind, plugins.ADAPTERS))
        kinds += () if good else plugins.installed(plugins.ADAPTERS)
        check(good, f"{place}.kind", kind, f"one of {kinds}, or package.module:Name")


def check_adapters(stage: Stage, roles: Collection[str], why: str) -> None:
    """Refuses adapters where a task has no place for them.

    Args:
      stage: the settings.
      roles: encoders that may have one.
      why: ends the sentence about the others.

    Raises:
      MmjaxError: names the setting.
    """
    for role, values in stage.adapters.items():
        check(role in roles, f"adapters.{role}", values.get("kind"), f"no adapter: {why}")


def check_select(stage: Stage, choices: Names, expected: str = "") -> None:
    """Refuses to choose the best step by what this task does not measure.

    Raises:
      MmjaxError: names the setting.
    """
    select = stage.train.select
    check(select in choices, "train.select", select, expected or f"one of {choices} for this task")


def check_sides(stage: Stage, trains: bool = True, chosen: bool = True) -> None:
    """Refuses pairs that lack a side which the stage reads.

    Args:
      stage: the settings.
      trains: whether it trains on pairs.
      chosen: whether its best step is chosen on them.

    Raises:
      MmjaxError: names the setting.
    """
    sides = stage.pairs.sides
    if trains:
        check("train" in sides, "pairs.sides", sides, "'train' too: this stage trains on pairs")
    if chosen:
        expected = "'train' or 'val' too (or parallel.val_pairs): the best step is chosen on them"
        check(len(set(sides) & {"train", "val"}) > 0, "pairs.sides", sides, expected)
