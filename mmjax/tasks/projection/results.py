"""What a finished `projection` recipe shows: probes on raw and projected features, fold by fold."""

from collections.abc import Sequence

import numpy as np

from mmjax.data.library import Library
from mmjax.evals.functions import Published
from mmjax.evals.probe import FeatureMap, LabelledSet, baselines, probe
from mmjax.report.page import Report
from mmjax.report.results import Results, classes_part, components, curves, notes_on_data
from mmjax.rng import seed_for
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks import class_figures
from mmjax.tasks.class_figures import Answered
from mmjax.tasks.figures import Figures
from mmjax.tasks.projection.data import classes_of, features_of, raw_views
from mmjax.tasks.projection.tables import ALONE, METHODS, verdict
from mmjax.train import Run, load_trained


def measure_probes(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
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
    labels, names = classes_of(corpus), class_figures.classes_of(main, corpus)
    raw = [features_of(view) for view in raw_views(main, recipe, library).values()]
    for seed in recipe.seeds:
        split = library.split(main.pairs, seed)
        maps = list(
            baselines(raw, split, labels, main.projection.out_dim, seed_for(seed, "baselines"))
        )
        for run in (r for r in runs if r.seed == seed):
            figures.trained(run)
            assembly, trainable = load_trained(run, library)
            functions = Published(assembly.task, library.mesh).bind(trainable, assembly.frozen)
            assert isinstance(assembly.data.val, LabelledSet)
            embedded = assembly.data.val.embed(functions)
            sides = {side: embedded[items] for side, items in split.items()}
            maps.append(FeatureMap("projection", describe(run.stage), sides))
        sides = {side: labels[items] for side, items in split.items()}
        probed = probe(maps, sides, seed_for(seed, "probes"), f" of seed {seed}")
        figures.add(probed.values)
        chosen, said = probed.best["projection"]
        chosen_by_seed.append(chosen)
        answers.append(Answered(split["test"], [names[c] for c in said], split["train"]))
        figures.count({side: len(items) for side, items in split.items()})
        figures.count({"classes": len(np.unique(labels[split["train"]]))})
    found = figures.systems
    order = [*METHODS, *(system for system in found if system.startswith(ALONE))]
    named = {system: system.removeprefix(ALONE) for system in order}
    named["projection"] = f"projection ({' or '.join(s.projection.loss for s in recipe.stages)})"
    return Results(
        recipe.name,
        {system: found[system] for system in order},
        named,
        list(recipe.seeds),
        figures.counts,
        figures.timings,
        probes=True,
        classes=class_figures.class_figures(
            f"the projection under the classifier that is best on the inner split "
            f"({', '.join(dict.fromkeys(chosen_by_seed))})",
            names,
            corpus,
            answers,
            corpus.left_out,
        ),
    )


def describe(stage: Stage) -> str:
    """What a `projection` stage trains, in a few words."""
    p = stage.projection
    hidden = p.hidden or "min(d/2, 16)"
    return f"projection {stage.name}: {p.loss}, {p.mode}, hidden {hidden}, to {p.out_dim}"


def make_probe_report(
    results: Results, runs: Sequence[Run], recipe: Recipe, library: Library
) -> Report:
    """Puts figures, curves and counts together.

    Args:
      results: as measured.
      runs: finished runs of all stages and seeds.
      recipe: what was trained.
      library: encoders.

    Returns:
      The report, ready to write.
    """
    main = next(r for r in runs if r.stage.name == recipe.main.name)
    notes = [verdict(results.systems), *notes_on_data(recipe, library)]
    if recipe.main.pairs.folds:
        notes.append(
            f"Each seed holds out another of {recipe.main.pairs.folds} folds"
            f"{', families whole' if recipe.main.pairs.keep_families else ''}."
        )
    return Report(
        title=recipe.name.replace("_", " "),
        summary="Small projectors bend frozen embeddings towards labels (arXiv 2502.02048); usual "
        "classifiers then say what that is worth beside the raw embeddings, their principal "
        "components and their discriminants.",
        headline=tuple(results.headline()),
        tables=tuple(results.tables),
        curves=tuple(curves(runs)),
        classes=classes_part(results, recipe, library),
        components=tuple(components(main, library)),
        timings=results.timings,
        peak_memory_bytes=results.peak_memory_bytes,
        command=results.command,
        environment=results.environment,
        notes=tuple(notes),
    )
