"""Using what was trained: load an adapter, export it."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, overload

from jax.sharding import Mesh

from mmjax.errors import MmjaxError, shown
from mmjax.files import write_atomic
from mmjax.report.plots import picture_of
from mmjax.runs import hub, model_card
from mmjax.runs.adapter_files import (
    base_folder,
    export_adapter,
    find_adapter,
    load_adapter_params,
    read_card,
)
from mmjax.tasks.catalog import definition_of
from mmjax.tasks.definition import Shares
from mmjax.tasks.run import Run
from mmjax.writer import METRICS_FILE, read_metrics, series

if TYPE_CHECKING:  # each task's own module loads it
    from mmjax.tasks.dual_encoder.adapted import Adapted
    from mmjax.tasks.instruct.answering import Answering
    from mmjax.tasks.prompts.adapted import Classifier

    AnyAdapted: TypeAlias = Adapted | Classifier | Answering
else:
    AnyAdapted = object
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
      path: a run folder, a stage's folder, an adapter's folder or an export; or
        `hf:ORG/NAME[@REVISION]`, one of the hub.
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
    place = hub.download(str(path)) if str(path).startswith(hub.PREFIX) else Path(path)
    folder = find_adapter(place, seed)
    card = read_card(folder)
    adapter = definition_of(card["stage"]["task"]).load(folder, allow_other_encoder, mesh)
    if kind is not None and not isinstance(adapter, kind):
        raise MmjaxError(
            f"{folder} holds a {card['stage']['task']!r} adapter, which loads as "
            f"{type(adapter).__name__}; expected {kind.__name__}"
        )
    return adapter


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
        export_whole(source, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        written.append(target)
    return written


def export_whole(source: Path, target: Path, name: str = "") -> None:
    """Writes an adapter, its page and curves, and what it stands on in a folder `base` within.

    Args:
      source: the adapter's folder.
      target: made if missing.
      name: what the page calls it; the recipe's name where it is empty.

    Raises:
      MmjaxError: a damaged adapter, or the disk is full.
    """
    params, card = load_adapter_params(source)
    below = base_folder(card, source)
    if below is not None:
        export_whole(below, target / "base")
        card = card | {"base": {**card["base"], "path": "base"}}
    export_adapter(target, params, card)
    picture = _curves(source.parent)
    if picture:
        write_atomic(target / model_card.CURVES, picture)
    page = model_card.model_card(card, name, bool(picture))
    write_atomic(target / model_card.NAME, page)
    definition = definition_of(card["stage"]["task"])
    if isinstance(definition, Shares):
        definition.share(target, params, card)


def _curves(run: Path) -> bytes:
    """How the training went, as a PNG; nothing where no metrics lie beside the adapter."""
    if not (run / METRICS_FILE).is_file():
        return b""
    records = read_metrics(run)
    names = ("loss", *(name for r in records for name in r if name.startswith("val/")))
    curves = [(name, *series(records, name)) for name in dict.fromkeys(names)]
    return picture_of([(name, steps, values) for name, steps, values in curves if steps][:4])
