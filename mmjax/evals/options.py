"""Which of several options an answer names: as published scripts read it, and strictly."""

import functools
import random
import re
from collections.abc import Sequence

from mmjax.evals.scienceqa import NONE
from mmjax.evals.short_answers import normalised

_EDGES = ",.!?;:'"
_LONG = 5  # words beyond which published scripts look for an option's text
_ANSWER = re.compile(r"\banswers?(?:\s+is|\s+are|\s*:)\s*:?", re.IGNORECASE)
_KEYED = re.compile(r"[\s\"'*]*(?:(?:option|choice)\s+)?\(?([A-Z])(?:[).:,*\"']|\s*$)")


def conclusion(answer: str) -> str:
    """What follows the last "answer is" or "answer:"; the whole answer where there is none."""
    *_, last = [0, *(match.end() for match in _ANSWER.finditer(answer))]
    return answer[last:].strip() or answer


def legacy_choice(answer: str, options: Sequence[str], keys: Sequence[str], seed: str) -> int:
    """The option that published scripts read.

    A key in brackets, else a key between spaces, else (in an answer of more than five words) an
    option's letters; of several the last; of none a random option. So "A heart" is option A, and
    with numbers for keys any number is an option.

    Args:
      answer: the answer.
      options: what there is to choose from.
      keys: of each option.
      seed: of the draw, different for every question.

    Returns:
      Index of an option.

    Source: Yue et al. 2024 (MMMU), the evaluation's reading of multiple choice.
    """
    text = f" {answer.strip(_EDGES)} "
    low = text.lower()
    places = [text.rfind(f"({key})") for key in keys]
    if max(places) < 0:
        places = [text.rfind(f" {key} ") for key in keys]
    if max(places) < 0 and len(answer.split()) > _LONG:
        places = [low.rfind(option.lower()) for option in options]
    if max(places) < 0:
        return random.Random(seed).randrange(len(options))
    return places.index(max(places))


def strict_choice(answer: str, options: Sequence[str], keys: Sequence[str] = ()) -> int:
    """The option that an answer is, begins with the letter of, or alone names.

    Args:
      answer: the answer; what stands behind "the answer is" counts before the rest.
      options: what there is to choose from.
      keys: letters of the options, where the model was shown them.

    Returns:
      Index of the option; `NONE` where none is named, or several are.
    """
    exact = _normalised(tuple(options))
    for part in dict.fromkeys((conclusion(answer), answer)):
        whole = normalised(part)
        if whole and whole in exact:
            return exact.index(whole)
        key = _KEYED.match(part)
        if key and key[1] in keys:
            return list(keys).index(key[1])
        indices = named(part, tuple(options))
        if len(indices) == 1:
            return min(indices)
    return NONE


def legacy_named(answer: str, options: Sequence[str]) -> set[int]:
    """Options whose letters stand anywhere in an answer: "egg" in "eggplant"."""
    return {i for i, option in enumerate(options) if option.lower() in answer.lower()}


def named(answer: str, options: tuple[str, ...]) -> set[int]:
    """Options that stand in an answer as words; within a longer option a shorter does not count.

    Args:
      answer: any text.
      options: names, compared as `normalised`.

    Returns:
      Their indices.
    """
    words, starts = normalised(answer).split(), _starts(options)
    indices: set[int] = set()
    at = 0
    while at < len(words):
        for index, name in starts.get(words[at], ()):
            if tuple(words[at : at + len(name)]) == name:
                indices.add(index)
                at += len(name) - 1
                break
        at += 1
    return indices


@functools.lru_cache(maxsize=64)
def _normalised(options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(normalised(option) for option in options)


@functools.lru_cache(maxsize=64)
def _starts(options: tuple[str, ...]) -> dict[str, list[tuple[int, tuple[str, ...]]]]:
    """First word -> options that begin with it, the longest first."""
    names = sorted(
        ((i, tuple(option.split())) for i, option in enumerate(_normalised(options))),
        key=lambda entry: -len(entry[1]),
    )
    by_word: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for index, name in names:
        if name:
            by_word.setdefault(name[0], []).append((index, name))
    return by_word
