"""What an adapter's card says of its run, and whether encoders are those of a card."""

import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mmjax import __version__, sharding
from mmjax.data.library import Library
from mmjax.errors import MmjaxError
from mmjax.specs.spec import EncoderSpec
from mmjax.tasks.base import Task
from mmjax.tasks.run import Assembly, Data, Run, stage_of


def check_encoder(
    library: Library,
    card: Mapping[str, Any],
    role: str,
    spec: EncoderSpec,
    allow_other: bool,
    folder: Path,
) -> None:
    """Refuses an encoder that an adapter was not trained on.

    Raises:
      MmjaxError: its weights or its preprocessing are not those of the card.
    """
    identity, saved = library.identity(spec), card["encoders"][role]
    for part in ("fingerprint", "preprocess_fingerprint"):
        if identity[part] != saved[part] and not allow_other:
            raise MmjaxError(
                f"{folder} was trained on another {role} encoder: the {part} of "
                f"{spec.source} is {identity[part][:12]}, the card says {saved[part][:12]}; give "
                "the same weights, or accept these with allow_other_encoder=True"
            )


def library_of(
    card: Mapping[str, Any], allow_other: bool, folder: Path, mesh: Mesh | None
) -> Library:
    """The library that a finished adapter's encoders are loaded from, all of them checked.

    Args:
      card: the adapter's.
      allow_other: accept encoders whose fingerprints differ from the card's.
      folder: where it lies, for messages.
      mesh: where all of it will lie; None takes all devices as the axis `data`.

    Raises:
      MmjaxError: it was trained on other encoders.
    """
    library = Library(mesh or sharding.make_mesh(), tuple(card["languages"]))
    for role, spec in stage_of(card).encoders.items():
        check_encoder(library, card, role, spec, allow_other, folder)
    return library


def make_card(run: Run, library: Library, assembly: Assembly[Task, Data]) -> dict[str, Any]:
    """What a reader needs to use the adapter: method, sizes, frozen encoders, recipe."""
    base = None
    if run.base is not None and assembly.base is not None:
        base = {
            "path": os.path.relpath(run.base.adapter, run.adapter),
            "fingerprint": assembly.base["trainable"]["fingerprint"],
        }
    return {
        "schema": 1,
        "recipe": run.recipe.name,
        "languages": list(run.recipe.languages),
        "seed": run.seed,
        "stage": dataclasses.asdict(run.stage),
        "encoders": {r: library.identity(s) for r, s in run.stage.encoders.items()},
        "data": {
            "name": assembly.data.corpus.name,
            "fingerprint": assembly.data.corpus.fingerprint,
        },
        "base": base,
        **assembly.on_card,
        "versions": {"mmjax": __version__} | versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
