"""How varied tasks are: what kinds of questions, how often their words are the same ones."""

import hashlib
import heapq
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from mmjax.synthesis.dedup import words_of

T = TypeVar("T")

_HOW = ("many", "much", "often", "long", "far", "old", "big")
_YES_NO = re.compile("is|are|was|were|do(es)?|did|can|could|has|have|had|will|would|should")
YES_NO = "is, are, does …"


def kind_of(question: str) -> str:
    """What a question asks for, by how it begins.

    Args:
      question: in any language; English ones that can be answered by yes or no are one kind.

    Returns:
      Its first word, of "how many" and its like two; "" where it has no word.
    """
    words = words_of(question)
    if not words:
        return ""
    if words[0] == "how" and words[1:2] and words[1] in _HOW:
        return f"how {words[1]}"
    return YES_NO if _YES_NO.fullmatch(words[0]) else words[0]


def even_kinds(counts: Mapping[str, int]) -> float:
    """How many kinds there would be, were they equally frequent, for the same entropy."""
    whole = sum(counts.values())
    shares = [count / whole for count in counts.values() if count]
    return math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0


def distinct(texts: Iterable[str], length: int) -> float:
    """Share of different ones among all runs of words, over all texts.

    Args:
      texts: of about one number, wherever shares are compared: more texts repeat more.
      length: words in a run.

    Returns:
      From 0 to 1; NaN where there is no run.

    Source: Li et al. 2016 (arXiv 1510.03055), section 5.
    """
    runs = Counter(
        run
        for words in map(words_of, texts)
        for run in zip(*(itertools.islice(words, i, None) for i in range(length)), strict=False)
    )
    return len(runs) / runs.total() if runs else math.nan


def digest(text: str) -> int:
    """64 bits that stand for a text."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class Draw(Generic[T]):
    """A random sample of bounded size, the same in whatever order items come."""

    def __init__(self, size: int, seed: int) -> None:
        """Nothing is drawn yet.

        Args:
          size: items that are kept.
          seed: of the sample.
        """
        self._size, self._seed = size, seed
        self._heap: list[tuple[int, int, T]] = []  # the worst item first
        self.seen = 0

    def add(self, key: str, item: T) -> None:
        """Offers an item; its key alone says whether it is drawn."""
        self.seen += 1
        entry = (-digest(f"{self._seed}/{key}"), -self.seen, item)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> list[T]:
        """The items that were drawn."""
        return [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]
