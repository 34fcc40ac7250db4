"""What a run can be refused for before its first expensive step, the frozen encoders' features.

First what records, splits and sizes say, with nothing loaded; then what the loaded encoders and the
finished bases below them say, with nothing computed. A start that is refused here has written
nothing.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmjax.data.checks import check_data, check_shots
from mmjax.data.library import Library
from mmjax.encoders.prompted import vectors_of, words_of
from mmjax.errors import settings_of
from mmjax.evals.perplexity import read_text
from mmjax.evals.probe import check_installed
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks import Task, make_instruct, make_task
from mmjax.tasks.dual_encoder import eval_sets
from mmjax.tasks.dual_encoder.stacking import check_encoder, load_base
from mmjax.tasks.prompts import data as fewshot
from mmjax.train import Run
from mmjax.writer import check_tensorboard


def check(recipe: Recipe, runs: Sequence[Run], library: Library) -> None:
    """Refuses what can be known to fail.

    Args:
      recipe: what is to be trained.
      runs: all of it, in order.
      library: loads records and encoders once; training goes on with them.

    Raises:
      MmjaxError: says which setting of which part of the recipe, or which file.
    """
    if recipe.tensorboard:
        check_tensorboard()
    check_asked(recipe, library)
    for run in _main_first(recipe, runs):
        with settings_of(part_of(recipe, run.stage)):
            library.check(run.stage, run.seed)
            below = run.base.stage if run.base is not None else None
            check_data(run.stage, recipe, run.seed, library, below)
            if run.stage.task == "prompts":
                _check_shots(run.stage, run.seed, library)
    tasks: dict[Path, Task] = {}
    for run in _main_first(recipe, runs):
        with settings_of(part_of(recipe, run.stage)):
            tasks[run.adapter] = _task(run, tasks, library)


def check_asked(recipe: Recipe, library: Library) -> None:
    """Refuses an evaluation that lacks what it needs.

    Args:
      recipe: names evals and benchmarks.
      library: reads the benchmarks' records.

    Raises:
      MmjaxError: an extra that is not installed, a text or a benchmark that cannot be read.
    """
    if "probe" in recipe.evals:
        check_installed()
    if "text" in recipe.evals:
        read_text(recipe.main.questions.text)
    eval_sets.check(recipe, library)


def part_of(recipe: Recipe, stage: Stage) -> str:
    """The part of a recipe that a stage's settings stand in; "" for the recipe itself."""
    if stage is recipe.main:
        return ""
    return "base" if stage.name == "base" else f"variants.{stage.name}"


def _main_first(recipe: Recipe, runs: Sequence[Run]) -> list[Run]:
    """The runs, variants last: what is wrong with the main stage is no variant's fault."""
    return sorted(runs, key=lambda run: part_of(recipe, run.stage).startswith("variants."))


def _task(run: Run, tasks: dict[Path, Task], library: Library) -> Task:
    """A run's task, which says whether its encoders and its base go together."""
    stage = run.stage
    if stage.task == "instruct":
        return make_instruct(
            stage, *(library.encoder(stage.encoders[r]) for r in ("language", "image"))
        )
    towers = {role: library.tower(role, spec, None) for role, spec in stage.encoders.items()}
    base = None
    if run.base is not None:
        base = tasks.get(run.base.adapter)
        if base is None:  # of another run folder: finished, or it is no base
            base, _, card = load_base(run.base.adapter, towers, library.mesh)
            for role in card["encoders"].keys() & stage.encoders.keys():
                allowed, spec = run.recipe.allow_other_encoder, stage.encoders[role]
                check_encoder(library, card, role, spec, allowed, run.base.adapter)
    if stage.task != "prompts":
        return make_task(stage, towers, base, library.mesh)
    joint = fewshot.joint_on(stage, base, {}, None, library)
    _check_names(run, library)
    return joint.task


def _check_shots(stage: Stage, seed: int, library: Library) -> None:
    """Of `prompts`: enough pictures of enough classes, on both sides of the split."""
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    trained, other = fewshot.classes_of(stage, corpus)
    shots = fewshot.shots_of(stage, corpus, split, trained, seed)
    check_shots(stage, corpus, split, trained, len(shots))
    if other:
        check_shots(stage, corpus, split, other, 0)
    for style in stage.fewshot.styles:
        library.corpus(dataclasses.replace(stage.pairs, styles=(style,), views=("plain",)))


def _check_names(run: Run, library: Library) -> None:
    """Of `prompts`: names of classes and a context that the text tower can read."""
    stage, spec, language = run.stage, run.stage.prompts, run.recipe.languages[1]
    corpus, encoder = library.corpus(stage.pairs), library.encoder(stage.encoders["text"])
    names = [corpus.labels[x][language] for part in fewshot.classes_of(stage, corpus) for x in part]
    templates = spec.templates if spec.method == "factorised" else ()
    words_of(encoder, names)
    words_of(encoder, [t.replace("{}", n) for n in names for t in (spec.template, *templates)])
    if spec.in_tower:
        width = vectors_of(encoder.params, np.zeros(1, int)).shape[-1]
        fewshot.context_of(stage, encoder, width, run.seed)
