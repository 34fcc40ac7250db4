"""Pictures as a few-shot stage reads them: embedded once, or in the step if their tower learns."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mmjax.data.library import Library
from mmjax.data.records import Corpus
from mmjax.data.tables import FeatureTable, InputTable, PatchTable, View, ViewsTable, table_of
from mmjax.data.transforms import PLAIN
from mmjax.encoders.output import Inputs, Tower
from mmjax.errors import MmjaxError
from mmjax.evals import EvalSet
from mmjax.losses.distill import unit
from mmjax.specs.spec import Stage
from mmjax.tasks.base import DualEncoder, below
from mmjax.tasks.prompts.classes import labels_of
from mmjax.tasks.prompts.coupled import image_tower
from mmjax.tasks.prompts.joint import Joint
from mmjax.trees import PyTree


@dataclass(frozen=True)
class PicturesInStep:
    """Embeds pictures of a tower that learns, as a cache would hold those of a frozen one.

    Attributes:
      base: gives the joint space.
      tower: of pictures; says patches too where the method reads them.
    """

    base: DualEncoder
    tower: Tower

    def __call__(self, frozen: PyTree, inputs: Inputs) -> Inputs:
        """From pictures to what a method reads.

        Args:
          frozen: the encoder, `base` and `below`; perhaps adapters.
          inputs: {"pixel_values": [b v h w 3]}, every view of each, the one whose patches are read
            first; what is embedded already stays as it is.

        Returns:
          {"features": [b e], ["patches": [b l d], "patch_mask": [b l]]}: a unit vector, the mean of
          the views'.
        """
        if "pixel_values" not in inputs:
            return inputs
        shown = inputs["pixel_values"]
        count, views = shown.shape[:2]
        read = self.tower(frozen, {"pixel_values": shown.reshape(-1, *shown.shape[2:])})
        said = {name: read[name] for name in ("features", "mask") if name in read}
        embedded = self.base.embed("image", frozen["base"], below(frozen), said)
        vectors = self.base.normalize(embedded)
        if views > 1:
            vectors = unit(vectors.reshape(count, views, -1).mean(axis=1))
        beside = {
            name: read[name].reshape(count, views, *read[name].shape[1:])[:, 0]
            for name in ("patches", "patch_mask")
            if name in read
        }
        return {"features": vectors, **beside}


def pictures_of(stage: Stage, joint: Joint, library: Library) -> PicturesInStep | None:
    """What embeds a stage's pictures in the step; None where they are embedded beforehand."""
    if stage.caches("image"):
        return None
    return PicturesInStep(joint.task, image_tower(stage, library))


def eval_set_of(
    corpus: Corpus, items: Int[np.ndarray, " k"], classes: Sequence[str], table: InputTable
) -> EvalSet:
    """Those of the items whose class is asked for."""
    labels = labels_of(corpus, items, classes)
    view = View(table, np.asarray(items)[labels >= 0])
    if not len(view):
        raise MmjaxError(
            f"no test picture of {corpus.name} has one of the classes {list(classes)[:5]}; give "
            "more items, or another config.pairs.test_fraction"
        )
    return EvalSet(view, view, labels[labels >= 0], view, view)


def classified(
    stage: Stage,
    joint: Joint,
    folder: Path,
    corpus: Corpus,
    items: Int[np.ndarray, " k"],
    classes: Sequence[str],
    library: Library,
) -> EvalSet:
    """Those of the items that have one of these classes, as the stage reads pictures.

    Args:
      stage: the method.
      joint: the dual encoder in this folder.
      folder: the same.
      corpus: holds the items.
      items: which.
      classes: labels that are asked for.
      library: loads encoders.
    """
    table = table_of_pictures(stage, joint, folder, corpus, library)
    return eval_set_of(corpus, items, classes, table)


def table_of_pictures(
    stage: Stage, joint: Joint, folder: Path | None, corpus: Corpus, library: Library
) -> InputTable:
    """Every item's embedding in the joint space, the mean of its views, perhaps with patches.

    Of a tower that learns the pictures themselves, in every view.
    """
    spec, pairs = stage.encoders["image"], stage.pairs
    if not stage.caches("image"):
        plain_first = tuple(sorted(pairs.views, key=lambda name: name != PLAIN))
        bank = library.images(spec, dataclasses.replace(pairs, views=plain_first), cached=False)
        return ViewsTable(bank.table, np.asarray([rows[: bank.views] for rows in bank.rows]))
    key = ("embedded", folder, spec, corpus.name, corpus.fingerprint, len(corpus.items))

    def embed() -> FeatureTable:
        bank = library.images(spec, pairs, cached=True)
        every = bank.view(np.arange(len(corpus.items)))
        return table_of(list(joint.functions(library)["embed_images"](every)))

    embeddings = library.remember((*key, pairs.views), embed)
    if not stage.prompts.reads_patches:
        return embeddings
    tokens = dataclasses.replace(spec, output="tokens")
    bank = library.images(tokens, dataclasses.replace(pairs, views=(PLAIN,)), cached=True)
    assert isinstance(bank.table, FeatureTable)
    rows = np.asarray([rows[0] for rows in bank.rows])
    return PatchTable(embeddings, bank.table, rows, library.encoder(spec).has_class_token)
