"""What each link of a chain adds and forgets: language, domain, prompts, each on the one below."""

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from mmjax import sharding
from mmjax.data.captions import all_captions, asked_texts
from mmjax.data.library import ImageBank, Library, TextBank
from mmjax.data.records import Corpus
from mmjax.evals import Functions, Retrieval
from mmjax.report.page import Table
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.base import DualEncoder
from mmjax.tasks.dual_encoder.eval_sets import eval_set
from mmjax.tasks.dual_encoder.stacking import frozen_towers, load_base
from mmjax.tasks.prompts.classes import classes_of, labels_of, language_of, split_of
from mmjax.tasks.prompts.data import ShotsData, know
from mmjax.tasks.prompts.joint import Joint
from mmjax.tasks.prompts.pictures import classified
from mmjax.tasks.prompts.task import PromptsTask
from mmjax.tasks.published import Published
from mmjax.tasks.run import Assembly, Run
from mmjax.trees import PyTree

LINK = "link: "  # begins the systems that are links of a chain
LEARNT, OTHERS = "accuracy, classes to learn", "accuracy, as many others"
Figures = Mapping[str, Sequence[float]]


def is_chain(recipe: Recipe) -> bool:
    """Whether what the main stage stands on is more than a dual encoder to start from."""
    return len(recipe.links) + (recipe.base is not None) > 1


def measure_chain(
    run: Run, assembly: Assembly[PromptsTask, ShotsData], trainable: PyTree, library: Library
) -> dict[str, dict[str, float]]:
    """Asks every link the same.

    Retrieval among the test items of the domain and among those of all else, by names in both
    languages. The added language goes through the text encoder that the link reads it with (before
    a language link that is the base's own, which does not know it), the other one always through
    the base's text head; pictures go through the link. Then which class a picture has: of those
    that prompts learn, and of as many that none does.

    Args:
      run: of the main stage, finished.
      assembly: of it.
      trainable: what it trained.
      library: encoders and tables.

    Returns:
      System -> metric -> value; the last system is the main stage, which moves no embedding.
    """
    stage, names = run.stage, run.recipe.languages
    corpus = library.corpus(stage.pairs)
    images = library.images(stage.encoders["image"], stage.pairs, cached=True)
    banks = _banks(stage, corpus, names, library)
    parts = _parts(stage, run.seed, library)
    classes, own = classes_of(stage, corpus)[0], split_of(stage, run.seed, library)["test"]
    others, rest = _others(stage, corpus, parts, len(classes))
    found: dict[str, dict[str, float]] = {}
    base_texts = None
    for link in _links(run):
        joint = _joint(stage, link.adapter, library)
        functions, role = joint.functions(library), joint.task.text_role
        base_texts = base_texts or functions["embed_texts"]
        values: dict[str, float] = {}
        for part, items in parts.items():
            for language, reads, bank in (
                (names[0], functions["embed_texts"], banks[role, names[0]]),
                (names[1], base_texts, banks["text", names[1]]),
            ):
                data = eval_set(corpus, items, images, bank, language)
                asked = {"embed_images": functions["embed_images"], "embed_texts": reads}
                values[f"{part}, {language}"] = Retrieval().run(asked, data)["mR"]
        called = language_of(stage, names)
        bank = banks[role if called == names[0] else "text", called]
        for metric, labels, items in ((LEARNT, classes, own), (OTHERS, others, rest)):
            if labels:
                texts = [corpus.labels[x][called] for x in labels]
                values[metric] = _accuracy(functions, images, bank, corpus, items, labels, texts)
        found[f"{LINK}{link.stage.name}"] = values
    found[f"{LINK}{stage.name}"] = _with_prompts(run, assembly, trainable, library, others, rest)
    return found


def _links(run: Run) -> list[Run]:
    """The finished runs that a run of this recipe stands on, the lowest first."""
    links: list[Run] = []
    below = run.base
    while below is not None:
        links.insert(0, below)
        below = below.base
    return links


def _joint(stage: Stage, folder: Path, library: Library) -> Joint:
    towers = frozen_towers(stage, library)
    task, frozen, card = load_base(folder, towers, library.mesh)
    assert isinstance(task, DualEncoder)
    return Joint(task, frozen, card, towers)


def _banks(
    stage: Stage, corpus: Corpus, languages: tuple[str, str], library: Library
) -> dict[tuple[str, str], TextBank]:
    """(role, language) -> the names of items and classes through a text encoder."""
    source, target = languages
    parts = {  # as the links read them, so that what they computed is found again
        "text": {
            f"{target} captions": all_captions(corpus, target),
            f"{source} names": asked_texts(corpus, source),
        },
        "foreign": {f"{source} captions": all_captions(corpus, source)},
    }
    banks: dict[tuple[str, str], TextBank] = {}
    for role in parts.keys() & stage.encoders.keys():
        bank = library.texts(role, stage.encoders[role], parts[role], True)
        banks |= {(role, language): bank for language in languages}
    return banks


def _parts(stage: Stage, seed: int, library: Library) -> dict[str, Int[np.ndarray, " _"]]:
    """Test items of the domain, and of all else; of the whole where there is no domain."""
    rest = library.split(stage.pairs, seed)["test"]
    if not stage.pairs.domain.labels:
        return {"items": rest}
    return {"domain": library.split(stage.pairs, seed, domain=True)["test"], "rest": rest}


def _others(
    stage: Stage, corpus: Corpus, parts: Mapping[str, Int[np.ndarray, " _"]], count: int
) -> tuple[list[str], Int[np.ndarray, " k"]]:
    """The classes outside the domain with the most test items, and the items to ask about."""
    rest = parts.get("rest" if stage.fewshot.domain else "domain")
    if rest is None:
        return [], np.zeros(0, np.int64)
    number = Counter(item.label for item in corpus.at(rest) if item.label)
    labels = sorted(sorted(number), key=lambda label: -number[label])[:count]
    return (sorted(labels) if len(labels) > 1 else []), rest


def _accuracy(
    functions: Functions,
    images: ImageBank,
    bank: TextBank,
    corpus: Corpus,
    items: Int[np.ndarray, " k"],
    labels: Sequence[str],
    texts: Sequence[str],
) -> float:
    """How often a picture's class is the one whose name is nearest, of these classes alone."""
    right = labels_of(corpus, items, labels)
    shown = functions["embed_images"](images.view(np.asarray(items)[right >= 0]))
    named = functions["embed_texts"](bank.view(texts))
    return float(((shown @ named.T).argmax(axis=1) == right[right >= 0]).mean())


def _with_prompts(
    run: Run,
    assembly: Assembly[PromptsTask, ShotsData],
    trainable: PyTree,
    library: Library,
    others: Sequence[str],
    rest: Int[np.ndarray, " k"],
) -> dict[str, float]:
    """The prompts' own accuracy, and with other classes' names in their place."""
    stage, corpus, task = run.stage, library.corpus(run.stage.pairs), assembly.task
    functions = Published(task, library.mesh).bind(trainable, assembly.frozen)
    asked = assembly.data.test["adapted"].data
    said = functions["score"](asked.images).argmax(axis=1)
    values = {LEARNT: float((said == asked.labels).mean())}
    if others and stage.prompts.names_new_classes:
        assert run.base is not None
        joint = _joint(stage, run.base.adapter, library)
        language = language_of(stage, run.recipe.languages)
        names = [corpus.labels[label][language] for label in others]
        new = know(stage, joint, names, library, run.seed)
        known = sharding.place({**new, "untrained": jnp.zeros(())}, library.mesh)
        functions = Published(task, library.mesh).bind(trainable, {**assembly.frozen, "new": known})
        data = classified(stage, joint, run.base.adapter, corpus, rest, others, library)
        said = functions["score_new"](data.images).argmax(axis=1)
        values[OTHERS] = float((said == data.labels).mean())
    return values


def chain_tables(
    systems: Mapping[str, Figures], labels: Mapping[str, str], fine: str = ".3f"
) -> list[Table]:
    """What the links say, and how each differs from the one below; nothing where there is none.

    Args:
      systems: those of `measure_chain`, among others.
      labels: system -> how a table calls it.
      fine: format of the figures.
    """
    links = [name for name in systems if name.startswith(LINK)]
    if not links:
        return []
    columns = list(dict.fromkeys(metric for name in links for metric in systems[name]))
    columns.sort(key=lambda metric: metric in (LEARNT, OTHERS))
    shown = tuple(c if c in (LEARNT, OTHERS) else f"mR, {c}" for c in columns)
    rows = tuple(
        (labels[name], tuple(tuple(systems[name].get(c, ())) for c in columns)) for name in links
    )
    caption = (
        "The same test items at every link; mR of both directions. A dash: prompts move no "
        "embedding, and adapters beside them are asked for classes alone. Names in the added "
        "language are read by the base's own encoder until a link brings another; names in the "
        "other language always by the base's text head."
    )
    tables = [Table("The chain, link by link", shown, rows, caption, (), (labels[links[-1]],))]
    changes = tuple(
        (labels[name], tuple(_change(systems[name], systems[below], c) for c in columns))
        for below, name in itertools.pairwise(links)
    )
    caption = "Seed by seed, against the link below: what is added, and (below 0) forgotten."
    formats = tuple(f"+{fine}" for _ in columns)
    return [*tables, Table("What each link adds and forgets", shown, changes, caption, formats)]


def _change(mine: Figures, below: Figures, metric: str) -> tuple[float, ...]:
    if metric not in mine or metric not in below:
        return ()
    return tuple(a - b for a, b in zip(mine[metric], below[metric], strict=True))


def chain_headline(systems: Mapping[str, Figures]) -> list[tuple[str, str]]:
    """Accuracy on the classes to learn, from the lowest link to the highest."""
    means = [
        f"{name.removeprefix(LINK)} {statistics.fmean(values[LEARNT]):.3f}"
        for name, values in systems.items()
        if name.startswith(LINK) and LEARNT in values
    ]
    return [(LEARNT, " → ".join(means))] if means else []
