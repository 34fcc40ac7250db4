"""What a synthesizer wrote, read: questions, each with a precise and an informative answer."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmjax.data.markers import Cues, Markers
from mmjax.data.turn_records import Message, Record
from mmjax.errors import DataError, shown

_KEYS = ("question", "precise", "informative")


@dataclass(frozen=True)
class Triplet:
    """A task about an image.

    Attributes:
      question: what is asked.
      precise: the answer in a few words.
      informative: the answer with its reasons.
    """

    question: str
    precise: str
    informative: str

    @classmethod
    def of_object(cls, content: Mapping[str, Any]) -> "Triplet | None":
        """A triplet from JSON; None where one of its texts lacks, is empty or no Unicode."""
        texts = [text for key in _KEYS if isinstance(text := content.get(key), str)]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON may spell
            return None
        parts = [text for text in map(str.strip, texts) if text]
        return cls(*parts) if len(parts) == len(_KEYS) else None

    def as_object(self) -> dict[str, str]:
        """The JSON that `of_object` reads."""
        return {key: getattr(self, key) for key in _KEYS}


def triplets_of(record: Record) -> list[Triplet]:
    """The tasks in a record's `meta["triplets"]`, by which number they are known in every step.

    Raises:
      DataError: one of them is no triplet; by the record's id and its number.
    """
    listed = record.meta.get("triplets", [])
    if not isinstance(listed, list):
        raise DataError(f"record {record.id}: 'triplets' is {shown(listed)}; expected a list")
    triplets: list[Triplet] = []
    for number, content in enumerate(listed):
        triplet = Triplet.of_object(content) if isinstance(content, dict) else None
        if triplet is None:
            raise DataError(
                f"record {record.id}, triplet {number}: is {shown(content)}; expected an object "
                f"with texts {', '.join(_KEYS)}"
            )
        triplets.append(triplet)
    return triplets


def read_marked(
    text: str, finished: bool, markers: Markers, cues: Cues, most: int = 1
) -> list[Triplet]:
    """Triplets in a text that begins within the user's turn.

    A turn that was cut off is dropped, and so are turns without a cue, a question or an answer. A
    question becomes a triplet where it stands under both cues, in either order; asked twice under
    one cue, its first answer counts.

    Args:
      text: what was written, markers of roles and all.
      finished: whether the model ended it, rather than running out of tokens.
      markers: that the synthesizer was trained with.
      cues: the same.
      most: triplets that are taken, in the order in which their questions come first.

    Returns:
      At most `most` triplets.
    """
    turns = markers.split(text)
    pairs = _pairs(turns if finished else turns[:-1])
    answers: dict[str, dict[str, str]] = {}
    questions: dict[str, str] = {}
    for prompt, answer in pairs:
        cue, question = cues.read(prompt)
        if not cue or not question or not answer:
            continue
        key = " ".join(question.casefold().split())
        questions.setdefault(key, question)
        answers.setdefault(key, {}).setdefault(cue, answer)
    whole = [
        Triplet(questions[key], by_cue[cues.precise], by_cue[cues.informative])
        for key, by_cue in answers.items()
        if len(by_cue) == 2
    ]
    return whole[:most]


def _pairs(turns: Sequence[Message]) -> list[tuple[str, str]]:
    """(what the user says, what the assistant says next); other turns are dropped."""
    return [
        (first.text, second.text)
        for first, second in itertools.pairwise(turns)
        if (first.role, second.role) == ("user", "assistant")
    ]


def parse_triplets(text: str, most: int = 1) -> list[Triplet]:
    """Triplets in a text that holds JSON, as instruction-following models are asked to write it.

    Args:
      text: an object {"question", "precise", "informative"}, a list of such, or an object with such
        a list in it; fenced or with words around it. Of a list that was cut off, its whole
        objects count.
      most: triplets that are taken.

    Returns:
      At most `most` triplets, none where nothing fits.
    """
    decoder, triplets, at = json.JSONDecoder(), list[Triplet](), 0
    while len(triplets) < most and (at := text.find("{", at)) >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:  # no task is nested so deep, and every brace would be tried
            break
        except ValueError:
            at += 1
            continue
        for content in _objects(value):
            triplet = Triplet.of_object(content)
            if triplet is not None and triplet not in triplets:
                triplets.append(triplet)
        at = end
    return triplets[:most]


def _objects(value: object) -> list[Mapping[str, Any]]:
    """The objects that may be triplets: the value itself, or those in its lists."""
    if not isinstance(value, dict):
        return []
    if any(key in value for key in _KEYS):
        return [value]
    return [
        entry
        for part in value.values()
        if isinstance(part, list)
        for entry in part
        if isinstance(entry, dict)
    ]
