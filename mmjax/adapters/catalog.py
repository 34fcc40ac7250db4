"""Adapters of frozen layers by name; other packages bring theirs."""

from collections.abc import Mapping
from typing import Any

from mmjax import plugins
from mmjax.adapters.hooks import LayerAdapter
from mmjax.errors import MmjaxError, setting, shown
from mmjax.specs import adapters
from mmjax.specs.build import build

# Each is a dataclass: its fields are its settings, it itself is the module.
ADAPTERS = plugins.Catalog[type[LayerAdapter]](
    plugins.ADAPTERS, "an adapter's dataclass", type, adapters.ADAPTERS
)


def make_adapter(name: str, settings: Mapping[str, Any], place: str) -> LayerAdapter:
    """An adapter with its settings.

    Args:
      name: a known one, or `package.module:Name`.
      settings: field -> value.
      place: the setting that holds the name, for messages; `PLACE_settings` holds the others.

    Raises:
      MmjaxError: no such adapter, something else, or settings that it does not have.
    """
    kind = ADAPTERS.find(name, place)
    made = build(kind, settings, f"{place}_settings")
    if not isinstance(made, LayerAdapter):
        raise MmjaxError(
            f"{setting(place)} is {shown(name)}, which lacks init, merge or __call__; see "
            "mmjax.adapters.hooks.LayerAdapter"
        )
    return made
