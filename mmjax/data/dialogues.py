"""Instructions in files: LLaVA-Instruct's conversations, Alpaca's texts, records of a synthesis."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import is_file, shown_path
from mmjax.data.files import parse, read_bytes
from mmjax.data.layout import Conversation
from mmjax.data.markers import Markers, markers_of
from mmjax.data.turn_records import BLANK, Record, read_records
from mmjax.data.wording import INSTRUCTION, Turn
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.specs.instruct import DIALOGUES

_IMAGE = "<image>"
_ROLES = ("human", "gpt")
LARGEST = 1 << 31  # bytes of a file; LLaVA's mixture of 665,000 rows has half of that


@dataclass(frozen=True)
class Dialogues:
    """Conversations of one or several files.

    Attributes:
      conversations: in the files' order.
      names: file and row of each, for messages.
      images: files, each once; `Conversation.image` counts them.
      image_names: the first row that shows each.
      skipped: rows left out because an answer was empty.
    """

    conversations: tuple[Conversation, ...]
    names: tuple[str, ...]
    images: tuple[Path, ...]
    image_names: tuple[str, ...]
    skipped: int = 0


def load_dialogues(
    sources: Sequence[str], images: str = "", skip_empty: bool = False, markers: str = "plain"
) -> Dialogues:
    """Reads instructions.

    Args:
      sources: `llava:FILE.json`, a list of {"conversations": [{"from": "human" or "gpt", "value":
        text}, ...], ["image": name]}, in which `<image>` in what the human says stands for the
        picture; `alpaca:FILE.json`, a list of {"instruction", "input", "output"}; or
        `records:FILE.jsonl`, as `mmjax.data.turn_records` has them, whose turns say themselves
        whether they are learned.
      images: folder of the pictures.
      skip_empty: leave rows with an empty answer, or with none to learn, out and count them,
        instead of refusing them.
      markers: what stands around the turns of records, by name.

    Returns:
      The conversations of all files, one after the other. Turns stay together: every answer is
      learned after what was said before it.

    Raises:
      DataError: a file that cannot be read; by file and row: another form, a text that is no
        UTF-8, an unknown role or one out of turn, an empty answer or none to learn, a missing
        picture, or another number of pictures than of `<image>` tokens.
    """
    conversations: list[Conversation] = []
    names: list[str] = []
    numbers: dict[Path, int] = {}
    first: list[str] = []
    skipped = 0
    for source in sources:
        kind, _, file = source.partition(":")
        if kind not in DIALOGUES or not file:
            raise DataError(
                f"no instructions are called {source!r}; llava:FILE, alpaca:FILE or records:FILE"
            )
        rows = _records(Path(file), markers_of(markers)) if kind == "records" else _rows(kind, file)
        for name, turns, picture, at in rows:
            wrong = None if any(turn.learn for turn in turns) else "no turn is to be learned"
            if any(turn.learn and not turn.text.strip() for turn in turns):
                wrong = "an empty answer"
            if wrong is not None:
                if not skip_empty:
                    raise DataError(
                        f"{name}: {wrong}; give it a text that is, leave the row out, or set "
                        "--config.questions.skip_empty=True"
                    )
                skipped += 1
                continue
            number = None
            if picture is not None:
                path = Path(picture) if picture == BLANK else Path(images) / picture
                if path not in numbers:
                    if picture != BLANK and not is_file(path):
                        raise DataError(
                            f"{name}: its picture {shown_path(path)} is missing; "
                            "config.questions.images is the folder of the pictures"
                        )
                    numbers[path] = len(numbers)
                    first.append(name)
                number = numbers[path]
            conversations.append(Conversation(turns, number, at))
            names.append(name)
    return Dialogues(tuple(conversations), tuple(names), tuple(numbers), tuple(first), skipped)


# Name, turns, picture, and how many letters of the first turn stand before the picture.
_Row = tuple[str, tuple[Turn, ...], str | None, int]
_ASKED = INSTRUCTION.index("{question}")


def _rows(kind: str, file: str) -> Iterator[_Row]:
    for i, row in enumerate(read_rows(Path(file))):
        name = f"{file}, row {i}"
        yield name, *(_alpaca if kind == "alpaca" else _llava)(row, name), _ASKED


def _records(file: Path, markers: Markers) -> Iterator[_Row]:
    at = len(markers.user + markers.gap)
    for i, record in enumerate(read_records(file)):
        name = f"{file}, record {i} ({shown(record.id)})"
        if len(record.images) > 1:
            raise DataError(
                f"{name}: {len(record.images)} images; a conversation is about one at most"
            )
        yield name, _turns(record, markers), record.images[0] if record.images else None, at


def _turns(record: Record, markers: Markers) -> tuple[Turn, ...]:
    """What is learned of a record; nothing where it says so, or a turn to learn is empty."""
    try:
        return markers.lay_out(record.turns)
    except MmjaxError:
        learned = any(turn.loss for turn in record.turns)
        return (Turn("", learn=learned),)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list.

    Raises:
      DataError: the file cannot be read or holds anything else; a row with bytes that are no UTF-8,
        or with half a surrogate pair, by its number.
    """
    # Bytes of another encoding come through as lone surrogates: their row can be named.
    content = read_bytes(path, LARGEST).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    rows = parse(f"cannot read {path}", content, "a JSON list of rows")
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds no list of rows")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {i}: expected an object, got {shown(row)}")
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except (RecursionError, ValueError) as error:
            if not isinstance(error, UnicodeEncodeError):
                raise DataError(f"{path}, row {i}: nested too deep to be read") from error
            raise DataError(
                f"{path}, row {i}: not UTF-8 text ({error.reason}); convert the file to UTF-8"
            ) from error
    return rows


def _alpaca(row: dict[str, Any], name: str) -> tuple[tuple[Turn, ...], str | None]:
    texts = [row.get(key, "") for key in ("instruction", "input", "output")]
    if not all(isinstance(text, str) for text in texts) or "output" not in row:
        raise DataError(
            f"{name}: expected texts 'instruction', 'input' and 'output', got {shown(row)}"
        )
    if not texts[0].strip():
        raise DataError(f"{name}: an empty instruction")
    return (
        Turn(INSTRUCTION.format(question=" ".join(texts[:2]).strip())),
        Turn(texts[2], learn=True),
    ), None


def _llava(row: dict[str, Any], name: str) -> tuple[tuple[Turn, ...], str | None]:
    messages, picture = row.get("conversations"), row.get("image")
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        raise DataError(f"{name}: 'conversations' is no list of questions, each with its answer")
    turns: list[Turn] = []
    tokens = 0
    for i, turn in enumerate(messages):
        role, text = (turn.get(k) if isinstance(turn, dict) else None for k in ("from", "value"))
        if role not in _ROLES or not isinstance(text, str):
            raise DataError(
                f"{name}, turn {i}: expected {{'from': 'human' or 'gpt', 'value': text}}, "
                f"got {shown(turn)}"
            )
        if role != _ROLES[i % 2]:
            raise DataError(f"{name}, turn {i}: {role!r} is out of turn; human and gpt alternate")
        if role == "gpt":
            turns.append(Turn(text, learn=True))
            continue
        tokens += text.count(_IMAGE)
        own = INSTRUCTION.format(question=text.replace(_IMAGE, "").strip())
        turns.append(Turn(f"\n{own}" if turns else own))
    pictures = picture if isinstance(picture, list) else [] if picture is None else [picture]
    if len(pictures) != tokens:
        raise DataError(f"{name}: {len(pictures)} pictures but {tokens} {_IMAGE} tokens")
    if len(pictures) > 1:
        raise DataError(f"{name}: {len(pictures)} pictures; a conversation is about one at most")
    if pictures and not isinstance(pictures[0], str):
        raise DataError(f"{name}: 'image' is {shown(pictures[0])}; expected the name of a picture")
    return tuple(turns), pictures[0] if pictures else None
