"""Command lines: what is wrong with one is said in one line."""

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Ends with 2 and one line, rather than with all of the usage."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and where the help is."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")
