"""Every system of a finished recipe, measured on the test items."""

from collections.abc import Sequence

from mmjax.data.library import Library
from mmjax.evals import Evaluator, FewShot, Retrieval, TextRetrieval, ZeroShot
from mmjax.evals.functions import Published
from mmjax.report.results import Results
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.class_figures import Answered, answered, class_figures, classes_of, left_out
from mmjax.tasks.dual_encoder.data import System
from mmjax.tasks.dual_encoder.domain_results import ADAPTER, PLAIN
from mmjax.tasks.figures import Figures
from mmjax.tasks.instruct.results import SYSTEMS, measure_answers
from mmjax.tasks.instruct.results import describe as describe_instruct
from mmjax.tasks.prompts.tables import describe_method, protocol_of
from mmjax.train import Run, load_trained


def measure(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
    """Runs the recipe's evaluators over every system, seed by seed.

    Args:
      runs: finished runs of all stages and seeds.
      recipe: languages and evaluators.
      library: encoders and tables.

    Returns:
      All figures.
    """
    if recipe.main.task == "instruct":
        return _measure_answers(runs, recipe, library)
    source, target = recipe.languages
    figures, answers = Figures(), list[Answered]()
    for seed in recipe.seeds:
        values: dict[str, dict[str, float]] = {}
        for run in (r for r in runs if r.seed == seed):
            figures.trained(run)
            main = run.stage.name == recipe.main.name
            if run.stage.name == "base" and not main:
                continue  # seen through the ceiling
            assembly, trainable = load_trained(run, library)
            functions = Published(assembly.task, library.mesh).bind(trainable, assembly.frozen)
            half = run.stage.task == "prompts" and run.stage.fewshot.half == "base"
            for system, asked in assembly.data.test.items():
                if system != "adapted" and not main and not half:
                    continue  # what the frozen base says is the same for every stage on it
                label = run.stage.name if system == "adapted" and not main else system
                if half and system == "base":
                    label = "base_half"
                evaluators: list[Evaluator] = [Retrieval()]
                if run.stage.task == "prompts":
                    evaluators = [FewShot()]
                if "zeroshot" in recipe.evals:
                    evaluators.append(ZeroShot())
                if system == "adapted" and run.stage.task == "language":
                    evaluators += [TextRetrieval()] if len(asked.data.base_texts) else []
                values[label] = asked.run(evaluators, functions)
            if main:
                said = answered(run, assembly, functions)
                answers += [] if said is None else [said]
                data, asked = assembly.data, assembly.data.test["adapted"]
                figures.count({side: len(items) for side, items in data.items.items()})
                if data.classes:
                    figures.count({"classes": len(data.classes), "asked": len(asked.data.labels)})
                elif isinstance(asked, System):
                    figures.count(_asked(asked))
        _add_recovery(values)
        figures.add(values)
    found = figures.ordered(("ceiling", "floor", "base", "base_half"))
    labels = {
        "ceiling": f"ceiling: base, {target} queries",
        "floor": f"floor: base, {source} queries",
        "base": "base, zero-shot",
        "linear": f"{source} encoder, linear map",
        "mlp": f"{source} encoder, MLP on the mean token",
        "adapted": f"adapted, {source} queries" if "floor" in found else f"base, {target} queries",
    }
    shares, protocol = {}, {}
    for stage in (s for s in recipe.stages if s.task == "prompts"):
        name = "adapted" if stage is recipe.main else stage.name
        labels[name], protocol[name] = describe_method(stage), protocol_of(stage)
    for stage in (s for s in recipe.stages if s.task == "domain"):
        name = "adapted" if stage is recipe.main else stage.name
        labels[name], shares[name] = describe(stage), stage.pairs.domain.fraction
    classes = None
    if answers:
        corpus, said_by = library.corpus(recipe.main.pairs), labels["adapted"]
        names = classes_of(recipe.main, corpus)
        gone = left_out(recipe, library)
        classes = class_figures(said_by, names, corpus, answers, gone)
    return Results(
        recipe.name,
        found,
        {name: labels.get(name, name) for name in found},
        list(recipe.seeds),
        figures.counts,
        figures.timings,
        shares=shares,
        protocol=protocol,
        classes=classes,
    )


def _asked(system: System) -> dict[str, int]:
    """How much a system is asked beside one query for each test item."""
    found: dict[str, int] = {}
    if system.general is not None:
        found["general"] = len(system.general.texts)
    if system.data.answers is not None:
        found["queries"] = len(system.data.texts)
    for name, data in system.benchmarks.retrieval.items():
        found |= {f"{name}/pictures": len(data.images), f"{name}/queries": len(data.texts)}
    for name, data in system.benchmarks.classification.items():
        found |= {f"{name}/pictures": len(data.images), f"{name}/classes": len(data.label_texts)}
    return found


def _measure_answers(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
    figures, systems, routing = measure_answers(runs, recipe, library)
    labels = {
        **SYSTEMS,
        **{s.name: describe_instruct(s) for s in recipe.stages},
        "adapted": describe_instruct(recipe.main),
    }
    labels = {name: labels[name] for name in systems}
    return Results(
        recipe.name,
        systems,
        labels,
        list(recipe.seeds),
        figures.counts,
        figures.timings,
        routing=routing,
        learned=figures.learned,
    )


def describe(stage: Stage) -> str:
    """What a `domain` stage trains, in a few words."""
    w, c = stage.weighting, stage.continual
    parts = [ADAPTER if stage.residual.tune == "adapter" else "heads, fine-tuned"]
    parts += {"none": [], "focal": [f"focal weights γ={w.gamma:g}"]}.get(
        w.pairs, [f"loss-softmax weights T={w.temperature:g}"]
    )
    parts += [f"hard negatives β={w.beta:g}"] if w.beta or w.tau_plus else []
    parts += {"ewc": ["EWC"], "distill": ["distilled to the base"]}.get(c.kind, [])
    return PLAIN if parts == [ADAPTER] else ", ".join(parts)


def _add_recovery(values: dict[str, dict[str, float]]) -> None:
    """(system - floor) / (ceiling - floor), for every trained system, both directions."""
    if not {"floor", "ceiling"} <= values.keys():
        return
    for system, found in values.items():
        if system in ("ceiling", "floor"):
            continue
        for metric in [name for name in found if name.endswith(("t2i_mR", "i2t_mR"))]:
            if metric not in values["ceiling"]:
                continue  # a benchmark without captions in the base's language
            low, high = values["floor"][metric], values["ceiling"][metric]
            ratio = (found[metric] - low) / (high - low) if high > low else float("nan")
            name, slash, direction = metric.rpartition("/")
            found[f"{name}{slash}recovery_{direction}"] = ratio
