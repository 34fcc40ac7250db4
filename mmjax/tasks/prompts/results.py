"""Every system of a finished few-shot recipe, measured on the test items."""

import dataclasses
from collections.abc import Sequence

from mmjax.data.library import Library
from mmjax.evals import FewShot, Functions
from mmjax.report.classes import Answered, class_figures
from mmjax.report.figures import Figures, told_apart
from mmjax.report.results import Results
from mmjax.specs.recipe import Recipe
from mmjax.tasks.prompts.chain import LINK, is_chain, measure_chain
from mmjax.tasks.prompts.classes import classes_of, left_out
from mmjax.tasks.prompts.data import ShotsData, assemble_prompts
from mmjax.tasks.prompts.tables import describe_method, protocol_of
from mmjax.tasks.reporting import systems_of, trained_system
from mmjax.tasks.run import Run


def measure_prompts(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
    """Classifies the test items by every method, seed by seed.

    Args:
      runs: finished runs of all stages and seeds.
      recipe: languages.
      library: encoders and tables.

    Returns:
      All figures.
    """
    figures, answers = Figures(), list[Answered]()
    for seed in recipe.seeds:
        values: dict[str, dict[str, float]] = {}
        for run in systems_of(runs, recipe, seed, figures):
            assembly, trainable, functions = trained_system(run, library, assemble_prompts)
            data, half = assembly.data, run.stage.fewshot.half == "base"
            for name, system in data.test.items():
                if name == "adapted":
                    label = name if run.is_main else run.stage.name
                elif half:
                    label = "base_half"
                elif run.is_main:
                    label = name
                else:
                    continue  # what the frozen base says is the same for every stage on it
                values[label] = system.run([FewShot()], functions)
            if run.is_main:
                if is_chain(recipe):
                    values |= measure_chain(run, assembly, trainable, library)
                answers.append(_answered(run, data, functions))
                figures.count({side: len(items) for side, items in data.items.items()})
                figures.count({"classes": len(data.classes)})
                figures.count({"asked": len(data.test["adapted"].data.labels)})
        figures.add(values)
    found = figures.ordered(("base", "base_half"))
    labels = {"base": "base, zero-shot"}
    protocol: dict[str, dict[str, int | str]] = {}
    for stage in (s for s in recipe.stages if s.task == "prompts"):
        name = "adapted" if stage is recipe.main else stage.name
        labels[name], protocol[name] = describe_method(stage), protocol_of(stage)
    labels = told_apart(labels, protocol)
    labels |= {f"{LINK}{name}": name for name in recipe.links}
    labels[f"{LINK}{recipe.main.name}"] = f"{recipe.main.name}: {labels['adapted']}"
    corpus = library.corpus(recipe.main.pairs)
    names, gone = classes_of(recipe.main, corpus)[0], left_out(recipe.main, corpus)
    classes = class_figures(labels["adapted"], names, corpus, answers, gone)
    results = figures.results(recipe, found, labels)
    return dataclasses.replace(results, protocol=protocol, classes=classes)


def _answered(run: Run, data: ShotsData, functions: Functions) -> Answered:
    """What the trained system says of the test items."""
    asked = data.test["adapted"].data
    names = classes_of(run.stage, data.corpus)[0]
    said = FewShot().predict(functions, asked)
    items = asked.images.rows  # of a table of every item
    words: list[str] = [names[c] for c in said]
    return Answered(items, words, data.items["train"])
