"""Using what was trained: load an adapter, export it."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, overload

from jax.sharding import Mesh

from mmjax.errors import MmjaxError, shown
from mmjax.runs.adapter_files import (
    base_folder,
    export_adapter,
    find_adapter,
    load_adapter_params,
    read_card,
)
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.dual_encoder.adapted import Adapted
from mmjax.tasks.instruct.answering import Answering
from mmjax.tasks.prompts.adapted import Classifier
from mmjax.tasks.run import Run

AnyAdapted: TypeAlias = Adapted | Classifier | Answering
KindT = TypeVar("KindT")


@overload
def load_adapter(
    path: str | Path,
    seed: int | None = None,
    allow_other_encoder: bool = False,
    mesh: Mesh | None = None,
    *,
    kind: type[KindT],
) -> KindT: ...


@overload
def load_adapter(
    path: str | Path,
    seed: int | None = None,
    allow_other_encoder: bool = False,
    mesh: Mesh | None = None,
) -> AnyAdapted: ...


def load_adapter(
    path: str | Path,
    seed: int | None = None,
    allow_other_encoder: bool = False,
    mesh: Mesh | None = None,
    *,
    kind: type[object] | None = None,
) -> object:
    """Loads a trained adapter and the frozen encoders that its card names.

    Args:
      path: a run folder, a stage's folder, an adapter's folder or an export.
      seed: which seed of a run folder; None takes the one with the best validation.
      allow_other_encoder: accept encoders whose fingerprints differ from the card's.
      mesh: where all of it will lie, whatever mesh it was trained on; None takes all devices as
        the mesh's axis `data`.
      kind: what is expected: `Adapted`, `Classifier`, `Answering`, or what a task of another
        package loads; type checkers know it then.

    Returns:
      `Adapted`, which embeds texts and pictures and searches; of the `prompts` task `Classifier`,
      which classifies too; of the `instruct` task `Answering`, which answers questions.

    Raises:
      MmjaxError: no adapter there, a damaged one, or other encoders than it was trained on;
        what another kind of task trained than `kind` asks for.
    """
    # Whoever calls may not check types.
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MmjaxError(f"load_adapter takes a path, got {shown(path)}")
    folder = find_adapter(Path(path), seed)
    card = read_card(folder)
    found = definition_of(card["stage"]["task"]).load(folder, allow_other_encoder, mesh)
    if kind is not None and not isinstance(found, kind):
        raise MmjaxError(
            f"{folder} holds a {card['stage']['task']!r} adapter, which loads as "
            f"{type(found).__name__}; expected {kind.__name__}"
        )
    return found


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
    written: list[Path] = []
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
