"""Mappings to frozen dataclasses: names, types and bounds are checked, and told by dotted name.

Own code, and no pydantic: 2.14 was tried on two specs. Laxly, "10", 1.0 and True become counts,
"no" a bool, and unknown names are passed over; strictly, a recipe's mapping is refused where a
dataclass stands. So types would need schemas of their own and errors sentences of their own, and a
start took a quarter of a second more. Whoever writes an adapter or a task gives a plain dataclass,
with `mmjax.specs.bounds`.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from mmjax.checks.foreign import text
from mmjax.errors import MmjaxError, check, shown
from mmjax.specs import bounds

T = TypeVar("T")


LONGEST = 10_000  # characters of a setting's text, entries of a list


DEEPEST = 20  # mappings within mappings


def build(cls: type[T], values: object, where: str = "") -> T:
    """Builds a spec dataclass from a mapping, checking names and types.

    Args:
      cls: a dataclass of `mmjax.specs.spec`.
      values: a mapping, field name -> value; nested mappings for nested dataclasses.
      where: the mapping's place in the recipe, for messages.

    Returns:
      The dataclass.

    Raises:
      MmjaxError: an unknown name, a missing one, or a value of another type or outside its choices.
    """
    hints = bounds.hints_of(cls)
    check(isinstance(values, Mapping), where or cls.__name__, values, "a mapping")
    values = typing.cast(Mapping[str, Any], values)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for name in values:
        check(name in fields, f"{prefix}{name}", values[name], f"one of the keys {sorted(fields)}")
    missing = [
        n
        for n, f in fields.items()
        if n not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise MmjaxError(f"config{'.' if where else ''}{where} lacks {missing}")
    return cls(**{n: convert(hints[n], v, f"{prefix}{n}") for n, v in values.items()})


def convert(hint: Any, value: Any, where: str) -> Any:
    """Checks one value against its type and bounds; lists become tuples, ints floats."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type[Any], hint), value, where)
    if origin is typing.Annotated:
        converted = convert(args[0], value, where)
        limits = bounds.of(hint)
        if limits is not None:
            limits.check(where, converted)
        return converted
    if hint in (object, Any):  # another package's own
        return value
    if origin is Literal:
        check(isinstance(value, str) and value in args, where, value, f"one of {list(args)}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        check(isinstance(value, (tuple, list)), where, value, "a list")
        check(len(value) <= LONGEST, where, value, f"at most {LONGEST} entries")
        return tuple(convert(args[0], v, where) for v in value)
    if origin is dict:
        check(isinstance(value, Mapping), where, value, "a mapping")
        return {k: convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        check(abs(value) < 1 << 1000, where, value, "a number that fits into a float")
        value = float(value)
    check(
        isinstance(value, hint) and (hint is bool or not isinstance(value, bool)),
        where,
        value,
        f"a value of type {hint.__name__}",
    )
    if hint is str:
        string = text(f"config.{where}", value, LONGEST)
        check("\0" not in string, where, string, "a text without NUL")
    return value


def as_dict(config: Any, deepest: int = DEEPEST) -> dict[str, Any]:
    """A plain nested dict of a ConfigDict or mapping.

    Raises:
      MmjaxError: it is neither, a name is no text, or it holds itself or is nested without end.
    """
    if not hasattr(config, "items"):
        raise MmjaxError(f"the recipe is {shown(config)}; expected a ConfigDict or a dict")
    if not deepest:
        raise MmjaxError(f"the recipe is nested deeper than {DEEPEST} levels")
    items: Any = config.items()  # ConfigDict is no Mapping, but has items
    plain: dict[str, Any] = {}
    for name, value in items:
        if not isinstance(name, str):
            raise MmjaxError(f"the recipe has a setting called {shown(name)}; expected a text")
        plain[name] = as_dict(value, deepest - 1) if hasattr(value, "items") else value
    return plain
