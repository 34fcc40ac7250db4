"""`mmjax completion SHELL`: what bash, zsh or tcsh completes, written by shtab."""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

import shtab

from mmjax.commands import recipes

_NAMES = "_mmjax_recipes"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="mmjax completion",
        description="Prints a script that completes commands, recipes, files and options. "
        'bash: eval "$(mmjax completion bash)"; zsh: mmjax completion zsh > "${fpath[1]}/_mmjax".',
    )
    made.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return made


def main(arguments: Sequence[str]) -> int:
    """Prints the script.

    Args:
      arguments: behind `mmjax completion`.

    Returns:
      0.
    """
    shell = parser().parse_args(arguments).shell
    print(shtab.complete(whole(), shell, preamble=_preamble()))
    return 0


def whole() -> argparse.ArgumentParser:
    """One parser of all commands; it is never asked to parse."""
    from mmjax.commands.cli import FLAGS, PROGRAMS, RECIPES

    made = argparse.ArgumentParser(prog="mmjax", add_help=True)
    commands = made.add_subparsers(dest="command")
    for name, (example, _) in FLAGS.items():
        subparser = commands.add_parser(name, help=f"e.g. {example}")
        place = subparser.add_argument("recipe" if name in RECIPES else "run")
        names = {"bash": _NAMES, "zsh": _NAMES, "tcsh": "f:*.py"}
        place.complete = names if place.dest == "recipe" else shtab.DIRECTORY  # type: ignore[attr-defined]
        subparser.add_argument("--workdir").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        subparser.add_argument("--cpu_devices")
    for name, module in PROGRAMS.items():
        door = importlib.import_module(module)
        make = getattr(door, "parser", None)
        if make is None:  # reads its command line itself
            subparser = commands.add_parser(name, help=f"mmjax {name} --help")
            subparser.add_argument("names", nargs="*")
            continue
        own = make()
        for action in own._actions:
            if action.dest in ("data", "runs", "out", "base") and action.nargs != 0:
                action.complete = shtab.FILE if action.dest == "data" else shtab.DIRECTORY
        commands.add_parser(name, parents=[own], add_help=False, help=own.description)
    return made


def _preamble() -> Any:  # a text by shell, which shtab's annotation does not say
    """Recipes by name, and files."""
    names = " ".join(recipes.names())
    return {
        "bash": f'{_NAMES}() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
        "zsh": f"{_NAMES}() {{ compadd {names}; _files; }}",
        "tcsh": "",
    }
