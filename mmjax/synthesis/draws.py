"""Draws that depend on a seed and on names alone: not on order, process or Python's own hash."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def draw(seed: int, *names: str) -> float:
    """A number in [0, 1), evenly distributed over names.

    Args:
      seed: of the run.
      names: what it is drawn for, such as ("caption", the record's id).

    Returns:
      The same number for the same arguments, wherever it is drawn.
    """
    text = "\0".join((str(seed), *names))
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48  # a float holds 48 bits exactly


def pick(items: Sequence[T], seed: int, *names: str) -> tuple[int, T]:
    """(number, item) of one of several, each as likely as the others."""
    number = int(draw(seed, *names) * len(items))
    return number, items[number]
