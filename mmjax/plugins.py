"""Catalogs of parts: mmjax's own, those of installed packages, and `package.module:Name`.

A package brings parts of its own by entry points:

    [project.entry-points."mmjax.tasks"]
    count = "my_package.count:COUNT"

A name without a colon is one of mmjax's own or an entry point's. `package.module:Name` is imported;
nothing is ever downloaded.
"""

import difflib
import importlib
import importlib.metadata
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from mmjax.errors import MmjaxError, setting, shown

T = TypeVar("T")
# Groups of entry points.
TASKS, ADAPTERS, ENCODERS = "mmjax.tasks", "mmjax.adapters", "mmjax.encoders"
CORPORA, EVALS = "mmjax.corpora", "mmjax.evals"
GROUPS = (TASKS, ADAPTERS, ENCODERS, CORPORA, EVALS)
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def reference_in(text: str) -> str | None:
    """The `package.module:Name` that a text is or, before another colon, begins with."""
    match = _REFERENCE.match(text)
    whole = match is not None and text[match.end() :][:1] in ("", ":")
    return match.group() if match is not None and whole else None


def installed(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages bring, by name; nothing of it is imported.

    Every call searches all that is installed, some ten milliseconds: ask for mmjax's own first.
    """
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def may_be(name: str, group: str) -> bool:
    """Whether a name is of another package: a reference, or an entry point's name."""
    return reference_in(name) == name or name in installed(group)


@dataclass(frozen=True)
class Catalog(Generic[T]):
    """Parts of one kind by name.

    Attributes:
      group: the entry points that installed packages bring such parts by.
      holds: what one part is called in messages.
      kind: what every part is an instance of; a runtime-checkable protocol, a class, or `type` for
        classes.
      own: mmjax's parts: each itself, or the `package.module:Name` that is imported when it is
        asked for.
      beside: names that are looked up elsewhere; messages list them.
    """

    group: str
    holds: str
    kind: Any  # to type checkers a protocol is no type[T]
    own: Mapping[str, T | str]
    beside: Collection[str] = ()

    def names(self) -> list[str]:
        """Every name that `find` knows without being told a module."""
        return list(dict.fromkeys((*self.beside, *self.own, *installed(self.group))))

    def __contains__(self, name: str) -> bool:
        """Whether `find` would look for such a part: a known name, or a reference."""
        return name in self.own or may_be(name, self.group)

    def find(self, name: str, place: str) -> T:
        """The part of a name.

        Args:
          name: a known one, or `package.module:Name`.
          place: the setting that says so, in dots, for messages.

        Returns:
          The part.

        Raises:
          MmjaxError: there is none of this name (the nearest are told), its module cannot be
            imported, or it is something else.
        """
        if name in self.own:
            part = self.own[name]
            # mmjax's own modules fail in their own words: such a failure is a fault of mmjax.
            return cast(T, _attribute(part) if isinstance(part, str) else part)
        point = installed(self.group).get(name)
        target = point.value if point is not None else name
        if reference_in(target) != target:
            near = difflib.get_close_matches(name, self.names(), 3, 0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise MmjaxError(
                f"{setting(place)} is {shown(name)}; expected one of {self.names()}, or "
                f"package.module:Name for a part of your own{hint}"
            )
        try:
            part = _attribute(target)
        except Exception as error:  # a stranger's module can fail in any way
            raise MmjaxError(
                f"{setting(place)} is {shown(name)}, but {target} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        # A class has all that its instances have, and is none of them.
        is_class = isinstance(part, type) and self.kind is not type
        if is_class or not isinstance(part, self.kind):
            kind = self.kind[0] if isinstance(self.kind, tuple) else self.kind
            raise MmjaxError(
                f"{setting(place)} is {shown(name)}, which is {shown(part)}; expected "
                f"{self.holds}: {kind.__module__}.{kind.__qualname__}"
            )
        return cast(T, part)


def _attribute(reference: str) -> object:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
