"""What callers give to public functions: the natural mistakes get a sentence, not a traceback."""

import inspect
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.errors import MmjaxError, shown


def several(values: Any, what: str) -> Any:
    """Something with a length and an index, where one item alone is a mistake.

    Args:
      values: what was given.
      what: names what belongs in it, in the plural: "texts".

    Returns:
      The same.

    Raises:
      MmjaxError: a text, a path, a mapping, or anything that cannot be gone through twice.
    """
    single = isinstance(values, str | bytes | os.PathLike | Mapping)
    listed = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    if single or not listed or getattr(values, "ndim", 1) == 0:
        raise MmjaxError(
            f"expected a list of {what}, got {_shown(values)}; put a single one into a list"
        )
    return values


def pictures(values: Any) -> Any:
    """A list of pictures, or an array of several.

    Raises:
      MmjaxError: as `several`, or the array of one picture.
    """
    values = several(values, "pictures")
    if isinstance(values, np.ndarray) and (
        values.ndim < 3 or (values.ndim == 3 and values.shape[-1] in (3, 4))
    ):
        raise MmjaxError(
            f"expected a list of pictures, got an array of shape {values.shape}; put a single one "
            "into a list"
        )
    return values


def texts(values: Any, what: str = "texts") -> Any:
    """A list of texts.

    Raises:
      MmjaxError: as `several`, or an entry that is no text.
    """
    for i, value in enumerate(several(values, what)):
        if not isinstance(value, str):
            raise MmjaxError(f"entry {i} of the {what} is {_shown(value)}; expected a text")
    return values


def whole(name: str, value: Any, least: int, most: int = 10**9) -> int:
    """A whole number; numpy's are whole numbers too.

    Raises:
      MmjaxError: something else, or one out of bounds.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        raise MmjaxError(
            f"{name} {shown(value)} must be at least {least}"
            if number is not None and number < least
            else f"{name} {shown(value)} must be a whole number from {least} to {most}"
        )
    return number


def token_ids(values: Sequence[Any], vocab_size: int, what: str) -> list[int]:
    """Ids of tokens.

    Args:
      values: what was given.
      vocab_size: of the model.
      what: names them in messages.

    Returns:
      The ids as ints.

    Raises:
      MmjaxError: an entry that is no whole number, or no token of the model.
    """
    return [whole(f"{what}: token id", value, 0, vocab_size - 1) for value in several(values, what)]


def check_hook(hook: object) -> None:
    """Refuses what no frozen layer can call as its adapter.

    Args:
      hook: what was given; None for none.

    Raises:
      MmjaxError: a class, something that cannot be called, or not with a hook's five arguments.
    """
    if hook is None:
        return
    if isinstance(hook, type) or not callable(hook):
        raise MmjaxError(f"with_hook takes an adapter such as Lora(rank=8), got {shown(hook)}")
    try:
        taken = inspect.signature(hook)
    except ValueError:  # written in C: nobody can say
        return
    try:
        taken.bind(*range(5))
    except TypeError as error:
        raise MmjaxError(
            "with_hook takes an adapter that is called as (adapter, place, x, y, kernel), got "
            f"one that takes {taken}"
        ) from error


def check_adapters(name: str, hook: object, adapters: object) -> None:
    """Refuses a hook without parameters, and parameters without a hook.

    Args:
      name: of the model.
      hook: the adapter's function that sits in it; None for none.
      adapters: the adapter's parameters; None for none.

    Raises:
      MmjaxError: one is there without the other.
    """
    if hook is not None and adapters is None:
        raise MmjaxError(
            f"{name!r} has an adapter ({type(hook).__name__}) whose parameters are not given; pass "
            "adapters=..., or take the model without the adapter"
        )
    if hook is None and adapters is not None:
        raise MmjaxError(
            f"adapters are given for {name!r}, which has none; put one into it with `with_hook`"
        )


def check_tower_adapters(name: str, hooks: Mapping[str, object], adapters: object) -> None:
    """Refuses parameters that are not those of the towers with a hook.

    Args:
      name: of the model.
      hooks: tower -> the adapter's function that sits in it; None for none.
      adapters: tower -> the adapter's parameters.

    Raises:
      MmjaxError: a tower's hook without parameters, or parameters without a hook.
    """
    hooked = [tower for tower, hook in hooks.items() if hook is not None]
    adapted = list(adapters) if isinstance(adapters, Mapping) else []
    if set(adapted) != set(hooked):
        form = ", ".join(f"{tower!r}: ..." for tower in hooked)
        raise MmjaxError(
            f"{name!r} has an adapter in its {' and its '.join(hooked)} tower; pass "
            f"adapters={{{form}}}, got {', '.join(map(shown, adapted)) or shown(adapters)}"
        )


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
