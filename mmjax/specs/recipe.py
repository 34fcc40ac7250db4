"""A whole recipe, read from its configuration.

A recipe file returns an `ml_collections.ConfigDict`. `resolve_recipe` turns it into a
`Recipe` once, at the door; nothing behind it sees a ConfigDict.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, cast

from mmjax import plugins
from mmjax.checks.names import check_different, check_name
from mmjax.errors import MmjaxError, check
from mmjax.specs import bounds
from mmjax.specs.bounds import Natural, Seed
from mmjax.specs.build import as_dict, build, convert
from mmjax.specs.families import family_of, main_name
from mmjax.specs.spec import MeshSpec, Stage, read_stage


@dataclass(frozen=True)
class BenchmarksSpec:
    """Further test sets of pictures, measured beside the recipe's own.

    Attributes:
      retrieval: sources as of `PairsSpec.source`; of those that come split the test side.
      classification: folders in ImageNet's or ELEVATER's layout; see
        `mmjax.data.corpora.class_folders`.
      names: file of the classes' names in the added language, in each of these folders.
      templates: texts with `{}` for the name, or .txt files of them (looked for in each folder
        first); a class is the normalised mean over all.
      base_names: as `names`, in the language of the base; a folder without it has no ceiling.
      base_templates: as `templates`, for those.
      limit: at most so many pictures of each set (0: all); for quick tries.
    """

    retrieval: tuple[str, ...] = ()
    classification: tuple[str, ...] = ()
    names: str = "label_cn.txt"
    templates: tuple[str, ...] = ("{}",)
    base_names: str = "label.txt"
    base_templates: tuple[str, ...] = ("{}",)
    limit: Natural = 0


@dataclass(frozen=True)
class CheckpointSpec:
    """Which checkpoints a run goes on from; see `Recipe`."""

    allow_other_encoder: bool = False


@dataclass(frozen=True)
class WriterSpec:
    """Where metrics are written beside metrics.jsonl.

    Attributes:
      tensorboard: event files in the stage's folder (extra `tensorboard`).
      wandb: a run of Weights & Biases (extra `tracking`); its own variables, such as WANDB_MODE,
        say where.
      mlflow: a run of MLflow (extra `tracking`), at MLFLOW_TRACKING_URI or in the stage's folder.
    """

    tensorboard: bool = False
    wandb: bool = False
    mlflow: bool = False

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names of those that are asked for."""
        return tuple(name for name in ("tensorboard", "wandb", "mlflow") if getattr(self, name))


@dataclass(frozen=True)
class Recipe:
    """A whole recipe: stages in the order they are trained, once a seed.

    Attributes:
      name: of the recipe, for titles and the card.
      stages: what the main one stands on, the lowest first; then baselines; the main one last.
      seeds: every stage is run once with each; a seed draws the split, the initial values and the
        order of the data.
      languages: (source, target): the language that is added and the one the base knows.
      evals: evaluators to run on the test split.
      base: path of a finished base run to build on, instead of a stage that trains one.
      mesh: sizes of the mesh axes.
      allow_other_encoder: accept checkpoints of other encoders.
      trackers: that get the metrics too; names of `WriterSpec`.
      benchmarks: further test sets.
      links: names of the stages that the main one stands on, the lowest first: each stands on the
        one before.
    """

    name: str
    stages: tuple[Stage, ...]
    seeds: tuple[Seed, ...]
    languages: tuple[str, str]
    evals: tuple[str, ...]
    mesh: MeshSpec
    base: str | None
    allow_other_encoder: bool
    trackers: tuple[str, ...]
    benchmarks: BenchmarksSpec = field(default_factory=BenchmarksSpec)
    links: tuple[str, ...] = ()

    @property
    def lowest(self) -> Stage:
        """The stage that stands on `base`: of a chain the first link."""
        return self.stages[0] if self.links else self.main

    @property
    def main(self) -> Stage:
        """The stage that the recipe is about."""
        return self.stages[-1]


_RUN = {"name", "seeds", "languages", "evals", "mesh", "checkpoint", "writer"}
_TOP = _RUN | {"base", "variants", "benchmarks"}
# What a table calls systems that are no stage, and the folder of a base.
_TRAINLESS = ("chance", "majority", "question", "probe_linear", "probe_mlp")
_SYSTEMS = ("adapted", "base", "base_half", "ceiling", "floor", "blank", "frozen", *_TRAINLESS)


def resolve_recipe(config: object) -> Recipe:
    """Turns a recipe's configuration into checked, frozen dataclasses.

    Args:
      config: the recipe's ConfigDict or a plain nested dict. `base` may be None, the path of a
        finished base run, or the configuration of one (trained first), which may have a base of
        its own: a chain. `variants` maps names to
        changes of the main stage; each becomes a baseline stage of its own.

    Returns:
      The recipe.

    Raises:
      MmjaxError: anything unknown, missing or impossible, with the choices.
    """
    config = as_dict(config)
    where = {k: v for k, v in config.items() if k not in _TOP}
    main = _stage({"name": main_name(str(where.get("task", "main"))), **where})
    family = family_of(main.task)
    stages, base = _chain(main, config.get("base"))
    links = tuple(stage.name for stage in stages)
    variants = config.get("variants") or dict[str, Any]()
    check(isinstance(variants, Mapping), "variants", variants, "a mapping of names to changes")
    for name, changes in variants.items():
        place = f"variants.{name}"
        check_name("the name of a variant in config.variants", name)
        check(name.casefold() not in _SYSTEMS, "variants", name, "a name that no system has")
        check(isinstance(changes, Mapping), place, changes, "a mapping of changes")
        stages.append(_stage({**merged(where, changes), "name": name}, place))
    stages.append(main)
    check_different("config.variants and the stages beside them", [s.name for s in stages])
    stages = _in_order(stages)
    choices, usual = family.evals(main)
    defaults = {"name": main.name, "seeds": (0,), "languages": ("zh", "en"), "evals": usual}
    hints = bounds.hints_of(Recipe)
    top = {k: convert(hints[k], config.get(k, usual), k) for k, usual in defaults.items()}
    seeds, languages, evals = top["seeds"], top["languages"], top["evals"]
    check(bool(seeds) and len(set(seeds)) == len(seeds), "seeds", seeds, "different integers")
    good = len(languages) == 2 and all(languages)
    check(good, "languages", languages, "(source, target), e.g. ('zh', 'en')")
    for name in evals:
        # Another package's is imported by the task, before it trains.
        good = name in choices or (family.other_evals and plugins.may_be(name, plugins.EVALS))
        own = ", or package.module:Name for one of your own" if family.other_evals else ""
        check(good, "evals", name, f"one of {list(choices)}{own}")
    benchmarks = build(BenchmarksSpec, config.get("benchmarks", {}), "benchmarks")
    _check_benchmarks(benchmarks, evals, main)
    saved = build(CheckpointSpec, config.get("checkpoint", {}), "checkpoint")
    return Recipe(
        name=check_name("config.name", top["name"]),
        stages=tuple(stages),
        seeds=seeds,
        languages=(languages[0], languages[1]),
        evals=evals,
        mesh=build(MeshSpec, config.get("mesh", {}), "mesh"),
        base=base or None,
        allow_other_encoder=saved.allow_other_encoder,
        trackers=build(WriterSpec, config.get("writer", {}), "writer").trackers,
        benchmarks=benchmarks,
        links=links,
    )


def _chain(main: Stage, base: object) -> tuple[list[Stage], str | None]:
    """What the main stage stands on.

    Args:
      main: the stage.
      base: of its recipe: None, a path, or the recipe of the stage below, with a base of its own.

    Returns:
      (the stages below, the lowest first; the path of the finished run that the lowest stands on).

    Raises:
      MmjaxError: a stage that cannot stand on the one below, or lacks one.
    """
    stages, above, where, path = list[Stage](), main, "base", None
    while isinstance(base, Mapping):
        settings = cast(Mapping[str, Any], base)
        base, task = settings.get("base"), str(settings.get("task", "base"))
        name = "base" if base is None else main_name(task)
        own = {k: v for k, v in settings.items() if k not in _TOP}
        below = _stage(own, where, name)
        _check_stands(above, below, where)
        stages.insert(0, below)
        above, where = below, f"{where}.base"
    family = family_of(above.task)
    if base is not None:
        check(bool(family.stands_on), where, base, "None for this task")
        check(isinstance(base, str | os.PathLike), where, base, "a run folder or a recipe")
        path = convert(str, os.fspath(cast(str, base)), where) or None
    if family.needs_base and not path:
        raise MmjaxError(
            f"config.{where} is empty; the {above.task} task needs a base recipe or run folder"
        )
    return stages, path


def _check_stands(above: Stage, below: Stage, where: str) -> None:
    """Refuses a stage that cannot stand on the one that a recipe puts below it."""
    family, task = family_of(above.task), below.task
    expected = f"one of {list(family.stands_on)}" if family.stands_on else "None for this task"
    place = f"{where}.task" if family.stands_on else where
    check(task in family.stands_on, place, task, expected)
    if family_of(task).stands_on and not family.own_encoders:
        same = above.encoders == below.encoders
        expected = f"those of the stage that stands on it, {sorted(above.encoders)}"
        check(same, f"{where}.encoders", sorted(below.encoders), expected)


def _stage(values: Mapping[str, Any], where: str = "", name: str = "") -> Stage:
    """A stage from its settings; messages name them as they stand in the recipe."""
    prefix = f"{where}." if where else ""
    encoders = values.get("encoders", {})
    check(isinstance(encoders, Mapping), f"{prefix}encoders", encoders, "a mapping of roles")
    for role, settings in encoders.items():
        place = f"{prefix}encoders.{role}"
        check(isinstance(settings, Mapping), place, settings, "a mapping of settings")
    towers = _with_towers(encoders)
    called = {"name": name} if name else {}
    try:
        return read_stage({**values, "encoders": towers, **called}, where)
    except MmjaxError as error:
        # What the parts of a stage say of each other, they say without knowing where it stands.
        message = str(error)
        if not prefix or message.startswith(f"config.{prefix}") or not message.startswith("config"):
            raise
        raise MmjaxError(message.replace("config.", f"config.{prefix}", 1)) from error


def _check_benchmarks(spec: BenchmarksSpec, evals: tuple[str, ...], main: Stage) -> None:
    """Refuses what could only fail after the training."""
    folders, classifies = spec.classification, "classification" in evals
    check(
        not classifies or bool(folders), "benchmarks.classification", folders, "at least one folder"
    )
    names = [benchmark_name(source) for source in (*spec.retrieval, *folders)]
    for source, name in zip((*spec.retrieval, *folders), names, strict=True):
        check_name(f"the name that config.benchmarks takes from {source!r}", name)
    check(len(set(names)) == len(names), "benchmarks", names, "folders of different names")
    if names and not family_of(main.task).benchmarks:
        raise MmjaxError(f"config.benchmarks is for other tasks than {main.task!r}; leave it empty")
    for key in ("templates", "base_templates"):
        templates = getattr(spec, key)
        good = all(t.endswith(".txt") or t.count("{}") == 1 for t in templates)
        expected = "texts with one '{}' each, or .txt files of such texts"
        check(bool(templates) and good, f"benchmarks.{key}", templates, expected)


def benchmark_name(source: str) -> str:
    """What a benchmark is called: its folder's or file's own name."""
    return PurePath(source.partition(":")[2] or source).name.removesuffix(".jsonl")


def _with_towers(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """The encoders' settings, each with the tower that its role reads."""
    return {
        role: {"tower": "image" if role == "image" else "text", **settings}
        for role, settings in encoders.items()
    }


def _in_order(stages: list[Stage]) -> list[Stage]:
    """The stages, each behind the one that its training starts from; the last stays the last."""
    ordered: list[Stage] = []
    left = list(stages)
    while left:
        waiting = {stage.name for stage in left}
        # One that waits for itself, or for the last, is told by its task.
        ready = [s for s in left[:-1] if s.instruct.start not in waiting] or left[:1]
        ordered.append(ready[0])
        left.remove(ready[0])
    return ordered


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with nested `changes` laid over them."""
    combined = dict(values)
    for name, change in changes.items():
        old = combined.get(name)
        # Adapters of other kinds have other settings: they are changed all together.
        nested = name != "adapters" and isinstance(old, Mapping)
        if nested and isinstance(change, Mapping):
            change = merged(cast(Mapping[str, Any], old), cast(Mapping[str, Any], change))
        combined[name] = change
    return combined
