"""Reads CC-CEDICT and keeps what a learner of the language would call a translation."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmjax.data.files import read_text
from mmjax.errors import DataError

# Raise it whenever other entries come out: data sets that were made before are then made again.
VERSION = "1.0.1"

MAX_WORDS = 5
_MAX_CHARACTERS = 6

_ENTRY = re.compile(r"^(\S+) (\S+) \[([^\]]*)\] /(.+)/$")
_ASIDE = re.compile(r"\s*(\([^()]*\)|\[[^\[\]]*\])")
_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")
_HEADWORD = re.compile(r"^[\u4e00-\u9fff]+$")
# What is left must read as plain words.
_PLAIN = re.compile(r"^[A-Za-z\u00c0-\u017f][A-Za-z\u00c0-\u017f0-9 ,'\u2019.&/-]*$")

# Glosses that point elsewhere, or describe the word instead of translating it.
_POINTER = re.compile(
    r"\b(?:variant of|see(?: also)? (?:\S*[\u3400-\u9fff]|under)|surname\b|abbr\.? |also written|"
    r"also called|also known as|also pr\.|Taiwan pr\.|pr\. \[|pronounced (?:as|\[)|CL:|classifier|"
    r"measure word|sentence-final|radical (?:in|no)|Kangxi|onomatop|transliterat|component of|"
    r"phonetic (?:component|trans)|character used|same as|equivalent (?:of|to)|contrasted|"
    r"(?:modal|final|structural|interrogative|grammatical|exclamatory|possessive) particle|"
    r"particle (?:used|indic|for|of|equiv)|(?:noun|verb|verbal) (?:prefix|suffix)|opposite of|"
    r"indicat(?:es|ing)|interjection|bound form|lit\.|e\.g\.|i\.e\.|esp\.|etc\b|cf\b|vs\b|name of|"
    r"place name|given name|coll\. for|short for|refers to|euphemis|title of|one of the|"
    r"(?:city|town|township|county|district|province|prefecture|village) (?:in|of)\b)"
    r"|^\(?(?:used (?:in|to|as|for|before|after|with|at|of|by|on)\b|prefix|suffix)",
    re.IGNORECASE,
)
_UNWANTED_LABEL = re.compile(
    r"\((?:[^()]*\b)?(?:archaic|old|vulgar|derog\w*|taboo|dialect|obsolete|slur|classical|species)"
    r"\b[^()]*\)",
    re.IGNORECASE,
)
_SHORTHAND = (
    (re.compile(r"\bsb's\b"), "somebody's"),
    (re.compile(r"\bsb\b"), "somebody"),
    (re.compile(r"\bsth\b"), "something"),
)


@dataclass(frozen=True)
class Entry:
    """A headword with its translations.

    Attributes:
      zh: simplified headword.
      glosses: English translations, the first one the most usual.
      pinyin: of the reading that the first gloss belongs to, tones as digits.
      common: HSK level at which learners meet it, 1 (first) to 9; 0: none.
    """

    zh: str
    glosses: tuple[str, ...]
    pinyin: str
    common: int


def clean_gloss(gloss: str) -> str | None:
    """Makes a plain translation of a dictionary's gloss.

    Args:
      gloss: between two slashes of an entry.

    Returns:
      At most MAX_WORDS words (a leading "to" is not counted), or None where it is no translation.
    """
    # The figurative sense is the one in use; the literal one explains the characters.
    gloss = re.sub(r"^.*\bfig\. ", "", gloss)
    if _UNWANTED_LABEL.search(gloss) or _POINTER.search(gloss):
        return None
    previous = None
    while previous != gloss:  # asides stand in asides
        previous, gloss = gloss, _ASIDE.sub("", gloss)
    for pattern, words in _SHORTHAND:
        gloss = pattern.sub(words, gloss)
    gloss = " ".join(gloss.replace('"', " ").split()).strip(" ,.;:!?'")
    words = gloss.removeprefix("to ").split()
    if (
        not words
        or len(words) > MAX_WORDS
        or len(gloss) < 2
        or not _PLAIN.match(gloss)
        or gloss[-1] == "-"
    ):
        return None
    return gloss


def read_hsk(hsk2: Path, hsk3: Path) -> dict[str, int]:
    """Reads the word lists of the Chinese proficiency test.

    Args:
      hsk2: of 2010: levels 1 to 6, each after a line that starts with "//".
      hsk3: of 2021: entry, intermediate, advanced and an appendix.

    Returns:
      word -> level 1 to 9; words of the newer list alone get 3, 6 or 9.
    """
    levels: dict[str, int] = {}
    for path, steps in ((hsk2, (1, 2, 3, 4, 5, 6)), (hsk3, (3, 6, 9, 9))):
        part = -1
        for line in read_text(path).splitlines():
            if line.startswith("//"):
                part += 1
            elif line.strip() and part < len(steps):
                levels.setdefault(line.split("\t")[0].strip(), steps[max(part, 0)])
    return levels


def _parse(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yields (simplified, pinyin, glosses) of every entry."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = _ENTRY.match(line)
        if match is None:
            raise DataError(
                f"{path}, line {number}: expected 'traditional simplified [pinyin] /gloss/', "
                f"found {line[:60]!r}"
            )
        _, simplified, pinyin, glosses = match.groups()
        yield simplified, pinyin, glosses.split("/")


def read_entries(cedict: Path, hsk2: Path, hsk3: Path) -> list[Entry]:
    """Reads, cleans and joins the dictionary: one entry a headword.

    Dropped: proper names (unless the proficiency test asks for them), headwords with other than
    common Chinese characters, and whatever has no plain translation left.

    Args:
      cedict: the dictionary.
      hsk2: see `read_hsk`.
      hsk3: see `read_hsk`.

    Returns:
      Entries in the dictionary's order.

    Raises:
      DataError: a line that is no entry, or nothing is left; says which file.
    """
    levels = read_hsk(hsk2, hsk3)
    readings: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    for word, pinyin, glosses in _parse(cedict):
        name = pinyin[:1].isupper() and word not in levels
        if name or not _is_common(word):
            continue
        parts = (part for gloss in glosses for part in _split(gloss))
        kept = list(dict.fromkeys(c for part in parts if (c := clean_gloss(part))))
        if kept:
            readings[word].append((pinyin, kept))
    if not readings:
        raise DataError(f"{cedict} has no entry with a plain translation; is it CC-CEDICT?")
    entries = []
    for word, homographs in readings.items():
        # Surnames and names come last, then rarer readings, which have fewer senses.
        homographs.sort(key=lambda reading: (reading[0][:1].isupper(), -len(reading[1])))
        merged = tuple(dict.fromkeys(gloss for _, kept in homographs for gloss in kept))
        entries.append(Entry(word, merged, homographs[0][0], levels.get(word, 0)))
    return entries


def _is_common(word: str) -> bool:
    """Whether a headword is short and written with the characters of everyday print (GB 2312)."""
    if len(word) > _MAX_CHARACTERS or not _HEADWORD.match(word):
        return False
    try:
        word.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _split(gloss: str) -> list[str]:
    """Cuts a gloss at the semicolons that stand outside of brackets."""
    parts, depth = [""], 0
    for character in gloss:
        depth += (character in "([") - (character in ")]")
        if character == ";" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
