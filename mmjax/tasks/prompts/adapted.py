"""Using what a few pictures of each class taught: classify, beside what a dual encoder does."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from mmjax import sharding
from mmjax.checks import arguments
from mmjax.checks.arguments import whole
from mmjax.checks.foreign import reading
from mmjax.data.tables import InputTable, PatchTable, View, table_of
from mmjax.encoders.layers import Hook, WeightHook
from mmjax.encoders.pictures import ImageLike
from mmjax.errors import MmjaxError
from mmjax.runs.adapter_files import CARD
from mmjax.tasks.dual_encoder.adapted import Adapted, Shown
from mmjax.tasks.dual_encoder.stacking import Loaded
from mmjax.tasks.prompts import data as fewshot
from mmjax.tasks.prompts.coupled import hook_in
from mmjax.tasks.prompts.joint import Joint, joint_on
from mmjax.tasks.prompts.task import PromptsTask
from mmjax.tasks.prompts.taught import Named, Taught, fit_residual, likeliest
from mmjax.tasks.published import Published
from mmjax.trees import PyTree


class Classifier(Adapted):
    """A trained `prompts` adapter with the frozen dual encoder below it."""

    def __init__(self, loaded: Loaded, joint: Joint, task: PromptsTask, frozen: PyTree) -> None:
        """Puts together what was loaded; see `mmjax.load_adapter`.

        Args:
          loaded: the adapter with all that it stands on.
          joint: the dual encoder below it.
          task: the method.
          frozen: what the method reads of its classes.
        """
        self._joint, self._frozen, self._trainable = joint, frozen, loaded.trainable
        self._published = Published(task, loaded.library.mesh)
        scores = self._published.bind(loaded.trainable, frozen)
        embeds = joint.functions(loaded.library)
        super().__init__(loaded, {**embeds, **scores})
        coupled = task.coupled(loaded.trainable, frozen)
        if "image" in coupled:
            self._adapters = {**self._adapters, "image": coupled["image"]}
        # Pictures as they were before the towers' adapters learned.
        self._below = Adapted(dataclasses.replace(loaded, trainable={}), embeds)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it learned."""
        return tuple(self.card["classes"])

    def classify(self, images: Sequence[ImageLike], k: int = 1) -> Named:
        """Names the likeliest classes of pictures; those that it learned.

        Args:
          images: paths, bytes, PIL pictures or uint8 arrays.
          k: how many classes to return.

        Returns:
          For every picture (class, probability), best first.

        Raises:
          MmjaxError: what are no pictures, or `k` is no number above 0.
        """
        return self._classify("score", self._table, images, k)

    def classify_base(self, images: Sequence[ImageLike], k: int = 1) -> Named:
        """The same by the frozen model alone, which knows the classes by their names."""
        return self._classify("score_base", self._base_table, images, k)

    def embed_base_images(self, images: Sequence[ImageLike]) -> Float[np.ndarray, "n d"]:
        """Pictures as the frozen model embeds them -> f32 unit vectors of the joint space."""
        return self._below.embed_images(images)

    def taught(self, classes: Sequence[str], shots: Sequence[Sequence[ImageLike]] = ()) -> "Taught":
        """A classifier of other classes, known by their names and perhaps by a few pictures.

        A residual on the names' embeddings is fitted to the pictures (TaskRes), and what it changes
        is added to what the adapter says of the names; where the method learned its classes alone
        (`PromptSpec.names_new_classes`), to what the frozen model says of them.

        Args:
          classes: two or more names, in the language that the text encoder reads.
          shots: for each class its pictures, as many as there are; empty fits nothing.

        Returns:
          The classifier.

        Raises:
          MmjaxError: fewer than two names, one twice, one without a token that the encoder knows,
            as many lists of shots as there are no classes, or what are no pictures.
        """
        names = [str(name) for name in arguments.texts(classes, "classes")]
        if len(names) < 2 or len(set(names)) < len(names):
            raise MmjaxError(f"expected two classes or more, each once; got {names}")
        if len(shots) not in (0, len(names)):
            raise MmjaxError(f"{len(shots)} lists of shots for {len(names)} classes; one for each")
        known = fewshot.know(
            self._stage, self._joint, names, self._library, self.card["seed"], kept=False
        )
        new = sharding.place({**known, "untrained": np.zeros(())}, self._library.mesh)
        scores = self._published.bind(self._trainable, {**self._frozen, "new": new})
        of_names = scores.get("score_new", scores["score_base_new"])
        text, scale = known["text"], float(np.exp(known["logit_scale"]))
        residual: Float[np.ndarray, "c e"] = np.zeros_like(text)
        labels = np.asarray([c for c, of_class in enumerate(shots) for _ in of_class])
        if len(labels):
            table = self._table([picture for of_class in shots for picture in of_class])
            rows = View(table, np.arange(len(table)))
            embedded = np.asarray(table.gather(rows.rows)["features"], np.float32)
            residual = fit_residual(embedded, labels, of_names(rows), text, scale)
        read = self._table, self._base_table
        return Taught(tuple(names), *read, of_names, scores["score_base_new"], residual)

    def _hook(self, role: str) -> Hook | WeightHook | None:
        return hook_in(self._stage, role, self._library)

    def _base_table(self, images: Sequence[ImageLike]) -> InputTable:
        """Pictures as the frozen model reads them."""
        return table_of(list(self.embed_base_images(images)))

    def _table(self, images: Sequence[ImageLike]) -> InputTable:
        """Pictures as the method reads them."""
        pictures = Shown(arguments.pictures(images))
        table: InputTable = table_of(list(self.embed_images(pictures)))
        if self._stage.prompts.reads_patches:
            tokens = table_of(list(self._outputs("image", pictures, "tokens")))
            encoder = self._library.encoder(self._specs["image"])
            rows = np.arange(len(pictures))
            table = PatchTable(table, tokens, rows, encoder.has_class_token)
        return table

    def _classify(
        self,
        function: str,
        read: Callable[[Sequence[ImageLike]], InputTable],
        images: Sequence[ImageLike],
        k: int,
    ) -> Named:
        whole("k", k, 1)
        table = read(images)
        with reading(self._folder / CARD, "the card of its parameters", MmjaxError):
            logits = self._functions[function](View(table, np.arange(len(table))))
        return likeliest(logits, self.classes, k)


def load_classifier(folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> Classifier:
    """Loads the adapter and checks its encoders; see `mmjax.load_adapter`."""
    loaded = Loaded.of(folder, allow_other_encoder, mesh)
    stage, card, library = loaded.stage, loaded.card, loaded.library
    joint = joint_on(stage, loaded.base, loaded.frozen, loaded.base_card, library)
    known = fewshot.know(stage, joint, card["classes"], library, card["seed"])
    frozen = fewshot.frozen_of(stage, joint, sharding.place(known, library.mesh), library)
    return Classifier(loaded, joint, fewshot.task_of(stage, joint, library), frozen)
