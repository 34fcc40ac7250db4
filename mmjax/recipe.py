"""A whole recipe, read from its configuration.

A recipe file returns an `ml_collections.ConfigDict`. `resolve` turns it into a `Recipe` once, at
the door; nothing behind it sees a ConfigDict.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, TypeVar

from mmjax.errors import MmjaxError, check
from mmjax.spec import MeshSpec, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class BenchmarksSpec:
    """Further test sets of pictures, measured beside the recipe's own.

    Attributes:
      retrieval: sources as of `PairsSpec.source`; of those that come split the test side.
      classification: folders in ImageNet's or ELEVATER's layout; see `mmjax.data.classes`.
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
    limit: int = 0


@dataclass(frozen=True)
class Recipe:
    """A whole recipe: stages in the order they are trained, once a seed.

    Attributes:
      name: of the recipe, for titles and the card.
      stages: the base first, then baselines, the main one last.
      seeds: every stage is run once with each; a seed draws the split, the initial values and the
        order of the data.
      languages: (source, target): the language that is added and the one the base knows.
      evals: evaluators to run on the test split.
      base: path of a finished base run to build on, instead of a stage that trains one.
      mesh: sizes of the mesh axes.
      allow_other_encoder: accept checkpoints of other encoders.
      tensorboard: also write TensorBoard events.
      benchmarks: further test sets.
    """

    name: str
    stages: tuple[Stage, ...]
    seeds: tuple[int, ...]
    languages: tuple[str, str]
    evals: tuple[str, ...]
    mesh: MeshSpec
    base: str | None
    allow_other_encoder: bool
    tensorboard: bool
    benchmarks: BenchmarksSpec = field(default_factory=BenchmarksSpec)

    @property
    def main(self) -> Stage:
        """The stage that the recipe is about."""
        return self.stages[-1]


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Builds a spec dataclass from a mapping, checking names and types.

    Args:
      cls: a dataclass of `mmjax.spec`.
      values: field name -> value; nested mappings for nested dataclasses.
      where: the mapping's place in the recipe, for messages.

    Returns:
      The dataclass.

    Raises:
      MmjaxError: an unknown name, a missing one, or a value of another type or outside its choices.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for name in values:
        check(name in fields, f"{prefix}{name}", values[name], f"one of the keys {sorted(fields)}")
    missing = [
        n
        for n, f in fields.items()
        if n not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise MmjaxError(f"config.{where or cls.__name__} lacks {missing}")
    return cls(**{n: _convert(hints[n], v, f"{prefix}{n}") for n, v in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Checks one value against its type annotation; lists become tuples, ints floats."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin is Literal:
        check(value in args, where, value, f"one of {list(args)}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        check(isinstance(value, (tuple, list)), where, value, "a list")
        return tuple(_convert(args[0], v, where) for v in value)
    if origin is dict:
        check(isinstance(value, Mapping), where, value, "a mapping")
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    check(
        isinstance(value, hint) and (hint is bool or not isinstance(value, bool)),
        where,
        value,
        f"a value of type {hint.__name__}",
    )
    return value


_TOP = {"name", "seeds", "languages", "evals", "mesh", "base", "variants", "checkpoint", "writer"}
_TOP |= {"benchmarks"}
EVALS = ("retrieval", "zeroshot", "classification")
# Tasks that need no base; prompts take towers that share a space already, such as CLIP's.
_ALONE = ("contrastive", "pretrained", "projection", "prompts", "instruct")


def resolve(config: Mapping[str, Any]) -> Recipe:
    """Turns a recipe's configuration into checked, frozen dataclasses.

    Args:
      config: the recipe's ConfigDict or a plain nested dict. `base` may be None, the path of a
        finished base run, or the configuration of one (trained first). `variants` maps names to
        changes of the main stage; each becomes a baseline stage of its own.

    Returns:
      The recipe.

    Raises:
      MmjaxError: anything unknown, missing or impossible, with the choices.
    """
    config = as_dict(config)
    where = {k: v for k, v in config.items() if k not in _TOP}
    where["encoders"] = _with_towers(where.get("encoders", {}))
    main = build(Stage, {"name": where.get("task", "main"), **where})
    stages: list[Stage] = []
    base = config.get("base")
    if isinstance(base, Mapping):
        nested = {k: v for k, v in base.items() if k not in _TOP}
        nested["encoders"] = _with_towers(nested.get("encoders", {}))
        stages.append(build(Stage, {**nested, "name": "base"}, "base"))
        base = None
    if main.task in ("projection", "instruct"):
        check(base is None and not stages, "base", config.get("base"), "None for this task")
    if main.task not in _ALONE and base is None and not stages:
        raise MmjaxError(
            f"config.base is empty; the {main.task} task needs a base recipe or run folder"
        )
    for name, changes in (config.get("variants") or {}).items():
        stages.append(build(Stage, {**_merged(where, changes), "name": name}, f"variants.{name}"))
    stages.append(main)
    names = [s.name for s in stages]
    check(len(set(names)) == len(names), "variants", names, "names that differ from each other")
    seeds = tuple(config.get("seeds", (0,)))
    check(bool(seeds) and len(set(seeds)) == len(seeds), "seeds", seeds, "different integers")
    languages = tuple(config.get("languages", ("zh", "en")))
    check(len(languages) == 2, "languages", languages, "(source, target), e.g. ('zh', 'en')")
    known, usual = _evaluators(main)
    evals = tuple(config.get("evals", usual))
    for name in evals:
        check(name in known, "evals", name, f"one of {list(known)}")
    benchmarks = build(BenchmarksSpec, config.get("benchmarks", {}), "benchmarks")
    _check_benchmarks(benchmarks, evals, main)
    return Recipe(
        name=config.get("name", main.name),
        stages=tuple(stages),
        seeds=seeds,
        languages=(languages[0], languages[1]),
        evals=evals,
        mesh=build(MeshSpec, config.get("mesh", {}), "mesh"),
        base=base,
        allow_other_encoder=bool(config.get("checkpoint", {}).get("allow_other_encoder", False)),
        tensorboard=bool(config.get("writer", {}).get("tensorboard", False)),
        benchmarks=benchmarks,
    )


def _evaluators(main: Stage) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a task may be measured by, and what it is measured by if the recipe says nothing."""
    if main.task == "instruct":
        answers = main.questions.evaluation
        return (answers, "text", *(("probe",) if answers == "vqa" else ())), (answers,)
    known = {"projection": ("probe",), "prompts": ("fewshot",)}.get(main.task, EVALS)
    return known, known[:2]


def _check_benchmarks(spec: BenchmarksSpec, evals: tuple[str, ...], main: Stage) -> None:
    """Refuses what could only fail after the training."""
    folders, wanted = spec.classification, "classification" in evals
    check(not wanted or bool(folders), "benchmarks.classification", folders, "at least one folder")
    names = [benchmark_name(source) for source in (*spec.retrieval, *folders)]
    check(len(set(names)) == len(names), "benchmarks", names, "folders of different names")
    if names and main.task == "domain":
        raise MmjaxError("config.benchmarks is for other tasks than 'domain'; leave it empty")
    for key in ("templates", "base_templates"):
        templates = getattr(spec, key)
        good = all(t.endswith(".txt") or t.count("{}") == 1 for t in templates)
        expected = "texts with one '{}' each, or .txt files of such texts"
        check(bool(templates) and good, f"benchmarks.{key}", templates, expected)
    check(spec.limit >= 0, "benchmarks.limit", spec.limit, "at least 0")


def benchmark_name(source: str) -> str:
    """What a benchmark is called: its folder's or file's own name."""
    return PurePath(source.partition(":")[2] or source).name.removesuffix(".jsonl")


def _with_towers(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """The encoders' settings, each with the tower that its role reads."""
    return {
        role: {"tower": "image" if role == "image" else "text", **settings}
        for role, settings in encoders.items()
    }


def as_dict(config: Any) -> dict[str, Any]:
    """A plain nested dict of a ConfigDict or mapping."""
    items: Any = config.items()  # ConfigDict is no Mapping, but has items
    return {k: as_dict(v) if hasattr(v, "items") else v for k, v in items}


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with nested `changes` laid over them."""
    result = dict(values)
    for name, change in changes.items():
        old = result.get(name)
        result[name] = (
            _merged(old, change)
            if isinstance(old, Mapping) and isinstance(change, Mapping)
            else change
        )
    return result
