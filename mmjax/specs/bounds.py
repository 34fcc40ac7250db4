"""What the numbers of a recipe may be, declared beside their types: `steps: Count = 300`.

Types say what a number is, `Bounds` where it ends; both are checked where a recipe, a flag or an
adapter's card becomes a spec. A numeric setting without bounds is refused by a test.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast

from mmjax.errors import check


@dataclass(frozen=True)
class Bounds:
    """Where a setting ends.

    Attributes:
      least: smallest good value.
      most: largest good value.
      open_below: whether every good value is larger than `least`.
      open_above: whether every good value is smaller than `most`.
      besides: good values outside of these, such as -1 for "what is left".
    """

    least: float
    most: float
    open_below: bool = False
    open_above: bool = False
    besides: tuple[int, ...] = ()

    def check(self, where: str, value: float) -> None:
        """Refuses a number out of bounds, infinity and what is no number.

        Args:
          where: the setting's path below `config`.
          value: what stands there, of the right type.

        Raises:
          MmjaxError: names the setting, the value and what was expected.
        """
        if value in self.besides:
            return
        above = value > self.least if self.open_below else value >= self.least
        below = value < self.most if self.open_above else value <= self.most
        check(above and below, where, value, self._expected(value))

    def _expected(self, value: float) -> str:
        """The bounds as a sentence has them: both, or the one that was missed."""
        least = f"{'above' if self.open_below else 'at least'} {self.least:g}"
        if value <= 0 < self.least < 1e-3:  # nobody who set 0 wants to hear of the smallest float
            least = "above 0"
        most = f"{'below' if self.open_above else 'at most'} {self.most:,g}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"a finite number {least}"
        if self.most - self.least <= 1:
            return {
                (True, True): f"between {self.least:g} and {self.most:g}",
                (False, True): f"in [{self.least:g}, {self.most:g})",
            }.get((self.open_below, self.open_above), f"{least}, {most}")
        besides = "".join(f"{also}, or " for also in self.besides)
        return f"{besides}{least}" if value <= self.least else most


# The upper ends are far above what any published recipe sets, and low enough that what is computed
# from them (sizes of arrays, powers, exponents in float32) cannot run away.
Count: TypeAlias = Annotated[int, Bounds(1, 10**9)]
Natural: TypeAlias = Annotated[int, Bounds(0, 10**9)]
Few: TypeAlias = Annotated[int, Bounds(1, 1_000)]  # layers, heads, members, ensembles
Width: TypeAlias = Annotated[int, Bounds(1, 1 << 16)]
WidthOrNone: TypeAlias = Annotated[int, Bounds(0, 1 << 16)]
Seed: TypeAlias = Annotated[int, Bounds(0, 2**31 - 1)]
Part: TypeAlias = Annotated[float, Bounds(0, 1, open_below=True, open_above=True)]
Share: TypeAlias = Annotated[float, Bounds(0, 1, open_below=True)]
Fraction: TypeAlias = Annotated[float, Bounds(0, 1)]
Rate: TypeAlias = Annotated[float, Bounds(0, 1, open_above=True)]
Weight: TypeAlias = Annotated[float, Bounds(0, 1e6)]
Scale: TypeAlias = Annotated[float, Bounds(0, 1e6, open_below=True)]
# A millionth still gives finite logits in float32; far below, 1 / temperature is infinite there.
Temperature: TypeAlias = Annotated[float, Bounds(1e-6, 1e6)]
MIN_TEMPERATURE = 0.01  # of losses that learn theirs, and of a projection's


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a spec's fields, with their bounds."""
    return typing.get_type_hints(cls, include_extras=True)


def of(hint: Any) -> Bounds | None:
    """The bounds that a type declares.

    Args:
      hint: as `hints_of` gives it.

    Returns:
      The bounds, or None.
    """
    return next((x for x in getattr(hint, "__metadata__", ()) if isinstance(x, Bounds)), None)


def check_all(spec: Any, where: str = "") -> None:
    """Checks every bounded number of a spec, and of the specs within it.

    Args:
      spec: a dataclass of settings, made in code rather than from a recipe.
      where: its place below `config`.

    Raises:
      MmjaxError: names the setting, the value and what was expected.
    """
    hints = hints_of(cast(type[Any], type(spec)))
    for field in dataclasses.fields(spec):
        name = f"{where}.{field.name}" if where else field.name
        for place, hint, value in _leaves(hints[field.name], getattr(spec, field.name), name):
            if dataclasses.is_dataclass(value):
                check_all(value, place)
            elif (bounds := of(hint)) is not None:
                bounds.check(place, value)


def _leaves(hint: Any, value: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """(place, type, value) of a setting, or of each of its entries."""
    arguments = typing.get_args(hint)
    if isinstance(value, Mapping) and arguments:  # else another recipe's, which checks its own
        for key, entry in cast(Mapping[str, Any], value).items():
            yield from _leaves(arguments[1], entry, f"{where}.{key}")
    elif isinstance(value, tuple) and arguments:
        for entry in cast(tuple[Any, ...], value):
            yield from _leaves(arguments[0], entry, where)
    elif value is not None and of(hint) is None and type(None) in arguments:
        yield from _leaves(next(a for a in arguments if a is not type(None)), value, where)
    else:
        yield where, hint, value
