"""Adapters of frozen layers by name; other packages bring theirs."""

from collections.abc import Mapping
from typing import Any

from mmjax import plugins
from mmjax.adapters.hooks import LayerAdapter, WeightAdapter
from mmjax.errors import MmjaxError, setting, shown
from mmjax.specs import adapters
from mmjax.specs.build import build

Adapter = LayerAdapter | WeightAdapter

# Each is a dataclass: its fields are its settings, it itself is the module.
ADAPTERS = plugins.Catalog[type[Adapter]](
    plugins.ADAPTERS, "an adapter's dataclass", type, adapters.ADAPTERS
)


def read_adapter(values: Mapping[str, Any], place: str) -> Adapter:
    """An adapter from a recipe's mapping.

    Args:
      values: its `kind`, and its settings beside it.
      place: the mapping's place in the recipe, for messages.

    Raises:
      MmjaxError: no such adapter, something else, or settings that it does not have.
    """
    settings = dict(values)
    return _make(settings.pop("kind", ""), settings, f"{place}.kind", place)


def make_adapter(name: str, settings: Mapping[str, Any], place: str) -> Adapter:
    """An adapter with its settings.

    Args:
      name: a known one, or `package.module:Name`.
      settings: field -> value.
      place: the setting that holds the name, for messages; `PLACE_settings` holds the others.

    Raises:
      MmjaxError: no such adapter, something else, or settings that it does not have.
    """
    return _make(name, settings, place, f"{place}_settings")


def _make(name: str, settings: Mapping[str, Any], place: str, where: str) -> Adapter:
    made = build(ADAPTERS.find(name, place), settings, where)
    if not isinstance(made, Adapter):
        raise MmjaxError(
            f"{setting(place)} is {shown(name)}, which lacks init, merge or __call__; see "
            "mmjax.adapters.hooks.LayerAdapter"
        )
    return made
