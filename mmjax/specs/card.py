"""What an adapter's card must say before anything is made of it."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, cast

from mmjax.checks.foreign import integer, real, text
from mmjax.errors import MmjaxError, shown
from mmjax.specs.families import family_of
from mmjax.specs.spec import Stage, read_stage

SCHEMA = 1
_FINGERPRINTS = ("fingerprint", "preprocess_fingerprint")
_MOST_PARAMETERS = 10**10
_LONGEST = 10_000  # characters of a name, a path, a hash


def check_card(path: Path, card: object) -> dict[str, Any]:
    """Refuses a card with a value that is missing, of another type, or impossible.

    Args:
      path: of the card, for messages.
      card: what its JSON holds.

    Returns:
      The card.

    Raises:
      MmjaxError: names the file and the key.
    """
    if not isinstance(card, dict):
        raise MmjaxError(f"{path} is no adapter card: it holds {shown(card)}, no object")
    card = cast(dict[str, Any], card)
    if card.get("schema") != SCHEMA:
        raise MmjaxError(
            f"{path} has schema {shown(card.get('schema'))}; this version of mmjax reads schema "
            f"{SCHEMA}"
        )
    stage = _stage(path, card)
    _text(path, card, "recipe")
    integer(f"{path}: 'seed'", _get(path, card, "seed"), 0, 2**31 - 1)
    integer(f"{path}: 'step'", _get(path, card, "step"), 0, 10**12)
    params = _text(path, card, "params")
    if params == ".." or PurePath(params).name != params or set(params) & {"\\", "\0"}:
        raise MmjaxError(f"{path}: 'params' is {shown(params)}; expected a name beside the card")
    trainable = _mapping(path, card, "trainable")
    count = _get(path, trainable, "count", "trainable.count")
    integer(f"{path}: 'trainable.count'", count, 0, _MOST_PARAMETERS)
    _text(path, trainable, "fingerprint", "trainable.fingerprint")
    languages = _list(path, card, "languages")
    if len(languages) != 2:
        raise MmjaxError(f"{path}: 'languages' is {shown(languages)}; expected two texts")
    encoders = _mapping(path, card, "encoders")
    for role in stage.encoders:
        identity = _mapping(path, encoders, role, f"encoders.{role}")
        for part in _FINGERPRINTS:
            _text(path, identity, part, f"encoders.{role}.{part}")
    select, values = stage.train.select, _mapping(path, card, "validation")
    if select in values:
        real(f"{path}: 'validation.{select}'", values[select])
    for key in family_of(stage.task).on_card:
        if not _list(path, card, key):
            raise MmjaxError(f"{path}: {key!r} is empty; expected at least one name")
    _check_base(path, card, stage)
    return card


def _stage(path: Path, card: Mapping[str, Any]) -> Stage:
    """The stage that was trained."""
    content = _mapping(path, card, "stage")
    try:
        return read_stage(content)
    except MmjaxError as error:
        # The settings of a stage are told as those of a recipe.
        message = str(error).replace("config", "stage", 1)
        raise MmjaxError(f"{path}: {message}") from error


def _check_base(path: Path, card: Mapping[str, Any], stage: Stage) -> None:
    base = _get(path, card, "base")
    if base is None:
        if family_of(stage.task).needs_base:
            raise MmjaxError(
                f"{path}: 'base' is None, but an adapter of the task {stage.task!r} stands on one"
            )
        return
    if not family_of(stage.task).stands_on:
        raise MmjaxError(
            f"{path}: 'base' is {shown(base)}, but an adapter of the task {stage.task!r} stands on "
            "none"
        )
    base = _mapping(path, card, "base")
    place = _text(path, base, "path", "base.path")
    if PurePath(place).is_absolute() or "\0" in place:
        raise MmjaxError(f"{path}: 'base.path' is {shown(place)}; expected a relative path")
    _text(path, base, "fingerprint", "base.fingerprint")


def _get(path: Path, values: Mapping[str, Any], key: str, where: str = "") -> Any:
    if key not in values:
        raise MmjaxError(f"{path} lacks {(where or key)!r}; it is no whole adapter card")
    return values[key]


def _text(path: Path, values: Mapping[str, Any], key: str, where: str = "") -> str:
    value = _get(path, values, key, where)
    return text(f"{path}: {(where or key)!r}", value, _LONGEST)


def _mapping(path: Path, values: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
    value = _get(path, values, key, where)
    if not isinstance(value, dict):
        raise MmjaxError(f"{path}: {(where or key)!r} is {shown(value)}; expected an object")
    return cast(dict[str, Any], value)


def _list(path: Path, values: Mapping[str, Any], key: str) -> list[str]:
    value = _get(path, values, key)
    if not isinstance(value, list):
        raise MmjaxError(f"{path}: {key!r} is {shown(value)}; expected a list of texts")
    return [text(f"{path}: {key!r}", entry, _LONGEST) for entry in cast(list[Any], value)]
