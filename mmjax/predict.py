"""Using what was trained: load an adapter, embed, search, export."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from PIL.Image import Image

from mmjax import sharding
from mmjax.checks import arguments
from mmjax.checks.arguments import several, whole
from mmjax.checks.foreign import reading, shown
from mmjax.data.library import Library
from mmjax.data.tables import FeatureTable, PatchTable, Table, View, table_of
from mmjax.data.transforms import view
from mmjax.encoders.pictures import ImageLike, open_image
from mmjax.errors import MmjaxError
from mmjax.evals.functions import Published
from mmjax.runs.adapter_files import (
    CARD,
    export_adapter,
    find_adapter,
    load_adapter_params,
    read_card,
)
from mmjax.tasks import Tower, make_task
from mmjax.tasks.dual_encoder.stacking import (
    base_folder,
    check_encoder,
    check_sizes,
    load_base_of,
    stage_of,
)
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.prompts import data as fewshot
from mmjax.train import Run


@dataclasses.dataclass(frozen=True)
class _Shown(Sequence[Image]):
    """Pictures in one view or several, each opened when its turn comes.

    Attributes:
      images: paths, bytes, PIL pictures or uint8 arrays.
      views: what each is shown in, one after the other.
    """

    images: Sequence[ImageLike]
    views: Sequence[str] = ("plain",)

    def __len__(self) -> int:
        return len(self.images) * len(self.views)

    def __getitem__(self, i: Any, /) -> Any:
        picture, name = divmod(range(len(self))[int(i)], len(self.views))
        return view(self.views[name], open_image(self.images[picture], picture))


class Adapted:
    """A trained adapter with the frozen encoders below it.

    Attributes:
      card: everything that is known of it.
    """

    def __init__(self, folder: Path, allow_other_encoder: bool, mesh: Mesh | None = None) -> None:
        """Loads the adapter and checks its encoders; see `load_adapter`."""
        self._mesh, self._folder = mesh or sharding.make_mesh(), folder
        params, self.card = load_adapter_params(folder)
        stage = stage_of(self.card)
        self._library = Library(self._mesh, tuple(self.card["languages"]))
        self._specs = dict(stage.encoders)
        self._views = stage.pairs.views
        for role, spec in self._specs.items():
            check_encoder(self._library, self.card, role, spec, allow_other_encoder, folder)
        towers = {
            role: Tower(role, self._library.encoder(spec).width(spec.output))
            for role, spec in self._specs.items()
        }
        base, frozen, base_card = load_base_of(self.card, folder, towers, self._mesh)
        trainable = sharding.place(params, self._mesh)
        self._stage, self._text_role = stage, stage.text_role
        if stage.task == "prompts":
            joint = fewshot.joint_on(stage, base, frozen, base_card, self._library)
            names, seed = self.card["classes"], self.card["seed"]
            known = fewshot.know(stage, joint, names, self._library, seed)
            frozen = fewshot.frozen_of(stage, joint, known, self._library)
            task = fewshot.task_of(stage, joint, self._library)
            scores = Published(task, self._mesh).bind(trainable, frozen)
            self._functions = {**joint.functions(self._library), **scores}
        else:
            task = make_task(stage, towers, base, self._mesh)
            check_sizes(task, stage, towers, trainable, frozen, folder)
            self._functions = Published(task, self._mesh).bind(trainable, frozen)

    def _embed(self, role: str, function: str, items: Sequence[Any]) -> Float[np.ndarray, "n d"]:
        if function not in self._functions:
            raise MmjaxError(
                f"this adapter has no {function}; it has {sorted(self._functions)}"
                + (" (see `embed_joined`)" if "embed_joined" in self._functions else "")
            )
        table, views = self._features(role, items), len(self._views) if role == "image" else 1
        rows = np.arange(len(items))
        # Several views are averaged to a unit vector; one alone stays as the task made it.
        return self._functions[function](
            View(table, rows.reshape(-1, views) if views > 1 else rows)
        )

    def _features(self, role: str, items: Sequence[Any]) -> FeatureTable:
        if not len(several(items, "items")):
            raise MmjaxError("expected at least one item to embed")
        spec = self._specs[role]
        return table_of(list(self._library.encoder(spec).outputs(items, spec.output)))

    def embed_joined(
        self, images: Sequence[ImageLike] = (), texts: Sequence[str] = ()
    ) -> Float[np.ndarray, "n d"]:
        """Pictures and texts of the same items through one projector that reads both -> f32.

        For a `projection` with `mode="single"`; one without an encoder takes no such items.
        """
        if "embed_joined" not in self._functions:
            raise MmjaxError(f"this adapter has no embed_joined; it has {sorted(self._functions)}")
        given: dict[str, Sequence[Any]] = {
            "image": _Shown(arguments.pictures(images)),
            "text": arguments.texts(texts),
        }
        if len({len(given[role]) for role in self._specs}) != 1:
            raise MmjaxError(
                f"got {len(images)} images and {len(texts)} texts; expected as many of each that "
                f"the adapter reads ({sorted(self._specs)})"
            )
        parts = [self._features(role, given[role]).values for role in self._specs]
        table = table_of(list(np.concatenate(parts, axis=1)))
        return self._functions["embed_joined"](View(table, np.arange(len(table))))

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Texts of the adapted language -> f32 unit vectors of the joint space."""
        return self._embed(self._text_role, "embed_texts", arguments.texts(texts, "items"))

    def embed_base_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Texts of the base's own language -> f32 unit vectors of the joint space."""
        name = "embed_base_texts" if "embed_base_texts" in self._functions else "embed_texts"
        return self._embed("text", name, arguments.texts(texts, "items"))

    def embed_images(self, images: Sequence[ImageLike]) -> Float[np.ndarray, "n d"]:
        """Pictures (paths, bytes, PIL, uint8 arrays) -> f32 unit vectors of the joint space."""
        return self._embed("image", "embed_images", _Shown(arguments.pictures(images), self._views))

    def classify(self, images: Sequence[ImageLike], k: int = 1) -> list[list[tuple[str, float]]]:
        """Names the likeliest classes of pictures; of an adapter that `prompts` trained.

        Args:
          images: paths, bytes, PIL pictures or uint8 arrays.
          k: how many classes to return.

        Returns:
          For every picture (class, probability), best first.

        Raises:
          MmjaxError: the adapter knows no classes.
        """
        if "score" not in self._functions:
            raise MmjaxError(
                f"a {self._stage.task!r} adapter knows no classes; classify needs one that the "
                "prompts task trained"
            )
        whole("k", k, 1)
        pictures = _Shown(arguments.pictures(images))
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

    def search(
        self,
        texts: Sequence[str],
        images: Sequence[ImageLike] | Float[np.ndarray, "n d"],
        k: int = 5,
    ) -> list[list[tuple[int, float]]]:
        """Finds the pictures that fit each text best.

        Args:
          texts: queries in the adapted language.
          images: pictures, or what `embed_images` returned for them.
          k: how many to return.

        Returns:
          For every text (index of the picture, cosine), best first.

        Raises:
          MmjaxError: one text or picture instead of a list, or a gallery of another width.
        """
        whole("k", k, 1)
        arguments.texts(texts, "items")
        if isinstance(images, np.ndarray | jax.Array) and images.ndim == 2:
            asked, gallery = self.embed_texts(texts), np.asarray(images)
            if gallery.shape[1] != asked.shape[1] or gallery.dtype.kind not in "fV":
                raise MmjaxError(
                    f"the gallery is {gallery.dtype} {list(gallery.shape)}; expected pictures, or "
                    f"what embed_images returned for them: floats [n, {asked.shape[1]}]"
                )
            if not np.isfinite(gallery.astype(np.float32)).all():
                raise MmjaxError("the gallery holds NaN or infinity; embed its pictures again")
        else:
            gallery = self.embed_images(list(arguments.pictures(images)))
            asked = self.embed_texts(texts)
        scores = asked @ gallery.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [
            [(int(i), float(row[i])) for i in top] for row, top in zip(scores, best, strict=True)
        ]


def load_adapter(
    path: str | Path,
    seed: int | None = None,
    allow_other_encoder: bool = False,
    mesh: Mesh | None = None,
) -> Any:
    """Loads a trained adapter and the frozen encoders that its card names.

    Args:
      path: a run folder, a stage's folder, an adapter's folder or an export.
      seed: which seed of a run folder; None takes the one with the best validation.
      allow_other_encoder: accept encoders whose fingerprints differ from the card's.
      mesh: where all of it will lie, whatever mesh it was trained on; None takes all devices as
        the mesh's axis `data`.

    Returns:
      `Adapted`, which embeds texts and pictures and searches; of the `instruct` task
      `mmjax.tasks.instruct.answering.Answering`, which answers questions.

    Raises:
      MmjaxError: no adapter there, a damaged one, or other encoders than it was trained on.
    """
    if not isinstance(path, str | os.PathLike):
        raise MmjaxError(f"load_adapter takes a path, got {shown(path)}")
    folder = find_adapter(Path(path), seed)
    if read_card(folder)["stage"]["task"] == "instruct":
        return Answering.load(folder, allow_other_encoder, mesh)
    return Adapted(folder, allow_other_encoder, mesh)


def export(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes every finished adapter as safetensors and card, its base beside it.

    Args:
      runs: of a recipe.
      folder: where to; gets one folder a seed and stage.

    Returns:
      The folders written.

    Raises:
      MmjaxError: a run is not finished.
    """
    written = []
    for run in runs:
        source = find_adapter(run.folder)
        target = folder / f"seed_{run.seed}" / run.stage.name
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        _export_whole(source, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        written.append(target)
    return written


def _export_whole(source: Path, target: Path) -> None:
    """Writes an adapter, and what it stands on in a folder `base` within."""
    params, card = load_adapter_params(source)
    below = base_folder(card, source)
    if below is not None:
        _export_whole(below, target / "base")
        card = card | {"base": {**card["base"], "path": "base"}}
    export_adapter(target, params, card)
