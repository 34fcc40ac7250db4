"""Command lines: what is wrong with one is said in one line."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from mmjax.errors import MmjaxError


class OneLineParser(argparse.ArgumentParser):
    """Ends with 2 and one line, rather than with all of the usage."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and where the help is."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")

    def add_number(self, name: str, default: float, metavar: str | None, what: str) -> None:
        """Adds an option for a number of the default's type; the help ends with the default."""
        told = f"{what} (default: {default:g})"
        self.add_argument(name, type=type(default), default=default, metavar=metavar, help=told)

    def at_least_1(self, options: argparse.Namespace, *names: str) -> None:
        """Ends where one of these options is below 1."""
        for name in names:
            if (number := getattr(options, name)) < 1:
                self.error(f"--{name.replace('_', '-')} {number} must be at least 1")

    def add_allow_other_encoder(self) -> None:
        """Adds the option of every command that loads an adapter."""
        self.add_argument(
            "--allow-other-encoder",
            action="store_true",
            help="accept frozen models that are not those of the adapter's card",
        )


def tell(text: str) -> None:
    """Says something that is no answer: on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def exit_code(start: Callable[[], None], stopped: int) -> int:
    """Does what a command is for.

    Args:
      start: does it.
      stopped: the exit code after Ctrl-C.

    Returns:
      Exit code: 0, 2 after one sentence on stderr, or `stopped`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        start()
    except MmjaxError as error:
        tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        tell("stopped")
        return stopped
    return 0
