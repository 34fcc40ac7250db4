"""The words of a data set as data: what asks, what concludes, and how two answers become one.

A JSON file for each language, in `wordings/` or wherever users keep theirs:

  captions      lines that ask for the caption; the first is what a synthesizer is prompted with
  precise       stands in the line above a question whose answer is short
  informative   stands in the line above one whose answer explains
  stop          ends a sentence
  conclusions   words by which a sentence draws a conclusion
  chains        forward templates: {informative} and {precise} become one answer
  joins         the same for a precise answer that concludes by itself
  inverted      {"user", "assistant"}: an answer is given, what it belongs to is learned; or none
"""

import functools
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.data.files import read_object, text_of, whole_text
from mmjax.data.markers import Cues
from mmjax.errors import DataError, shown
from mmjax.synthesis.parse import Triplet

OWN = Path(__file__).with_name("wordings")
_KEYS = (
    *("captions", "precise", "informative", "stop"),
    *("conclusions", "chains", "joins", "inverted"),
)
# Letters of scripts that part no words: Thai to Khmer, kana, Han; and Hangul, with its endings.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_UNSPACED = re.compile(f"[{UNSPACED}]")
# White space parts sentences but in scripts whose full stop is as wide as a letter.
_BETWEEN = re.compile(r"(?<=[.!?؟।])\s+|(?<=[。！？])\s*|\n+")
_MARKS = ".!?…。！？؟।"


@dataclass(frozen=True)
class Inverted:
    """A task put the other way round.

    Attributes:
      user: what is given; holds `{precise}` or `{informative}`.
      assistant: what is learned.
    """

    user: str
    assistant: str


@dataclass(frozen=True)
class Wordings:
    """The words of a language; see the top of this file."""

    captions: tuple[str, ...]
    precise: str
    informative: str
    stop: str
    conclusions: tuple[str, ...]
    chains: tuple[str, ...]
    joins: tuple[str, ...]
    inverted: tuple[Inverted, ...]

    @classmethod
    def read(cls, source: str | Path) -> "Wordings":
        """The words of a file.

        Args:
          source: its path; or the name of one of mmjax's own, such as `en`.

        Raises:
          DataError: no such file; an entry that lacks, is none of these, or of another form; a
            template with a placeholder that lacks or that nothing fills, or with braces out of
            balance. By file and entry.
        """
        path = Path(source)
        if not path.suffix and path.name == str(source):
            path = OWN / f"{source}.json"
            if not path.exists():
                own = sorted(file.stem for file in OWN.glob("*.json"))
                raise DataError(f"no wordings are called {shown(source)}; one of {own}, or a path")
        content = read_object(path)
        for key in [key for key in content if key not in _KEYS]:
            raise DataError(f"{path}: has an entry {shown(key)}; expected {', '.join(_KEYS)}")
        keys = ("precise", "informative", "stop")
        precise, informative, stop = (text_of(str(path), content, key) for key in keys)
        if precise.casefold() == informative.casefold():
            raise DataError(f"{path}: 'precise' and 'informative' are the same line")
        chains, joins = (_texts(path, content, key) for key in ("chains", "joins"))
        for key, templates in (("chains", chains), ("joins", joins)):
            for i, template in enumerate(templates):
                placeholders = _blanks(f"{path}, {key}[{i}]", template, ("informative", "precise"))
                if sorted(placeholders) != ["informative", "precise"]:
                    raise DataError(
                        f"{path}, {key}[{i}]: {shown(template)} needs {{informative}} and "
                        "{precise}, each of them once"
                    )
        captions, conclusions = (
            _texts(path, content, key, least)
            for key, least in (("captions", 1), ("conclusions", 0))
        )
        inverted = _inverted(path, content.get("inverted"))
        return cls(captions, precise, informative, stop, conclusions, chains, joins, inverted)

    @property
    def cues(self) -> Cues:
        """The lines that a synthesizer is tuned and prompted with."""
        return Cues(self.captions[0], self.precise, self.informative)

    @functools.cached_property
    def _concluding(self) -> re.Pattern[str]:
        # Words of scripts without spaces are found within others.
        whole = "|".join(re.escape(w) for w in self.conclusions if not _UNSPACED.search(w))
        parts = [re.escape(w) for w in self.conclusions if _UNSPACED.search(w)]
        bounded = [rf"(?<!\w)(?:{whole})(?!\w)"] if whole else []
        return re.compile("|".join([*bounded, *parts]) or "(?!)", re.IGNORECASE)

    def concludes(self, sentence: str) -> bool:
        """Whether a sentence has a word by which it draws a conclusion."""
        return self._concluding.search(sentence) is not None

    def fill(self, template: str, task: Triplet) -> str:
        """A template with a task's texts, whatever braces they hold themselves.

        Sentences end once: an answer's own end gives way to the template's, and a reason without
        an end gets one.
        """
        precise, informative = task.precise, task.informative
        at = template.find("{precise}") + len("{precise}")
        if template[at : at + 1] and template[at] in _MARKS:
            precise = precise.rstrip(_MARKS) or precise
        if informative[-1:].isalnum():
            informative += self.stop
        return template.format(question=task.question, precise=precise, informative=informative)


def last_sentence(text: str) -> str:
    """The last sentence of a text, or all of it."""
    return next((s for s in reversed(_BETWEEN.split(text.strip())) if s), "")


def holds(sentence: str, answer: str) -> bool:
    """Whether a sentence has an answer in it: in these words, and not within longer ones."""
    sentence, answer = (_plain(text) for text in (sentence, answer))
    at = sentence.find(answer) if answer else -1
    while at >= 0:
        before, behind = sentence[:at], sentence[at + len(answer) :]
        if not (_goes_on(before[::-1], answer[0]) or _goes_on(behind, answer[-1])):
            return True
        at = sentence.find(answer, at + 1)
    return False


def _goes_on(text: str, edge: str) -> bool:
    """Whether a word or a number that ends with `edge` goes on in what stands beside it."""
    if edge.isdigit() and text[:1] in tuple(".,"):  # 3 is not in 3.5, but ends a sentence
        return text[1:2].isdigit()
    return _is_spaced(edge) and _is_spaced(text[:1])


def _is_spaced(letter: str) -> bool:
    """Whether a letter or digit is of a script that parts words by spaces."""
    return letter.isalnum() and not _UNSPACED.match(letter)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_MARKS + " \"'“”„«»「」")


def _texts(path: Path, content: Mapping[str, Any], key: str, least: int = 1) -> tuple[str, ...]:
    listed = content.get(key)
    if not isinstance(listed, list) or len(listed) < least:
        raise DataError(f"{path}: {key!r} is {shown(listed)}; expected a list of texts")
    texts = tuple(whole_text(f"{path}, {key}[{i}]", entry) for i, entry in enumerate(listed))
    for i, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"{path}, {key}[{i}]: is empty")
    return texts


def _inverted(path: Path, listed: object) -> tuple[Inverted, ...]:
    if not isinstance(listed, list):
        raise DataError(f"{path}: 'inverted' is {shown(listed)}; expected a list, maybe empty")
    templates: list[Inverted] = []
    for i, entry in enumerate(listed):
        where = f"{path}, inverted[{i}]"
        if not isinstance(entry, dict) or set(entry) != {"user", "assistant"}:
            raise DataError(f"{where}: is {shown(entry)}; expected an object of user and assistant")
        template = Inverted(*(text_of(where, entry, key) for key in ("user", "assistant")))
        names = ("question", "precise", "informative")
        given, learned = (
            _blanks(where, text, names) for text in (template.user, template.assistant)
        )
        if not learned or not {"precise", "informative"} & set(given):
            raise DataError(
                f"{where}: {shown(entry)} needs {{precise}} or {{informative}} in what the user "
                "says, and a placeholder in what the assistant says"
            )
        templates.append(template)
    return tuple(templates)


def _blanks(where: str, template: str, names: Sequence[str]) -> list[str]:
    """The placeholders of a template.

    Raises:
      DataError: another one than these, or braces out of balance.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"{where}: {shown(template)} has braces out of balance ({error}); a brace that stays "
            "is written twice"
        ) from error
    placeholders = [part for part in parts if part[1] is not None]
    for _, name, spec, conversion in placeholders:
        if name not in names or spec or conversion:
            raise DataError(
                f"{where}: {shown(template)} has a placeholder {{{name}}} that nothing fills; "
                f"expected {', '.join(f'{{{allowed}}}' for allowed in names)}"
            )
    return [str(name) for _, name, _, _ in placeholders]
