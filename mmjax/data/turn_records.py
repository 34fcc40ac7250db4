"""The record that every step of a synthesis reads and writes: images and turns, one JSON a line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmjax.data.files import name_of, read_jsonl, whole_text
from mmjax.errors import DataError, shown

Role = Literal["user", "assistant"]
MOST_TURNS, MOST_IMAGES = 1_000, 100  # of one record
BLANK = "blank:"  # in place of an image's path: a white picture, which no file holds


@dataclass(frozen=True)
class Message:
    """What one side says.

    Attributes:
      role: `user` or `assistant`.
      text: without markers of roles and without tokens that stand for images.
      loss: whether training learns it.
    """

    role: Role
    text: str
    loss: bool = False


@dataclass(frozen=True)
class Record:
    """A conversation about images.

    Attributes:
      id: unique in its data set, and the same in every step.
      images: paths, URLs or `BLANK`, shown before the first turn.
      turns: in order, the user's first; user and assistant alternate.
      meta: anything else that is known of it; JSON.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Message, ...]
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of_object(cls, place: str, content: Mapping[str, Any]) -> "Record":
        """A record from JSON.

        Args:
          place: names the file and the row in messages.
          content: {"id", "images": [...] or one text, "turns": [{"role", "text", ["loss"]}],
            ["meta"]}.

        Returns:
          The record.

        Raises:
          DataError: something else, by name.
        """
        if "id" not in content:
            raise DataError(f"{place}: has no 'id'; every record needs one of its own")
        meta = content.get("meta", {})
        if not isinstance(meta, dict):
            raise DataError(f"{place}: 'meta' is {shown(meta)}; expected an object")
        messages = content.get("turns", [])
        if not isinstance(messages, list) or len(messages) > MOST_TURNS:
            raise DataError(
                f"{place}: 'turns' is {shown(messages)}; expected a list of at most "
                f"{MOST_TURNS} turns"
            )
        turns = tuple(_message(f"{place}, turn {i}", message) for i, message in enumerate(messages))
        check_turns(place, turns)
        images = images_of(place, content.get("images", []))
        return cls(name_of(place, content, "id", ""), images, turns, meta)

    def as_object(self) -> dict[str, Any]:
        """The JSON that `of_object` reads."""
        return {
            "id": self.id,
            "images": list(self.images),
            "turns": [{"role": t.role, "text": t.text, "loss": t.loss} for t in self.turns],
            "meta": dict(self.meta),
        }

    def line(self) -> str:
        """The same as one line of a file, its line feed behind it."""
        return as_line(self.as_object())


def as_line(content: Mapping[str, Any]) -> str:
    """JSON as one line of a file, the same for the same content, its line feed behind it."""
    line = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair can be spelt, as it came, but not written
        return json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n"
    return line


def read_records(path: Path) -> Iterator[Record]:
    """Yields the records of a file, which is never whole in memory.

    Args:
      path: JSON lines, with or without a byte order mark or carriage returns.

    Raises:
      DataError: a row that is no record, or an id that stands twice; by file and row.
    """
    seen: set[str] = set()
    for place, content in read_jsonl(path):
        record = Record.of_object(place, content)
        check_new(place, record.id, seen)
        yield record


def check_new(place: str, name: str, seen: set[str]) -> None:
    """Refuses an id that stands twice, or is empty; adds it to those that were seen.

    Raises:
      DataError: by place.
    """
    if not name:
        raise DataError(f"{place}: its 'id' is empty")
    if name in seen:
        raise DataError(f"{place}: the id {shown(name)} stands twice; give each row its own 'id'")
    seen.add(name)


def images_of(place: str, value: object) -> tuple[str, ...]:
    """Images under a key, given as one text or as a list of texts.

    Raises:
      DataError: something else, an empty name, or more than a conversation has.
    """
    several = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(several, list) or len(several) > MOST_IMAGES:
        raise DataError(
            f"{place}: 'images' is {shown(value)}; expected a path, or a list of at most "
            f"{MOST_IMAGES}"
        )
    names = tuple(whole_text(f"{place}: image {i}", name) for i, name in enumerate(several))
    if not all(name.strip() for name in names):
        raise DataError(f"{place}: the name of an image is empty")
    return names


def check_turns(place: str, turns: tuple[Message, ...]) -> None:
    """Refuses roles that do not alternate, the user's first.

    Raises:
      DataError: by place and turn.
    """
    for i, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[i % 2]:
            raise DataError(
                f"{place}, turn {i}: {turn.role!r} is out of turn; user and assistant alternate, "
                "the user first"
            )


def _message(place: str, content: object) -> Message:
    if not isinstance(content, dict):
        raise DataError(f"{place}: is {shown(content)}; expected an object with role and text")
    role, loss = content.get("role"), content.get("loss", False)
    if role not in ("user", "assistant"):
        raise DataError(f"{place}: its role is {shown(role)}; expected 'user' or 'assistant'")
    if not isinstance(loss, bool):
        raise DataError(f"{place}: 'loss' is {shown(loss)}; expected true or false")
    return Message(role, whole_text(f"{place}: 'text'", content.get("text")), loss)
