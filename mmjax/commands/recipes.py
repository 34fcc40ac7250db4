"""Recipes by name or path: those of the user, and those that mmjax brings; without jax."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import mmjax
from mmjax.errors import MmjaxError, shown

FOLDER = Path(mmjax.__file__).parent / "configs"


def names() -> dict[str, str]:
    """The recipes that mmjax brings: name -> the first line of what each says of itself."""
    summaries = {}
    for path in sorted(FOLDER.glob("*.py")):
        lines = path.read_text("utf-8").lstrip('"').splitlines()
        if path.stem != "__init__":
            summaries[path.stem] = lines[0].rstrip('".')
    return summaries


def find_recipe(recipe: str) -> str:
    """A recipe's file, and the size behind its colon.

    Args:
      recipe: `FILE.py`, or the name of one that mmjax brings; perhaps `:SIZE` behind it, which the
        file's `get_config` is given.

    Returns:
      `PATH` or `PATH:SIZE`, as `--config` takes it.

    Raises:
      MmjaxError: there is no such file, and none of this name.
    """
    name, colon, size = recipe.partition(":")
    path = Path(name)
    if not path.is_file():
        path = FOLDER / f"{path.stem}.py"
        if (
            name.removesuffix(".py") not in (path.stem, f"configs/{path.stem}")
            or not path.is_file()
        ):
            raise MmjaxError(
                f"there is no recipe {shown(recipe)}; give a file, or one of {', '.join(names())}"
            )
    if path.resolve().parent == FOLDER.resolve():
        _let_them_know_each_other()
    return f"{path}{colon}{size}"


def _let_them_know_each_other() -> None:
    """Recipes build on each other as `configs.NAME`, wherever they lie."""
    if importlib.util.find_spec("configs") is None:
        sys.modules["configs"] = importlib.import_module("mmjax.configs")


def load_recipe(
    recipe: str | Mapping[str, Any] | ConfigDict, overrides: Mapping[str, Any]
) -> ConfigDict:
    """A recipe's settings with some of them replaced.

    Args:
      recipe: as for `find_recipe`, or the settings themselves.
      overrides: dotted name -> value, as `--config.NAME=VALUE` would set it.

    Returns:
      The settings.

    Raises:
      MmjaxError: no such recipe, one that cannot be read, or a setting that it does not name.
    """
    if isinstance(recipe, str):
        place, _, size = find_recipe(recipe).partition(":")
        spec = importlib.util.spec_from_file_location(f"recipe_{Path(place).stem}", place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            config = module.get_config(*([size] if size else []))
        except Exception as error:  # a recipe is a program: it can fail in any way
            raise MmjaxError(f"cannot read the recipe {recipe}: {error}") from error
    else:
        config = ConfigDict(recipe.to_dict() if isinstance(recipe, ConfigDict) else recipe)
    for name, value in overrides.items():
        with config.unlocked(), config.ignore_type():
            _set(config, name, value)
    return config


def _set(config: ConfigDict, name: str, value: Any) -> None:
    """Replaces one setting, which must be there."""
    *parents, last = name.split(".")
    place: Any = config
    for part in parents:
        if not isinstance(place, ConfigDict) or part not in place:
            raise MmjaxError(f"config.{name} is no setting of this recipe: there is no {part!r}")
        place = place[part]
    if not isinstance(place, ConfigDict) or last not in place:
        hint = f"; known: {', '.join(sorted(place))}" if isinstance(place, ConfigDict) else ""
        raise MmjaxError(f"config.{name} is no setting of this recipe{hint}")
    place[last] = value
