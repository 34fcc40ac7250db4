"""Figures of an `instruct` recipe: answers with and without the picture, and the router."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mmjax.adapters.rep_adapter import RepAdapter, routing_table
from mmjax.data.library import Library
from mmjax.encoders import LanguageModel
from mmjax.encoders.language_model import TEXT
from mmjax.evals.perplexity import perplexity, read_text
from mmjax.evals.scienceqa import AVERAGE, SLICES, UNANSWERED
from mmjax.progress import track
from mmjax.report.figures import Figures
from mmjax.report.page import Table, numbers
from mmjax.report.plots import Curve
from mmjax.report.results import Results
from mmjax.sharding import to_host
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.instruct.assembly import assemble_instruct, trained
from mmjax.tasks.instruct.easy_vqa import ask_probes
from mmjax.tasks.instruct.respond import prompter_of
from mmjax.tasks.instruct.samples import keep_samples
from mmjax.tasks.instruct.task import InstructTask
from mmjax.tasks.instruct.towers import encoders_of
from mmjax.tasks.run import Run
from mmjax.trees import PyTree

TEXT_METRIC = "text_perplexity"
REHEARSED = "rehearsed"  # texts of the language model's own that were learned
METRICS = {"vqa_acc": "all", "vqa_yes_no": "yes / no", "vqa_other": "other"}
SCIENCEQA = {**{s: "Avg" if s == AVERAGE else s for s in SLICES}, UNANSWERED: UNANSWERED}
ASKED = {
    "right": "right",
    "closed_strict": "yes / no",
    "closed_legacy": "yes / no, legacy",
    "open_strict": "other",
    "open_legacy": "other, legacy",
}
HELD_OUT = {"token_log_prob": "log-probability a token", "perplexity": "perplexity"}
SYSTEMS = {
    "chance": "chance",
    "majority": "commonest answer",
    "question": "commonest answer to the same question",
    "probe_linear": "linear probe: class token beside words",
    "probe_mlp": "MLP probe on the same",
    "frozen": "frozen language model",
    "blank": "adapted, blank picture",
}


def measure_instruct(runs: Sequence[Run], recipe: Recipe, library: Library) -> Results:
    """Asks the test questions of every stage and seed.

    Args:
      runs: finished runs of all stages and seeds.
      recipe: names the main stage.
      library: encoders and questions.

    Returns:
      All figures.
    """
    figures = Figures()
    routing: list[list[list[float]]] = []
    text = read_text(recipe.main.questions.text) if "text" in recipe.evals else None
    frozen: dict[str, float] = {}  # the same for every seed
    for run in track(runs, "evaluating"):
        steps = figures.trained(run.stage.name, run.folder)
        main = run.is_main
        assembly = assemble_instruct(run, library)
        data, task = assembly.data, assembly.task
        trainable = trained(run, task, library)
        functions = data.publish(task, library.mesh).bind(trainable, assembly.frozen)
        own = data.test["adapted"].run([], functions)
        values = {"adapted" if main else run.stage.name: own}
        language, vision = encoders_of(run.stage, library)
        if text is not None:
            prompter = prompter_of(task, language, vision, library.mesh)
            own[TEXT_METRIC] = perplexity(
                prompter.model(trainable), text, prompter.adapters(trainable)[TEXT]
            )
            if main:
                frozen = frozen or {TEXT_METRIC: perplexity(language, text)}
                values["frozen"] = frozen
        if main:
            if "probe" in recipe.evals:
                values |= ask_probes(run.stage, run.seed, library)
            if "blank" in data.test:
                values["blank"] = data.test["blank"].run([], functions)
            if run.seed == recipe.seeds[0]:
                keep_samples(run, data, functions["said"])
            values |= {name: dict(metrics) for name, metrics in data.references.items()}
            figures.count({side: len(items) for side, items in data.items.items()})
            figures.learn(data.train.visits(steps, run.stage.train.batch_size, run.data_seed))
            if run.stage.questions.rehearsal:
                figures.count({REHEARSED: run.stage.questions.rehearsal})
            if data.left_out:
                figures.count({"left_out": data.left_out})
            figures.count({"questions": len(data.test["adapted"].conversations)})
            if task.parts.routed:
                routing.append(first_expert(task, language, trainable).tolist())
        figures.add(values)
    systems = figures.ordered(SYSTEMS)
    labels = {
        **SYSTEMS,
        **{s.name: _label(s, recipe) for s in recipe.stages},
        "adapted": _label(recipe.main, recipe),
    }
    results = figures.results(recipe, systems, labels)
    return dataclasses.replace(results, routing=routing, learned=figures.learned)


def first_expert(
    task: InstructTask, language: LanguageModel, trainable: PyTree
) -> Float[np.ndarray, "n m"]:
    """The weight of attention's first expert in every layer, for text alone and for pictures."""
    assert isinstance(task.parts.language, RepAdapter)
    model = language.with_hook(task.parts.language)
    table = routing_table(model, trainable["language"], trainable["modality"]["embedding"])
    table = to_host(table)
    return (table if table.ndim == 3 else table[:, 0])[..., 0]


def describe_instruct(stage: Stage) -> str:
    """What an `instruct` stage trains, in a few words."""
    i = stage.instruct
    kinds = {"routed": "routed adapters", "single": "adapters, no router", "lora": "LoRA"}
    kind = f"{kinds[i.adapter]}, rank {i.rank}" if i.adapter in kinds else i.adapter
    if i.adapter == "none":
        alone = {"adapter": "projection alone", "projector": "projector alone"}
        kind = alone.get(i.train, "all weights")
        if i.train == "full" and not i.visual:
            kind += " but the vision transformer's"
    elif i.train == "projector":
        kind += ", projector"
    if i.feed_forward != "none":
        towers = {"vision": "of the vision transformer", "language": "of the language model"}
        kind += f", before feed-forward parts {towers.get(i.feed_forward, 'of both')} too"
    if not i.visual and i.adapter != "none":
        kind += ", language model only"
    texts = stage.questions.rehearsal
    return f"{kind}, {texts} texts rehearsed" if texts else kind


def _label(stage: Stage, recipe: Recipe) -> str:
    """What a stage trains; its name too where another trains the same on other data."""
    descriptions = [describe_instruct(s) for s in recipe.stages]
    own = describe_instruct(stage)
    named = stage.name.replace("_", " ") if stage.name != recipe.main.name else recipe.name
    return own if descriptions.count(own) == 1 else f"{named}: {own}"


def answer_tables(
    systems: Mapping[str, Mapping[str, Sequence[float]]],
    labels: Mapping[str, str],
    counts: Mapping[str, Sequence[int]],
    routing: Sequence[Sequence[Sequence[float]]],
    learned: Mapping[str, Sequence[int]],
) -> list[Table]:
    """Accuracy of every system, and the router's weights where there is one.

    Args:
      systems: system -> metric -> one value a seed.
      labels: system -> how a table calls it.
      counts: pictures and questions, and texts rehearsed, one number a seed.
      routing: of every seed the first expert's weight by layer and modality.
      learned: see `Figures.learned`; empty where nobody counted.

    Returns:
      One or two tables.
    """
    questions, pictures = (numbers(counts[n]) for n in ("questions", "test"))
    title, metrics = "Answers that match exactly", METRICS
    caption = (
        f"{questions} test questions about {pictures} pictures. A greedy answer is right where it "
        "is the wanted one to the last token, the end included."
    )
    if UNANSWERED in systems["adapted"]:
        title, metrics = "ScienceQA: accuracy by slice", SCIENCEQA
        caption = (
            f"{questions} test questions: natural, social and language science; with a text, with "
            "an image, with neither; grades. An answer that names no option is wrong, unless the "
            "recipe draws one."
        )
    elif "right" in systems["adapted"]:
        title, metrics = "Answers to the questions that are asked", ASKED
        caption = (
            f"{questions} questions. A yes or no counts where it is the last one said, any other "
            "answer where it stands in the conclusion as words; legacy: where its letters stand."
        )
    elif "perplexity" in systems["adapted"]:
        title, metrics = "Answers that were held out", HELD_OUT
        caption = (
            f"{questions} held-out conversations; every token of their answers weighs the same."
        )
        if "left_out" in counts:
            caption += f" {counts['left_out'][0]} rows with an empty answer were left out."
    if learned:
        epochs = sum(learned["visits"]) / sum(learned["rows"])
        seen = f"{numbers(learned['seen'])} of {numbers(learned['rows'])}"
        caption += f" Trained on {seen} rows, {epochs:.3g} epochs."
    used = [m for m in metrics if any(m in values for values in systems.values())]

    def rows(used: Sequence[str]) -> tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]:
        return tuple(
            (labels[name], tuple(tuple(values.get(metric, ())) for metric in used))
            for name, values in systems.items()
            if any(metric in values for metric in used)
        )

    columns = tuple(metrics[m] for m in used)
    tables = [Table(title, columns, rows(used), caption, (), (labels["adapted"],))]
    rehearsed = numbers(counts[REHEARSED]) if REHEARSED in counts else None
    untaught = metrics is METRICS and rehearsed is None
    if TEXT_METRIC in systems["adapted"]:
        text = "Lower is better. Adapters are routed as for text alone"
        text += ", which they were not trained on." if untaught else "."
        if rehearsed is not None:
            text += f" They rehearsed {rehearsed} texts that the frozen model wrote itself."
        cells = rows((TEXT_METRIC,))
        shown = (labels["adapted"],)
        tables.append(Table("Plain text", ("perplexity",), cells, text, (".2f",), shown))
    if routing:
        layers = tuple(
            (
                f"layer {i + 1}",
                tuple(tuple(seed[i][m] for seed in routing) for m in (0, 1)),
            )
            for i in range(len(routing[0]))
        )
        text = "Weight of the first expert; the second has the rest."
        if untaught:
            text += " Text was not trained on."
        tables.append(Table("What the router learned", ("text", "picture"), layers, text))
    return tables


def router_curves(routing: Sequence[Sequence[Sequence[float]]]) -> Iterator[Curve]:
    """The first expert's weight over layers, for text alone and for pictures, of every seed."""
    for seed, layers in enumerate(routing):
        for modality, name in enumerate(("text", "picture")):
            weights = tuple(layer[modality] for layer in layers)
            steps = tuple(range(1, len(layers) + 1))
            yield Curve(f"{name}/{seed}", "weight of the first expert", steps, weights, "layer")


def headline(systems: Mapping[str, Mapping[str, Sequence[float]]]) -> list[tuple[str, str]]:
    """Accuracy or perplexity, beside what stands for not looking."""
    adapted = systems["adapted"]
    metric = next(m for m in ("right", "perplexity", "vqa_acc") if m in adapted)
    mean = {
        n: statistics.fmean(values[metric]) for n, values in systems.items() if metric in values
    }
    what = "perplexity of held-out answers" if metric == "perplexity" else None
    lines = {
        "adapted": what or "accuracy on the test questions",
        "question": "from the question alone",
        "chance": "chance",
        "blank": "with a blank picture",
    }
    return [(line, f"{mean[name]:.3f}") for name, line in lines.items() if name in mean]
