"""Chinese-CLIP's data layout, of MUGE among others: pictures in a TSV file, queries in JSON lines.

  FOLDER/{train,valid}_imgs.tsv      picture's id, tab, the encoded picture in base64
  FOLDER/{train,valid}_texts.jsonl   {"text_id": 8428, "text": "...", "image_ids": [107, 517]}

`valid` becomes the test set: the labels of MUGE's own test set are not public.
"""

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.data.records import Corpus, Item, read_jsonl, text_of
from mmjax.errors import MmjaxError
from mmjax.progress import track

SIDES = {"train": "train", "valid": "test"}
LANGUAGE = "zh"
log = logging.getLogger("mmjax")


@dataclass(frozen=True)
class TsvPicture:
    """A picture in a row of a TSV file, read when it is wanted: MUGE's do not fit into memory.

    Attributes:
      path: of the file.
      row: counted from 1.
      start: where its base64 begins in the file, in bytes.
      length: of its base64.
    """

    path: Path
    row: int
    start: int
    length: int

    def read(self) -> bytes:
        """The encoded picture."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return _decode(file.read(self.length), f"{self.path}, row {self.row}")


def _decode(content: bytes, place: str) -> bytes:
    try:
        # Both alphabets of base64 are in use.
        picture = base64.b64decode(content.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MmjaxError(
            f"{place}: the picture is not base64 ({error}); expected ID, tab, base64"
        ) from error
    if not picture:
        raise MmjaxError(f"{place}: the picture is empty; expected ID, tab, base64")
    return picture


def load(folder: Path) -> Corpus:
    """Reads a folder in this layout; every picture that a query names is an item.

    Args:
      folder: holds the four files.

    Returns:
      The corpus. An item's captions are its queries; those with the same first query are a family.

    Raises:
      MmjaxError: names the file and the row that is not as it should be.
    """
    digest = hashlib.sha256()
    items: list[Item] = []
    for split, side in SIDES.items():
        pictures = _pictures(folder / f"{split}_imgs.tsv", digest)
        queries = _queries(folder / f"{split}_texts.jsonl", pictures, digest)
        if len(queries) < len(pictures):
            unasked = len(pictures) - len(queries)
            log.warning("%s: %d pictures of %s have no query", folder, unasked, split)
        items += [
            Item(
                f"{split}/{name}",
                f"{split}/{texts[0]}",
                "",
                {LANGUAGE: tuple(texts)},
                {"photo": pictures[name]},
                side,
                keywords=False,
            )
            for name, texts in queries.items()
        ]
    return Corpus(folder.name, tuple(items), {}, digest.hexdigest())


def _pictures(path: Path, digest: Any) -> dict[int, TsvPicture]:
    """Finds, and checks, every picture of a TSV file."""
    found: dict[int, TsvPicture] = {}
    for row, start, line in track(_lines(path), f"reading {path.name}"):
        digest.update(line)
        place = f"{path}, row {row}"
        name, tab, content = line.rstrip(b"\r\n").partition(b"\t")
        if not tab or not name.isdigit():
            raise MmjaxError(
                f"{place}: begins with {line[:20]!r}; expected ID, tab, base64, the ID a number"
            )
        if int(name) in found:
            raise MmjaxError(f"{place}: the picture {int(name)} stands twice")
        _decode(content, place)
        found[int(name)] = TsvPicture(path, row, start + len(name) + 1, len(content))
    if not found:
        raise MmjaxError(f"{path} has no rows; expected ID, tab, base64")
    return found


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yields (row from 1, byte at which it starts, line)."""
    start = 0
    try:
        with path.open("rb") as file:
            for row, line in enumerate(file, 1):
                yield row, start, line
                start += len(line)
    except OSError as error:
        raise MmjaxError(f"cannot read {path}: {error.strerror}") from error


def _queries(path: Path, pictures: dict[int, TsvPicture], digest: Any) -> dict[int, list[str]]:
    """Picture -> its queries, in the order of the file."""
    found: dict[int, list[str]] = {}
    seen: set[int] = set()
    for place, record in read_jsonl(path):
        text, number, ids = (
            text_of(place, record, "text"),
            record.get("text_id"),
            record.get("image_ids"),
        )
        if not isinstance(number, int) or number in seen:
            problem = "stands twice" if number in seen else "is no number"
            raise MmjaxError(f"{place}: 'text_id' {number!r} {problem}")
        seen.add(number)
        if not isinstance(ids, list) or not ids:
            raise MmjaxError(f"{place}: 'image_ids' is {ids!r}; expected a list of picture ids")
        for name in ids:
            if name not in pictures:
                raise MmjaxError(
                    f"{place}: 'image_ids' names the picture {name!r}, which "
                    f"{next(iter(pictures.values())).path} does not have"
                )
            found.setdefault(name, []).append(text)
        digest.update(f"{number} {text} {ids};".encode())
    if not found:
        raise MmjaxError(f"{path} has no rows; expected one JSON object a line")
    return found
