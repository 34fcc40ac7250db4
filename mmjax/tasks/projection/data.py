"""What a `projection` stage reads with one seed: features with the class of each item."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mmjax.data.library import Library
from mmjax.data.pipeline import Choices, Phase
from mmjax.data.records import Corpus, Item
from mmjax.data.tables import (
    FeatureTable,
    JoinedTable,
    LabelTable,
    PartialTable,
    RawTable,
    View,
    table_of,
)
from mmjax.encoders.batching import Chosen
from mmjax.encoders.output import Tower
from mmjax.errors import MmjaxError, setting
from mmjax.evals.probe import LabelledSet, NearestNeighbours
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import EncoderSpec, Stage
from mmjax.tasks.adapting import tower_of, weights_in_step
from mmjax.tasks.projection.task import (
    JOINED,
    LABEL,
    ProjectionTask,
    function_of,
    make_projection,
)
from mmjax.tasks.run import Assembly, Run, StageData


@dataclass(frozen=True)
class LabelledData(StageData):
    """What a `projection` stage reads with one seed; all items with their classes are `val`."""

    val: LabelledSet


def assemble_projection(run: Run, library: Library) -> Assembly[ProjectionTask, LabelledData]:
    """Builds the task and its data; what is frozen are encoders with an adapter inside."""
    data = prepare_labelled(run.stage, run.recipe, run.seed, library)
    task = make_projection(run.stage, data.towers, library.mesh)
    widths = {name: data.towers[name].width for name in run.stage.projection.features}
    on_card = {"features": widths} if widths else {}
    frozen = weights_in_step(run.stage, library)
    return Assembly(task, data, frozen, evaluators=[NearestNeighbours()], on_card=on_card)


def prepare_labelled(stage: Stage, recipe: Recipe, seed: int, library: Library) -> LabelledData:
    """Builds tables, split, examples and evaluation sets of a `projection` stage.

    Args:
      stage: what is trained.
      recipe: languages; texts are read in the second one.
      seed: draws the split.
      library: shared by all stages.

    Returns:
      The stage's data.

    Raises:
      MmjaxError: items without a label, a single class, an encoder's output that is not one vector.
    """
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    labels = classes_of(corpus)
    raw = raw_views(stage, recipe, library, split["train"], learning=True)
    towers: dict[str, Tower] = {}
    for role, view in raw.items():
        inside = role in stage.adapters
        towers[role] = (
            tower_of(stage, role, library, None) if inside else Tower(role, width_of(view))
        )
    views = {JOINED: _joined(stage, raw)} if stage.projection.mode == "single" else raw
    roles = {
        role: Choices.of(view.table, [[int(view.rows[i])] for i in split["train"]])
        for role, view in views.items()
    }
    classes = LabelTable(np.arange(int(labels.max()) + 1))
    roles[LABEL] = Choices.of(classes, [[int(labels[i])] for i in split["train"]])
    by_function = {function_of(role): view for role, view in views.items()}
    val = LabelledSet(by_function, labels, split["train"], split["val"])
    return LabelledData(towers, (Phase(0, roles),), val, split, corpus)


def _joined(stage: Stage, views: Mapping[str, View]) -> View:
    """All modalities side by side, as a single projector reads them."""
    every = np.arange(min(map(len, views.values())))
    if not stage.adapters:
        rows = np.concatenate([features_of(view) for view in views.values()], axis=1)
        return View(table_of(list(rows)), every)
    whole = dict(views)
    for role, view in views.items():
        if isinstance(view.table, PartialTable):  # of frozen features: others are refused early
            whole[role] = View(table_of(list(features_of(view))), every)
    return View(JoinedTable(whole), every)


def raw_views(
    stage: Stage,
    recipe: Recipe,
    library: Library,
    train: Int[np.ndarray, " k"],
    learning: bool = False,
) -> dict[str, View]:
    """Modality -> every item's features, as its encoder gives them or as they came.

    Args:
      stage: names encoders and ready modalities.
      recipe: languages; texts are read in the second one.
      library: shared by all stages.
      train: items whose mean stands where a row lacks a modality, or a cell of it.
      learning: whether an encoder with an adapter runs in the step, so that its view holds what it
        reads; else its frozen features.

    Returns:
      One view a modality; where some rows lack it, of a `PartialTable`.
    """
    corpus, language = library.corpus(stage.pairs), recipe.languages[1]
    views: dict[str, View] = {}
    for role, spec in stage.encoders.items():
        there = np.asarray([has(role, item, language) for item in corpus.items], bool)
        if learning and role in stage.adapters:
            view = _encoded(stage, role, corpus, language, there, library, cached=False)
            views[role] = _in_step(view, there)
            continue
        views[role] = _encoded(stage, role, corpus, language, there, library)
        table = views[role].table
        check_output(role, spec, not isinstance(table, FeatureTable) or not table.pooled)
        if not there.all():
            features = table.gather(np.arange(len(table)))["features"]
            rows = np.full((len(corpus.items), features.shape[1]), np.nan, np.float32)
            rows[there] = features[views[role].rows]
            views[role] = filled(rows, train)
    for name in stage.projection.features:
        views[name] = filled(_ready(corpus, name), train)
    return views


def has(role: str, item: Item, language: str) -> bool:
    """Whether an item has what an encoder of this role reads."""
    return bool(item.images) if role == "image" else bool(item.captions.get(language))


def _encoded(
    stage: Stage,
    role: str,
    corpus: Corpus,
    language: str,
    there: Bool[np.ndarray, " n"],
    library: Library,
    cached: bool = True,
) -> View:
    """What an encoder makes of the items that have a picture, or a text; or what it reads."""
    spec, items = stage.encoders[role], np.flatnonzero(there)
    if role == "image":
        own, pairs = dataclasses.replace(corpus, items=tuple(corpus.at(items))), stage.pairs
        bank = library.pictures(spec, own, pairs.styles, pairs.views, cached)
        view = bank.view(np.arange(len(items)))
        return View(view.table, view.rows.reshape(-1))
    names = [item.captions[language][0] for item in corpus.at(items)]
    texts = library.texts(role, spec, {f"{language} texts": names}, cached)
    return texts.view(names)


def _in_step(view: View, there: Bool[np.ndarray, " n"]) -> View:
    """One row an item of what an encoder reads; items that lack it read another one's."""
    if there.all():
        return view
    table = view.table
    assert isinstance(table, RawTable)
    rows = np.zeros(len(there), np.int64)
    rows[there] = view.rows
    items = RawTable(Chosen(table.items, rows.tolist()), table.preprocess)
    return View(PartialTable(items, there), np.arange(len(there)))


def _ready(corpus: Corpus, name: str) -> Float[np.ndarray, "n d"]:
    """A modality that the data brings; NaN where a row lacks it."""
    lacking = np.full(ready_width(corpus, name), np.nan, np.float32)
    return np.stack([item.features.get(name, lacking) for item in corpus.items])


def ready_width(corpus: Corpus, name: str) -> int:
    """Size of the vectors of a modality that the data brings.

    Raises:
      MmjaxError: no item brings it.
    """
    check_features(corpus, (name,))
    return next(len(item.features[name]) for item in corpus.items if name in item.features)


def check_features(corpus: Corpus, names: Sequence[str]) -> None:
    """Refuses modalities that no item brings.

    Raises:
      MmjaxError: says which there are.
    """
    modalities = sorted({name for item in corpus.items for name in item.features})
    for name in names:
        if name not in modalities:
            raise MmjaxError(
                f"{setting('projection.features')} names {name!r}; the items of {corpus.name} "
                f"bring {modalities}"
            )


def filled(rows: Float[np.ndarray, "n d"], train: Int[np.ndarray, " k"]) -> View:
    """Rows with the training items' mean in the place of NaN, and which of them are there.

    Args:
      rows: NaN throughout where an item lacks the modality, in a cell where that is unknown.
      train: items whose mean is taken; 0 of a cell that none of them has.
    """
    unknown = np.isnan(rows)
    present = np.logical_not(unknown.all(axis=1))
    count = (~unknown[train]).sum(axis=0)
    mean = np.where(unknown[train], 0, rows[train]).sum(axis=0) / np.maximum(count, 1)
    table = table_of(list(np.where(unknown, mean, rows).astype(np.float32)))
    every = np.arange(len(rows))
    return View(table, every) if present.all() else View(PartialTable(table, present), every)


def width_of(view: View) -> int:
    """Size of the features of a view."""
    table = view.table.features if isinstance(view.table, PartialTable) else view.table
    assert isinstance(table, FeatureTable)
    return table.width


def check_output(role: str, spec: EncoderSpec, tokens: bool) -> None:
    """Refuses an encoder whose output is not one vector an item."""
    if tokens:
        raise MmjaxError(
            f"{setting(f'encoders.{role}.output')} is {spec.output!r}; a projection reads one "
            "vector an item: 'pooled', 'cls', 'cls_mean' or 'cls_mean_deep'"
        )


def features_of(view: View) -> np.ndarray:
    """The cached features of a view, f32 [n, d]."""
    return view.table.gather(view.rows)["features"]


def classes_of(corpus: Corpus) -> Int[np.ndarray, " n"]:
    """The number of every item's class, in the order of their names.

    Raises:
      MmjaxError: an item without a label, or one class alone.
    """
    without = [item.id for item in corpus.items if not item.label]
    if without:
        raise MmjaxError(
            f"{len(without)} items of {corpus.name} have no label ({without[0]} is the first); a "
            "projection learns from labels"
        )
    names = sorted({item.label for item in corpus.items})
    if len(names) < 2:
        raise MmjaxError(
            f"the items of {corpus.name} have one label alone ({', '.join(names)}); a projection "
            "is learnt from at least 2 classes"
        )
    number: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    return np.asarray([number[item.label] for item in corpus.items])
