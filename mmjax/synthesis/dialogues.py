"""Conversations as LLaVA and LLaMA-Factory (ShareGPT) keep them, both ways."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.data.files import name_of, whole_text
from mmjax.data.turn_records import MOST_TURNS, Message, Record, Role, check_turns, images_of
from mmjax.errors import DataError, shown
from mmjax.synthesis.rows import checked, is_elsewhere, meta_of, read_objects

_TOKEN = "<image>"
_ROLES: Mapping[object, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_FIRST = re.compile(rf"(?:{_TOKEN}\n)+")
_WITHIN = re.compile(rf"\s*{_TOKEN}\s*")
# LLaMA-Factory counts these, whoever says them.
_LITERAL = re.compile(r"<(\\*)(image|video|audio)>")
_ESCAPED = re.compile(r"<\\(\\*)(image|video|audio)>")


def read_dialogues(path: Path, images: str = "", check_images: bool = False) -> Iterator[Record]:
    """Yields the records of a file in LLaVA's or LLaMA-Factory's form.

    Args:
      path: a list in a .json file, which is read at once, or a .jsonl file, which is not.
      images: folder that the images' paths start from.
      check_images: whether every path must lead to a file.

    Returns:
      As `record_of` makes them; a row without an id is called by its number.

    Raises:
      DataError: by file and row.
    """
    rows = enumerate(read_objects(path))
    records = ((place, record_of(place, row, str(i))) for i, (place, row) in rows)
    return checked(path, records, images, check_images)


def record_of(place: str, row: Mapping[str, Any], usual: str = "") -> Record:
    """A record from a row.

    Args:
      place: names the file and the row in messages.
      row: `conversations` of {from, value} or `messages` of {role, content}; `image` or `images`, a
        path or a list of paths; maybe `id`. Learned is what the assistant says, where a turn's own
        `loss` says nothing else. A first turn of the system's, and other keys, go to `meta`.
      usual: id of a row that has none.

    Returns:
      The record; images come first, wherever their tokens stand.

    Raises:
      DataError: another form, a role that is unknown or out of turn, another number of images than
        of `<image>` in what the user says.
    """
    meta = meta_of(row, "id", "image", "images", "conversations", "messages")
    turns, tokens, system = turns_of(place, row)
    if system is not None:
        meta["system"] = system
    check_turns(place, turns)
    several = row.get("images")
    images = images_of(place, row.get("image") if several is None else several)
    if len(images) != tokens:
        raise DataError(
            f"{place}: has {len(images)} images, and {tokens} {_TOKEN} in what the user says; "
            "expected one for each"
        )
    name = usual if row.get("id") is None else name_of(place, row, "id", usual)
    return Record(name, images, turns, meta)


def turns_of(place: str, row: Mapping[str, Any]) -> tuple[tuple[Message, ...], int, str | None]:
    """(turns without tokens of images, the number of these, what the system says) of a row."""
    key = "conversations" if row.get("messages") is None else "messages"
    messages = row.get(key)
    if not isinstance(messages, list) or not messages or len(messages) > MOST_TURNS:
        raise DataError(
            f"{place}: {key!r} is {shown(messages)}; expected a list of at most {MOST_TURNS} turns"
        )
    turns: list[Message] = []
    tokens, system = 0, None
    for i, turn in enumerate(messages):
        where = f"{place}, turn {i}"
        if not isinstance(turn, dict):
            raise DataError(f"{where}: is {shown(turn)}; expected an object")
        role = turn.get("from", turn.get("role"))
        text = whole_text(f"{where}: its text", turn.get("value", turn.get("content")))
        if role == "system" and i == 0:
            system = text
            continue
        if not isinstance(role, str) or role not in _ROLES:
            raise DataError(f"{where}: its role is {shown(role)}; expected one of {[*_ROLES]}")
        loss = turn.get("loss")
        if loss is not None and not isinstance(loss, bool):
            raise DataError(f"{where}: 'loss' is {shown(loss)}; expected true or false")
        if _ROLES[role] == "user":
            tokens += text.count(_TOKEN)
            text = _without_tokens(text)
        text = _ESCAPED.sub(r"<\1\2>", text)
        learned = _ROLES[role] == "assistant" if loss is None else loss
        turns.append(Message(_ROLES[role], text, learned))
    return tuple(turns), tokens, system


def _without_tokens(text: str) -> str:
    text = _FIRST.sub("", text, count=1) if text.startswith(_TOKEN) else text
    if _TOKEN not in text:
        return text
    return _WITHIN.sub(lambda match: "\n" if "\n" in match[0] else " ", text).strip()


def llava_row(record: Record, root: str = "") -> dict[str, Any]:
    """A record as LLaVA's training reads it.

    Args:
      record: with a turn of the user's where it has images.
      root: folder that paths below it are written relative to.

    Returns:
      {"id", "image": a path, or a list of several, "conversations", "meta"}, without what is empty.
      A turn that is not learned as LLaVA would says so under `loss`, which LLaVA passes over.

    Raises:
      DataError: a record without turns.
    """
    images = _relative(record.images, root)
    turns = _said(record, ("from", "human", "gpt"), "value")
    row: dict[str, Any] = {"id": record.id, "conversations": turns}
    if images:
        row["image"] = images if len(images) > 1 else images[0]
    if record.meta:
        row["meta"] = dict(record.meta)
    return row


def sharegpt_row(record: Record, root: str = "") -> dict[str, Any]:
    """A record as LLaMA-Factory reads it.

    Its dataset_info.json needs {"formatting": "sharegpt", "columns": {"messages": "messages",
    "images": "images"}, "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
    "assistant_tag": "assistant", "system_tag": "system"}}.

    Args:
      record: with a turn of the user's where it has images.
      root: folder that paths below it are written relative to.

    Returns:
      {"id", "images", "messages", "meta"}; `meta` is JSON in a text, for its readers want one
      schema for all rows. `loss` is as of `llava_row`.

    Raises:
      DataError: a record without turns.
    """
    meta = dict(record.meta)
    system = meta.pop("system", None)
    if system is not None and not isinstance(system, str):
        meta["system"], system = system, None
    messages = _said(record, ("role", "user", "assistant"), "content")
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    row = {"id": record.id, "images": _relative(record.images, root), "messages": messages}
    if meta:
        row["meta"] = json.dumps(meta, ensure_ascii=False, sort_keys=True)
    return row


def _said(record: Record, roles: tuple[str, str, str], text: str) -> list[dict[str, Any]]:
    if not record.turns:
        raise DataError(f"record {shown(record.id)} has no turns; a conversation needs one")
    key, user, assistant = roles
    messages: list[dict[str, Any]] = []
    for i, turn in enumerate(record.turns):
        tokens = f"{_TOKEN}\n" * len(record.images) if i == 0 else ""
        escaped = _LITERAL.sub(r"<\\\1\2>", turn.text)
        message = {key: user if turn.role == "user" else assistant, text: tokens + escaped}
        learned = {} if turn.loss == (turn.role == "assistant") else {"loss": turn.loss}
        messages.append(message | learned)
    return messages


def _relative(images: tuple[str, ...], root: str) -> list[str]:
    """Paths as they are seen from a folder, where they lie in it."""
    inside = os.path.join(os.path.normpath(root), "") if root else ""
    return [
        os.path.relpath(image, root)
        if root and not is_elsewhere(image) and os.path.normpath(image).startswith(inside)
        else image
        for image in images
    ]
