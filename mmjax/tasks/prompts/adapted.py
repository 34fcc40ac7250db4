"""Using what a few pictures of each class taught: classify, beside what a dual encoder does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from mmjax.checks import arguments
from mmjax.checks.arguments import whole
from mmjax.checks.foreign import reading
from mmjax.data.tables import PatchTable, Table, View, table_of
from mmjax.encoders.pictures import ImageLike
from mmjax.errors import MmjaxError
from mmjax.runs.adapter_files import CARD
from mmjax.tasks.dual_encoder.adapted import Adapted, Shown
from mmjax.tasks.dual_encoder.stacking import Loaded
from mmjax.tasks.prompts import data as fewshot
from mmjax.tasks.published import Published


class Classifier(Adapted):
    """A trained `prompts` adapter with the frozen dual encoder below it."""

    def classify(self, images: Sequence[ImageLike], k: int = 1) -> list[list[tuple[str, float]]]:
        """Names the likeliest classes of pictures; those that it learned.

        Args:
          images: paths, bytes, PIL pictures or uint8 arrays.
          k: how many classes to return.

        Returns:
          For every picture (class, probability), best first.

        Raises:
          MmjaxError: what are no pictures, or `k` is no number above 0.
        """
        whole("k", k, 1)
        pictures = Shown(arguments.pictures(images))
        table: Table = table_of(list(self.embed_images(pictures)))
        if self._stage.prompts.reads_patches:
            encoder = self._library.encoder(self._specs["image"])
            tokens = table_of(list(encoder.outputs(pictures, "tokens")))
            table = PatchTable(table, tokens, np.arange(len(pictures)))
        with reading(self._folder / CARD, "the card of its parameters", MmjaxError):
            logits = self._functions["score"](View(table, np.arange(len(images))))
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        names, best = self.card["classes"], np.argsort(-share, axis=1, kind="stable")[:, :k]
        return [
            [(names[c], float(row[c])) for c in order]
            for row, order in zip(share, best, strict=True)
        ]


def load_classifier(folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> Classifier:
    """Loads the adapter and checks its encoders; see `mmjax.load_adapter`."""
    loaded = Loaded.of(folder, allow_other_encoder, mesh)
    stage, card, library = loaded.stage, loaded.card, loaded.library
    joint = fewshot.joint_on(stage, loaded.base, loaded.frozen, loaded.base_card, library)
    known = fewshot.know(stage, joint, card["classes"], library, card["seed"])
    frozen = fewshot.frozen_of(stage, joint, known, library)
    task = fewshot.task_of(stage, joint, library)
    scores = Published(task, library.mesh).bind(loaded.trainable, frozen)
    return Classifier(loaded, {**joint.functions(library), **scores})
