"""Questions that stand in a data set already, to the letter or nearly, are not kept again."""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmjax.checks import foreign
from mmjax.errors import MmjaxError
from mmjax.synthesis.templates import UNSPACED

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

# A word, or a letter of a script that does not part words.
_WORDS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_PERMUTATIONS = 64
# Candidates are compared in full: a false one costs that much, a missed one stays in the data.
_WEIGHTS = (0.1, 0.9)


def drop_duplicates(
    rows: Iterable[Mapping[str, Any]],
    threshold: float = 0.8,
    seed: int = 0,
    fields: Sequence[str] = ("question",),
) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of an audit; of questions that are nearly the same only the first is kept.

    Args:
      rows: in the data set's order; those that are not kept pass, and drop nothing. Questions are
        compared with those of the same "domain", where rows have one.
      threshold: of the Jaccard similarity between the sets of words and pairs of neighbouring words
        from which on questions are duplicates; 1 compares the words themselves, in their order, and
        needs no package.
      seed: of the hashes that find candidates.
      fields: texts that are compared together; with the answers, a question may be asked of several
        images as long as it is answered otherwise.

    Returns:
      The rows; duplicates have keep=False and say in "why" whose they are.

    Raises:
      MmjaxError: a threshold that is none, or datasketch is missing.
    """
    foreign.real("threshold", threshold, above=0, most=1)
    seen: dict[str, Seen] = {}
    if threshold < 1:
        check_installed()
    for row in rows:
        if row.get("keep") is not True:
            yield row
            continue
        words = [word for field in fields for word in words_of(str(row.get(field, "")))]
        domain = str(row.get("domain", ""))
        if domain not in seen:
            seen[domain] = Seen(threshold, seed)
        first, exact = seen[domain].add(words, str(row["id"]))
        if first is None:
            yield row
        else:
            why = f"{'' if exact else 'near-'}duplicate of {first}"
            yield {**row, "keep": False, "why": why}


def words_of(text: str) -> list[str]:
    """The words of a text without case, accents' spelling or punctuation."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def check_installed() -> None:
    """Refuses a search for near-duplicates before anything is read for it.

    Raises:
      MmjaxError: datasketch is missing.
    """
    try:
        import datasketch  # noqa: F401
    except ImportError as error:
        raise MmjaxError(
            "near-duplicates are found by datasketch: python -m pip install 'mmjax[synthesis]', or "
            "set the threshold to 1, which drops exact duplicates only"
        ) from error


class Seen:
    """Texts of a domain: their words, their ids and an index of what they are like."""

    def __init__(self, threshold: float, seed: int) -> None:
        """None yet.

        Args:
          threshold: see `drop_duplicates`.
          seed: the same.
        """
        self._threshold = threshold
        self._exact: dict[bytes, str] = {}
        self._texts: list[tuple[str, str]] = []  # of those in the index: (words, id)
        if threshold < 1:
            self._index, self._empty = _index(threshold, seed)

    def add(self, words: Sequence[str], name: str) -> tuple[str | None, bool]:
        """Adds a text, unless one like it was added before.

        Args:
          words: of the text.
          name: the id of its record.

        Returns:
          (the first one's id, or None; whether it has the same words).
        """
        text = " ".join(words)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self._exact:
            return self._exact[digest], True
        if self._threshold < 1:
            pieces = _pieces(words)
            minhash = self._empty.copy()
            minhash.update_batch([piece.encode() for piece in pieces])
            for number in sorted(n for n in self._index.query(minhash) if isinstance(n, int)):
                other_text, first = self._texts[number]
                if _similarity(pieces, _pieces(other_text.split(" "))) >= self._threshold:
                    return first, False
            self._index.insert(len(self._texts), minhash, check_duplication=False)
            self._texts.append((text, name))
        self._exact[digest] = name
        return None, False


def _index(threshold: float, seed: int) -> "tuple[MinHashLSH, MinHash]":
    """An index without texts, and the hashes of none, which copies begin with."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold, _PERMUTATIONS, _WEIGHTS, hashfunc=_short)
    return index, MinHash(_PERMUTATIONS, seed)


def _short(band: bytes) -> bytes:
    """A band's key in a fourth of its bytes."""
    return hashlib.blake2b(band, digest_size=8).digest()


def _pieces(words: Sequence[str]) -> set[str]:
    """The words, and each two that stand beside each other."""
    return {*words, *map(" ".join, itertools.pairwise(words))}


def _similarity(one: set[str], other: set[str]) -> float:
    """Jaccard's: of all that is in either, the share that is in both."""
    return len(one & other) / max(1, len(one | other))
