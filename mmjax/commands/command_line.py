"""What mmjax makes of a command line before absl and ml_collections read it."""

import ast
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from mmjax.errors import MmjaxError
from mmjax.runs import run_folder

_HELP = {"--help", "-help", "--helpshort", "-helpshort", "--helpfull", "-helpfull", "-h", "-?"}
_BASE = re.compile(r"--?config\.base(?:\.path)?(?:=(.*))?", re.DOTALL)


class _OrNone(flags.ArgumentParser):
    """Reads "None" as None, and all else as another parser does: a setting may be left to mmjax."""

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self._parser = parser

    def parse(self, argument: Any) -> Any:
        """One argument; what is no text is a default and stays."""
        if argument is None or argument == "None":
            return None
        return self._parser.parse(argument)

    def flag_type(self) -> str:
        """As of the other parser."""
        return self._parser.flag_type()


class _Any(flags.ArgumentParser):
    """Reads what a file has left at None: a Python literal, or else a plain text."""

    def parse(self, argument: Any) -> Any:
        """One argument."""
        return _literal(argument)


def accept_none() -> None:
    """Settings may be set to None on the command line, and from None to anything."""
    usual = {int: flags.IntegerParser(), float: flags.FloatParser(), str: flags.ArgumentParser()}
    for kind, parser in usual.items():
        config_flags.register_flag_parser_for_type(kind, _OrNone(parser))
    config_flags.register_flag_parser_for_type(type(None), _Any())


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a user only wants to know the flags."""
    return not _HELP.isdisjoint(argv[1:])


def describe_flags(own: Sequence[flags.FlagHolder], argv: Sequence[str]) -> str:
    """The flags of mmjax, one a line; with --helpfull those of the libraries after them.

    Args:
      own: mmjax's flags, in order.
      argv: as the user typed it.

    Returns:
      Text.
    """
    lines = []
    for holder in own:
        flag = flags.FLAGS[holder.name]
        default = "" if flag.default in (None, False) else f" (default: {flag.default})"
        lines.append(f"  --{holder.name}: {flag.help}{default}")
    lines.append("  --config.KEY=VALUE: replaces a setting that the recipe's file names.")
    if {"--helpfull", "-helpfull"} & set(argv):
        lines += ["", flags.FLAGS.get_help()]
    return "\n".join(lines)


def with_kept_recipe(argv: Sequence[str]) -> list[str]:
    """Adds the recipe that a run folder keeps, where only what is trained is asked for.

    Args:
      argv: as the user typed it, the program first.

    Returns:
      The same where there is a --config, or none is needed.
    """
    workdir, mode = _given(argv, "workdir"), _given(argv, "mode")
    if mode not in ("evaluate", "export") or not workdir or _given(argv, "config") is not None:
        return list(argv)
    return [argv[0], f"--config={run_folder.__file__}:{workdir}", *argv[1:]]


def _given(argv: Sequence[str], name: str) -> str | None:
    """The last value of a flag; None where it is not there."""
    value = None
    for i, argument in enumerate(argv[1:], 1):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", argument, re.DOTALL):
            value = _value(match, argv, i)
    return value


def _value(match: re.Match[str], argv: Sequence[str], at: int) -> str:
    """A flag's value: behind its =, or the argument behind it; "" where there is none."""
    return match[1] if match[1] is not None else "".join(argv[at + 1 : at + 2])


def without_base(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Takes --config.base=FOLDER out: the file may have a whole recipe there, or nothing.

    --config.base.path=FOLDER, as an adapter's card calls it, is the same.

    Args:
      argv: the program first.

    Returns:
      (the other arguments, what the base was set to; None where it was not).
    """
    rest, value, taken = [], None, False
    for i, argument in enumerate(argv):
        if taken:
            taken = False
        elif match := _BASE.fullmatch(argument):
            taken = match[1] is None
            value = _value(match, argv, i)
        else:
            rest.append(argument)
    return rest, value


def set_base(config: Any, value: str, argv: Sequence[str]) -> None:
    """Puts a base into a recipe, whatever stands there.

    Args:
      config: a ConfigDict.
      value: as the user typed it: a folder, quoted or not, None, or a mapping.
      argv: all that was typed.

    Raises:
      AttributeError: the file names no base.
      MmjaxError: a setting of the base is given too, which this one would replace.
    """
    within = [x for x in argv if re.match(r"--?config\.base\.(?!path(=|$))", x)]
    if within:
        raise MmjaxError(f"--config.base={value} replaces the whole base; leave {within[0]} out")
    if "base" not in config:
        raise AttributeError("base")
    with config.unlocked(), config.ignore_type():
        config.base = _literal(value)


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
