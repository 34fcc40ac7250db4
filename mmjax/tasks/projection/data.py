"""What a `projection` stage reads with one seed: features with the class of each item."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mmjax.data.library import Library
from mmjax.data.pipeline import Choices, Phase
from mmjax.data.records import Corpus
from mmjax.data.tables import FeatureTable, LabelTable, View, table_of
from mmjax.errors import MmjaxError, setting
from mmjax.evals.probe import LabelledSet, NearestNeighbours
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import EncoderSpec, Stage
from mmjax.tasks.projection.task import FUNCTIONS, LABEL, ProjectionTask, make_projection
from mmjax.tasks.run import Assembly, Run, StageData


@dataclass(frozen=True)
class LabelledData(StageData):
    """What a `projection` stage reads with one seed; all items with their classes are `val`."""

    val: LabelledSet


def assemble(run: Run, library: Library) -> Assembly[ProjectionTask, LabelledData]:
    """Builds the task and its data; nothing is frozen below cached features."""
    data = prepare_labelled(run.stage, run.recipe, run.seed, library)
    task = make_projection(run.stage, data.towers, library.mesh)
    return Assembly(task, data, {}, evaluators=[NearestNeighbours()])


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
    raw = raw_views(stage, recipe, library)
    towers = {r: library.tower(r, stage.encoders[r], view.table) for r, view in raw.items()}
    views = raw
    if stage.projection.mode == "single":
        rows = np.concatenate([features_of(view) for view in raw.values()], axis=1)
        views = {"joined": View(table_of(list(rows)), np.arange(len(rows)))}
    roles = {
        role: Choices.of(view.table, [[int(view.rows[i])] for i in split["train"]])
        for role, view in views.items()
    }
    classes = LabelTable(np.arange(int(labels.max()) + 1))
    roles[LABEL] = Choices.of(classes, [[int(labels[i])] for i in split["train"]])
    asked = {FUNCTIONS[role]: view for role, view in views.items()}
    val = LabelledSet(asked, labels, split["train"], split["val"])
    return LabelledData(towers, (Phase(0, roles),), val, split, corpus)


def raw_views(stage: Stage, recipe: Recipe, library: Library) -> dict[str, View]:
    """Role -> every item's features, as the encoder gives them."""
    corpus, language = library.corpus(stage.pairs), recipe.languages[1]
    views: dict[str, View] = {}
    for role, spec in stage.encoders.items():
        if role == "image":
            found = library.images(spec, stage.pairs, cached=True).view(
                np.arange(len(corpus.items))
            )
            views[role] = View(found.table, found.rows.reshape(-1))
        else:
            names = [item.captions[language][0] for item in corpus.items]
            bank = library.texts(role, spec, {f"{language} texts": names}, cached=True)
            views[role] = bank.view(names)
        table = views[role].table
        check_output(role, spec, not isinstance(table, FeatureTable) or not table.pooled)
    return views


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
