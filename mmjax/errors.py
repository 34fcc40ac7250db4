"""Errors that a user can act on: one sentence that says what, where and what to do."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar


class MmjaxError(RuntimeError):
    """Something the user can put right; the message is one sentence that says how."""


class AssetError(MmjaxError):
    """A pinned file could not be fetched, verified or converted."""


class WeightsError(MmjaxError):
    """A file of weights is not what its format promises."""


class DataError(MmjaxError):
    """A data set, or one of its rows, cannot be read or made."""


# The part of the recipe that is looked at: "" for itself, "base." for its base.
_PART: ContextVar[str] = ContextVar("part", default="")


@contextlib.contextmanager
def settings_of(part: str) -> Iterator[None]:
    """Messages within name settings of a part of the recipe.

    Args:
      part: its dotted name, such as `base`; "" for the recipe itself.
    """
    token = _PART.set(f"{part}." if part else "")
    try:
        yield
    finally:
        _PART.reset(token)


def setting(name: str) -> str:
    """How a user spells a setting of the part that is looked at.

    Args:
      name: dotted, within the part.

    Returns:
      The whole dotted name.
    """
    return f"config.{_PART.get()}{name}"


def check(condition: bool, where: str, value: object, expected: str) -> None:
    """Raises an `MmjaxError` that names a setting of the recipe, its value and what was expected.

    Args:
      condition: whether the value is good.
      where: the setting's path below `config`, or below the part of it that is looked at.
      value: what stands there.
      expected: what should.
    """
    if not condition:
        raise MmjaxError(f"{setting(where)} is {shown(value)}; expected {expected}")


def first_line(error: BaseException, most: int = 200) -> str:
    """What an exception says in its first line, short enough for a sentence.

    Args:
      error: any exception, of any library.
      most: letters.

    Returns:
      The line; the name of the exception's type where it says nothing.
    """
    lines = str(error).strip().splitlines()
    return lines[0][:most].rstrip() if lines else type(error).__name__


# Libraries in other languages keep the reason of a failure in its text only.
_FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)}


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception, or what caused it, says that the disk or the quota is full.

    Args:
      error: any exception, of any library.

    Returns:
      True for a full disk.
    """
    return _why_full(error) is not None


def _why_full(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return _FULL[cause.errno]
        for reason in _FULL.values():
            if reason in str(cause):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None


@contextlib.contextmanager
def writing(
    what: object, advice: str = "free some space or choose a --workdir", kind: type = MmjaxError
) -> Iterator[None]:
    """Turns what any library raises where a disk is full or cannot be written into one sentence.

    Args:
      what: the beginning of the sentence: a path, or "cannot save to PATH".
      advice: its end: what to do.
      kind: the `MmjaxError` to raise.

    Raises:
      MmjaxError: as `kind`; every other exception passes.
    """
    try:
        yield
    except Exception as error:
        reason = _why_full(error)
        if reason is None and isinstance(error, OSError):
            reason = error.strerror or str(error)
        if isinstance(error, MmjaxError) or reason is None:
            raise
        path = isinstance(what, os.PathLike)
        problem = f"{what}: cannot be written ({reason})" if path else f"{what}: {reason}"
        raise kind(f"{problem}; {advice}") from error


def unknown_field(error: Exception, arguments: Sequence[str]) -> str | None:
    """What is wrong with a flag that changes a field which the recipe's file does not set.

    Args:
      error: as ml_collections raised it; the field's name stands in its text, quoted once or more.
      arguments: the command line.

    Returns:
      One sentence; None where the error is another one.
    """
    if not isinstance(error, KeyError | AttributeError):
        return None
    text = str(error).replace("\\n", "\n")
    name, close = re.search(r"\w+", text), re.search(r'Did you mean "(\w+)"', text)
    for argument in arguments:
        flag = argument.split("=")[0]
        if name and flag.startswith("--config.") and name[0] in flag.split("."):
            hint = f"did you mean {close[1]!r}?" if close else "write it into that file first"
            return f"{flag}: the recipe's file sets no field {name[0]!r}; {hint}"
    return None


def failed_recipe(error: Exception, arguments: Sequence[str]) -> str:
    """What is wrong with a recipe's file that cannot be read, or a flag that changes none of it.

    Args:
      error: what it raised.
      arguments: the command line.

    Returns:
      One sentence with the file's name, or the flag's.
    """
    places = [i for i, argument in enumerate(arguments) if argument.lstrip("-") == "config"]
    recipes = [arguments[i + 1] for i in places if i + 1 < len(arguments)]
    recipes += [a.partition("=")[2] for a in arguments if re.match("--?config=", a)]
    name = (recipes[-1] if recipes else "") or "the recipe"
    name = name if len(name) <= 300 else f"{name[:300]}..."
    if isinstance(error, AttributeError) and str(error).endswith("has no attribute 'keys'"):
        kind = str(error).split("'")[1]
        return f"{name} returns no recipe but a {kind}; get_config() returns a ConfigDict"
    cause: BaseException | None = error
    while cause is not None:  # ml_collections wraps what the file system said
        if isinstance(cause, OSError) and cause.strerror:
            return f"{name} cannot be read ({cause.strerror})"
        cause = cause.__cause__ or cause.__context__
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    # Of a traceback inside the message the last line says what is wrong.
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    reason = lines[-1][:300] if lines else "no reason given"
    for flag in (argument.partition("=")[0] for argument in arguments):
        if flag.startswith("--config.") and flag.removeprefix("--config.") in reason:
            return f"{flag}: {reason}"
    kind = type(error).__name__
    named = re.match(r"\w+Error: ", reason)
    return f"{name} cannot be read ({reason if named else f'{kind}: {reason}'})"


def shown(value: object) -> str:
    """A value as a message shows it: its type where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of 5,000 digits; a nest of lists
        return f"a {type(value).__name__} too long to show"
    if len(text) <= 80:
        return text
    return f"{text[:60]}... ({type(value).__name__})"
