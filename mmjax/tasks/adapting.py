"""Adapters in the towers that a recipe names: made, and tried before anything is computed."""

import dataclasses
import functools
import logging
from collections.abc import Mapping

import jax
from jaxtyping import Array, Key

from mmjax.adapters.catalog import Adapter, read_adapter
from mmjax.adapters.hooks import start
from mmjax.data.library import Library, encode_in_step
from mmjax.data.tables import InputTable
from mmjax.encoders.base import Encoder
from mmjax.encoders.output import Tower
from mmjax.errors import setting
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.trees import PyTree

log = logging.getLogger("mmjax")
INSIDE = (
    "%s: %s learns inside the %s encoder, which therefore runs in every step, on %d items each; "
    "nothing of it is read from the cache"
)


def adapter_in(stage: Stage, role: str) -> Adapter | None:
    """The adapter that a recipe puts into a tower; None for none.

    Raises:
      MmjaxError: no such kind, or settings that it does not have.
    """
    if role not in stage.adapters:
        return None
    return read_adapter(stage.adapters[role], f"adapters.{role}")


def towers_of(stage: Stage, library: Library) -> dict[str, Tower]:
    """Role -> tower of all of a stage's encoders, which nothing feeds; see `tower_of`."""
    return {role: tower_of(stage, role, library, None) for role in stage.encoders}


def tower_of(
    stage: Stage, role: str, library: Library, table: InputTable | None, patches: bool = False
) -> Tower:
    """A stage's tower, with its adapter where it has one.

    Args:
      stage: the recipe's.
      role: of the tower.
      library: has its encoder.
      table: what feeds it, if anything does.
      patches: of one with an adapter, whether it says patches too; see `encode_in_step`.

    Raises:
      MmjaxError: an adapter that does not fit the encoder.
    """
    spec, adapter = stage.encoders[role], adapter_in(stage, role)
    tower = library.tower(role, spec, table)
    if adapter is None:
        return tower
    bare = library.encoder(spec)
    encoder = bare.with_hook(adapter)
    begin = functools.partial(_begin, adapter, bare)
    # Says what does not fit, before anything is computed.
    typed.shapes(begin, jax.random.key(0), bare.params)
    return dataclasses.replace(
        tower,
        encode=functools.partial(encode_in_step, bare, spec.output, patches=patches),
        begin=begin,
        adapted=functools.partial(encode_in_step, encoder, spec.output, patches=patches),
        # Only an adapter that drops something has a use for keys, one a layer.
        layers=bare.config.num_layers if getattr(adapter, "dropout", 0) else 0,
    )


def _begin(adapter: Adapter, encoder: Encoder, key: Key[Array, ""], params: PyTree) -> PyTree:
    return start(adapter, key, dataclasses.replace(encoder, params=params))


def weights_in_step(stage: Stage, library: Library) -> dict[str, PyTree]:
    """Role -> weights of the encoders that run in every step, which takes them as arguments.

    Args:
      stage: says which do.
      library: has the encoders.
    """
    inside = {r: spec for r, spec in stage.encoders.items() if not stage.caches(r)}
    return {role: library.encoder(spec).params for role, spec in inside.items()}


def told(stage: Stage) -> str:
    """What tells a stage with adapters from one without, in a table's words; "" for none."""
    roles: dict[str, list[str]] = {}
    for role, values in sorted(stage.adapters.items()):
        roles.setdefault(values["kind"], []).append(role)
    parts = [f"{kind} in {' and '.join(those)}" for kind, those in roles.items()]
    return f" with {', '.join(parts)}" if parts else ""


def announce(stage: Stage, items: Mapping[str, int] | None = None) -> None:
    """Says what is computed in every step that a cache would else have held.

    Args:
      stage: has adapters.
      items: role -> what its encoder reads in a step, of those that a cache would have stood for;
        None: of all, a batch.
    """
    if items is None:
        items = dict.fromkeys(stage.adapters, stage.train.batch_size)
    for role in (r for r in stage.adapters if r in items):
        log.warning(
            INSIDE,
            setting(f"adapters.{role}"),
            stage.adapters[role]["kind"],
            role,
            items[role],
        )
