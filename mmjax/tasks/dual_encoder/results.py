"""Every system of a finished dual encoder, measured on the test items."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.data.labels import LeftOut
from mmjax.data.library import Library
from mmjax.evals import Evaluator, Functions, Retrieval, TextRetrieval, ZeroShot
from mmjax.evals.catalog import others
from mmjax.report.classes import Answered, class_figures
from mmjax.report.figures import Figures, told_apart
from mmjax.report.results import Results
from mmjax.specs.family import RETRIEVAL
from mmjax.specs.recipe import Recipe
from mmjax.tasks.dual_encoder.assembly import Joined, assemble_dual_encoder
from mmjax.tasks.dual_encoder.data import System
from mmjax.tasks.dual_encoder.domain_results import describe_domain
from mmjax.tasks.reporting import systems_of, trained_system
from mmjax.tasks.run import Run


def measure_dual_encoder(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
    """Runs the recipe's evaluators over every system, seed by seed.

    Args:
      runs: finished runs of all stages and seeds.
      recipe: languages and evaluators.
      library: encoders and tables.

    Returns:
      All figures.
    """
    source, target = recipe.languages
    figures, answers = Figures(), list[Answered]()
    for seed in recipe.seeds:
        values: dict[str, dict[str, float]] = {}
        for run in systems_of(runs, recipe, seed, figures):
            assembly, _, functions = trained_system(run, library, assemble_dual_encoder)
            for name, system in assembly.data.test.items():
                if name != "adapted" and not run.is_main:
                    continue  # what the frozen base says is the same for every stage on it
                label = name if run.is_main else run.stage.name
                values[label] = system.run(_evaluators(run, name, system), functions)
            if run.is_main:
                answers += answered(run, assembly, functions)
                figures.count({side: len(items) for side, items in assembly.data.items.items()})
                figures.count(_asked(assembly.data.test["adapted"]))
        _add_recovery(values)
        figures.add(values)
    systems = figures.ordered(("ceiling", "floor", "base"))
    labels = {
        "ceiling": f"ceiling: base, {target} queries",
        "floor": f"floor: base, {source} queries",
        "base": "base, zero-shot",
        "linear": f"{source} encoder, linear map",
        "mlp": f"{source} encoder, MLP on the mean token",
        "adapted": f"adapted, {source} queries"
        if "floor" in systems
        else f"base, {target} queries",
    }
    shares: dict[str, float] = {}
    for stage in (s for s in recipe.stages if s.task == "domain"):
        name = "adapted" if stage is recipe.main else stage.name
        labels[name], shares[name] = describe_domain(stage), stage.pairs.domain.fraction
    labels = told_apart(labels, shares)
    classes = None
    if answers:
        corpus = library.corpus(recipe.main.pairs)
        names = sorted({item.label for item in corpus.items if item.label})
        gone = left_out(recipe, library)
        classes = class_figures(labels["adapted"], names, corpus, answers, gone)
    results = figures.results(recipe, systems, labels)
    return dataclasses.replace(results, shares=shares, classes=classes)


def _evaluators(run: Run, name: str, system: System) -> list[Evaluator]:
    """What a system of a run is measured by."""
    evaluators: list[Evaluator] = [Retrieval()]
    if "zeroshot" in run.recipe.evals:
        evaluators.append(ZeroShot())
    evaluators += others(run.recipe.evals, RETRIEVAL)
    if name == "adapted" and run.stage.task == "language" and len(system.data.base_texts):
        evaluators.append(TextRetrieval())
    return evaluators


def left_out(recipe: Recipe, library: Library) -> tuple[LeftOut, ...]:
    """Classes that a recipe leaves out; nothing where it classifies nothing."""
    return library.corpus(recipe.main.pairs).left_out if "zeroshot" in recipe.evals else ()


def answered(run: Run, assembly: Joined, functions: Functions) -> list[Answered]:
    """What the trained system says of the test items; nothing where no class is asked for."""
    if "zeroshot" not in run.recipe.evals:
        return []
    data, corpus = assembly.data, assembly.data.corpus
    system, items = data.test["adapted"], data.items["test"]
    names = sorted({item.label for item in corpus.at(items)} - {""})
    predictions = ZeroShot().predict(system.reading(functions), system.data)
    kept = system.data.labels >= 0
    classes: list[str] = [names[c] for c in predictions[kept]]
    return [Answered(np.asarray(items)[kept], classes, data.items["train"])]


def _asked(system: System) -> dict[str, int]:
    """How much a system is asked beside one query for each test item."""
    counts: dict[str, int] = {}
    if system.general is not None:
        counts["general"] = len(system.general.texts)
    if system.data.answers is not None:
        counts["queries"] = len(system.data.texts)
    for name, data in system.benchmarks.retrieval.items():
        counts |= {f"{name}/pictures": len(data.images), f"{name}/queries": len(data.texts)}
    for name, data in system.benchmarks.classification.items():
        counts |= {f"{name}/pictures": len(data.images), f"{name}/classes": len(data.label_texts)}
    return counts


def _add_recovery(values: dict[str, dict[str, float]]) -> None:
    """(system - floor) / (ceiling - floor), for every trained system, both directions."""
    if not {"floor", "ceiling"} <= values.keys():
        return
    for system, metrics in values.items():
        if system in ("ceiling", "floor"):
            continue
        for metric in [name for name in metrics if name.endswith(("t2i_mR", "i2t_mR"))]:
            if metric not in values["ceiling"]:
                continue  # a benchmark without captions in the base's language
            low, high = values["floor"][metric], values["ceiling"][metric]
            ratio = (metrics[metric] - low) / (high - low) if high > low else float("nan")
            name, slash, direction = metric.rpartition("/")
            metrics[f"{name}{slash}recovery_{direction}"] = ratio
