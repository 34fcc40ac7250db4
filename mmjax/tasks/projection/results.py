"""What a finished `projection` recipe shows: probes on raw and projected features, fold by fold."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.data.library import Library
from mmjax.evals.probe import FeatureMap, baselines, probe
from mmjax.report.classes import Answered, class_figures
from mmjax.report.figures import Figures
from mmjax.report.results import Results
from mmjax.rng import seed_for
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import told
from mmjax.tasks.projection.data import assemble_projection, classes_of, features_of, raw_views
from mmjax.tasks.projection.tables import ALONE, FITTING, METHODS, STORED
from mmjax.tasks.reporting import trained_system
from mmjax.tasks.run import Run


def measure_projection(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
    """Runs all probes, seed by seed.

    Args:
      runs: finished runs of all stages and seeds.
      recipe: its projections are alternatives of one method.
      library: encoders and tables.

    Returns:
      All figures.
    """
    figures, answers, chosen_by_seed = Figures(), list[Answered](), list[str]()
    main = recipe.main
    corpus = library.corpus(main.pairs)
    labels = classes_of(corpus)
    names = sorted({item.label for item in corpus.items if item.label})
    positive = main.projection.positive
    own = names.index(positive) if positive else None
    for seed in recipe.seeds:
        split = library.split(main.pairs, seed)
        views = raw_views(main, recipe, library, split["train"])
        raw = [features_of(view) for view in views.values()]
        maps = list(
            baselines(raw, split, labels, main.projection.out_dim, seed_for(seed, "baselines"))
        )
        for run in (r for r in runs if r.seed == seed):
            figures.trained(run.stage.name, run.folder)
            assembly, _, functions = trained_system(run, library, assemble_projection)
            embedded = assembly.data.val.embed(functions)
            sides = {side: embedded[items] for side, items in split.items()}
            maps.append(FeatureMap("projection", describe_projection(run.stage), sides))
        sides = {side: labels[items] for side, items in split.items()}
        probed = probe(maps, sides, seed_for(seed, "probes"), f" of seed {seed}", own)
        figures.add(probed.values)
        for method, seconds in probed.seconds.items():
            name = f"{FITTING} {method}, all seeds"
            figures.timings[name] = figures.timings.get(name, 0.0) + seconds
        figures.count({f"{STORED} {one.name}": 4 * one.sides["train"].shape[1] for one in maps})
        chosen, predictions = probed.best["projection"]
        chosen_by_seed.append(chosen)
        words: list[str] = [names[c] for c in predictions]
        answers.append(Answered(split["test"], words, split["train"]))
        figures.count({side: len(items) for side, items in split.items()})
        figures.count({"classes": len(np.unique(labels[split["train"]]))})
    systems = figures.systems
    order = [*METHODS, *(system for system in systems if system.startswith(ALONE))]
    named = {system: system.removeprefix(ALONE) for system in order}
    named["projection"] = f"projection ({' or '.join(s.projection.loss for s in recipe.stages)})"
    who = (
        "the projection under the classifier that is best on the inner split "
        f"({', '.join(dict.fromkeys(chosen_by_seed))})"
    )
    classes = class_figures(who, names, corpus, answers, corpus.left_out)
    results = figures.results(recipe, {system: systems[system] for system in order}, named)
    return dataclasses.replace(results, probes=True, classes=classes)


def describe_projection(stage: Stage) -> str:
    """What a `projection` stage trains, in a few words."""
    p = stage.projection
    hidden = p.hidden or "min(d/2, 16)"
    return (
        f"projection {stage.name}: {p.loss}, {p.mode}, hidden {hidden}, to {p.out_dim}{told(stage)}"
    )
