"""Instructions in JSON files: LLaVA-Instruct's conversations about pictures, and Alpaca's texts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import is_file, shown_path
from mmjax.data.conversations import Conversation
from mmjax.data.files import parse, read_bytes
from mmjax.data.wording import INSTRUCTION, Turn
from mmjax.errors import DataError, shown
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
      pictures: files, each once; `Conversation.picture` counts them.
      picture_names: the first row that shows each.
      skipped: rows left out because an answer was empty.
    """

    conversations: tuple[Conversation, ...]
    names: tuple[str, ...]
    pictures: tuple[Path, ...]
    picture_names: tuple[str, ...]
    skipped: int = 0


def load(sources: Sequence[str], images: str = "", skip_empty: bool = False) -> Dialogues:
    """Reads instructions.

    Args:
      sources: `llava:FILE.json`, a list of {"conversations": [{"from": "human" or "gpt", "value":
        text}, ...], ["image": name]}, in which `<image>` in what the human says stands for the
        picture; or `alpaca:FILE.json`, a list of {"instruction", "input", "output"}.
      images: folder of the pictures.
      skip_empty: leave rows with an empty answer out and count them, instead of refusing them.

    Returns:
      The conversations of all files, one after the other. Turns stay together: every answer is
      learned after what was said before it.

    Raises:
      DataError: a file that cannot be read; by file and row: another form, a text that is no
        UTF-8, an unknown role or one out of turn, an empty answer, a missing picture, or another
        number of pictures than of `<image>` tokens.
    """
    conversations: list[Conversation] = []
    names: list[str] = []
    numbers: dict[Path, int] = {}
    first: list[str] = []
    skipped = 0
    for source in sources:
        kind, _, file = source.partition(":")
        if kind not in DIALOGUES or not file:
            raise DataError(f"no instructions are called {source!r}; llava:FILE or alpaca:FILE")
        for i, row in enumerate(read_rows(Path(file))):
            name = f"{file}, row {i}"
            turns, picture = (_alpaca if kind == "alpaca" else _llava)(row, name)
            if any(turn.learn and not turn.text.strip() for turn in turns):
                if not skip_empty:
                    raise DataError(
                        f"{name}: an empty answer; give it a text, leave the row out, or set "
                        "--config.questions.skip_empty=True"
                    )
                skipped += 1
                continue
            number = None
            if picture is not None:
                path = Path(images) / picture
                if path not in numbers:
                    if not is_file(path):
                        raise DataError(
                            f"{name}: its picture {shown_path(path)} is missing; "
                            "config.questions.images is the folder of the pictures"
                        )
                    numbers[path] = len(numbers)
                    first.append(name)
                number = numbers[path]
            conversations.append(Conversation(turns, number))
            names.append(name)
    return Dialogues(tuple(conversations), tuple(names), tuple(numbers), tuple(first), skipped)


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
    said, picture = row.get("conversations"), row.get("image")
    if not isinstance(said, list) or not said or len(said) % 2:
        raise DataError(f"{name}: 'conversations' is no list of questions, each with its answer")
    turns: list[Turn] = []
    tokens = 0
    for i, turn in enumerate(said):
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
