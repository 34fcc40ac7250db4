"""What readers of others' files share: rows with their places, and records that are checked."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.data.dialogues import read_rows
from mmjax.data.files import check_image, read_jsonl
from mmjax.data.rows import Rows
from mmjax.data.turn_records import BLANK, Record, check_new
from mmjax.errors import DataError


def read_objects(path: Path) -> Rows:
    """Yields the objects of a .jsonl file, one at a time, or of a list in any other JSON file.

    Raises:
      DataError: the file cannot be read, or a row is no object; by file and row.
    """
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    return ((f"{path}, row {i}", row) for i, row in enumerate(read_rows(path)))


def checked(
    source: object,
    records: Iterable[tuple[str, Record]],
    images: str = "",
    check_images: bool = False,
) -> Iterator[Record]:
    """Yields records whose ids are unique and whose images stand in a folder.

    Args:
      source: names the data set where it is empty.
      records: records, each with its place.
      images: folder that paths start from; whole paths, URLs and blank images stay as they are.
      check_images: whether every path must lead to a file.

    Raises:
      DataError: an id that stands twice, an image that is missing, no record at all.
    """
    seen: set[str] = set()
    for place, record in records:
        check_new(place, record.id, seen)
        paths = tuple(
            name if is_elsewhere(name) else os.path.join(images, name) for name in record.images
        )
        if check_images:
            for path in paths:
                if not is_elsewhere(path):
                    check_image(place, Path(path))
        yield dataclasses.replace(record, images=paths) if images else record
    if not seen:
        raise DataError(f"{source} has no rows")


def is_elsewhere(image: str) -> bool:
    """Whether an image is no path: a URL, or blank."""
    return "://" in image or image.startswith(BLANK)


def meta_of(row: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """What a row says besides.

    Args:
      row: the row.
      known: keys that are read elsewhere.

    Returns:
      Its other keys but for nulls, and those of the object, or of the JSON text of one, that stands
      under `meta`.
    """
    rest = {key: value for key, value in row.items() if key not in known and value is not None}
    meta = rest.get("meta")
    if isinstance(meta, str):
        with contextlib.suppress(ValueError, RecursionError):
            meta = json.loads(meta)
    if isinstance(meta, dict):
        del rest["meta"]
        rest |= meta
    return rest
