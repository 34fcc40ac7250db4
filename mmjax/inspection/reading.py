"""A user's rows as they are, faults and all: nothing here stops at the first of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.data import own
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.inspection.findings import Finding

PARALLEL = ("source", "target")
_ROW = re.compile(r", row (\d+)$")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?")
_TEXTS = ("caption", "text", *PARALLEL)
_OTHERS = ("image", "file_name", "id", "label", "family", "split", "meta", "url")


@dataclass(frozen=True)
class DataRow:
    """A row.

    Attributes:
      place: its number in the file, or its picture's name.
      image: path of its picture; None where it has none.
      texts: column -> what stands there; a column of another type is not among them.
      label: its class; "" for none.
      family: its near-duplicates' name; "" for none.
      side: "train", "val" or "test", or "" where it says none.
      content: all of it.
    """

    place: int | str
    image: Path | None
    texts: Mapping[str, tuple[str, ...]]
    label: str
    family: str
    side: str
    content: Mapping[str, Any]

    @property
    def first(self) -> dict[str, str]:
        """The first text of each column."""
        return {column: texts[0] for column, texts in self.texts.items() if texts}


@dataclass(frozen=True)
class SourceRows:
    """All rows of a source.

    Attributes:
      source: as the user named it.
      rows: those that can be read.
      columns: names of the columns of text, in the order in which they are met.
      faults: what is wrong with the others.
    """

    source: str
    rows: tuple[DataRow, ...]
    columns: tuple[str, ...]
    faults: tuple[Finding, ...]

    @property
    def is_parallel(self) -> bool:
        """Whether it is text in two languages, without pictures."""
        return set(PARALLEL) <= set(self.columns) and not any(row.image for row in self.rows)

    @property
    def labels(self) -> list[str]:
        """The classes, in the order in which they are met."""
        return list(dict.fromkeys(row.label for row in self.rows if row.label))


def named(source: str) -> str:
    """A source as readers take it: a folder is one of classes.

    Raises:
      MmjaxError: there is nothing of this name.
    """
    if Path(source).is_dir():
        return f"{own.FOLDER}{source.rstrip('/')}"
    if own.is_own(source):
        return source
    raise MmjaxError(f"{shown(source)} is no data that is known; expected {own.FORMS}")


def read_all(source: str) -> SourceRows:
    """Reads every row that can be read.

    Args:
      source: a folder, a list, a table or tar shards; see `mmjax.data.own`.

    Returns:
      The rows, and what is wrong with the others.

    Raises:
      MmjaxError: there is no such file or folder.
    """
    source = named(source)
    faults: list[Finding] = []
    columns: dict[str, None] = {}
    rows: list[DataRow] = []

    def skip(fault: DataError) -> None:
        faults.append(Finding("row", "error", str(fault)))

    try:
        for place, content in own.own_rows(source, skip):
            row, wrong = _row(place, content)
            rows.append(row)
            faults += wrong
            columns |= dict.fromkeys(row.texts)
    except DataError as fault:
        if not rows:
            raise
        faults.append(Finding("row", "error", f"reading stops there: {fault}"))
    if not rows:
        raise MmjaxError(f"{source} has no rows; expected {own.FORMS}")
    return SourceRows(source, tuple(rows), tuple(columns), tuple(faults))


def place_of(place: str) -> int | str:
    """A row's number, or the last two parts of a picture's path."""
    match = _ROW.search(place)
    return int(match[1]) if match else "/".join(Path(place).parts[-2:])


def _row(place: str, content: Mapping[str, Any]) -> tuple[DataRow, list[Finding]]:
    where, wrong, texts = place_of(place), [], {}
    for column, value in content.items():
        if not isinstance(column, str) or column in _OTHERS:
            continue
        if column not in _TEXTS and not _LANGUAGE.fullmatch(column):
            continue
        several = value if isinstance(value, list) else [value]
        if all(isinstance(text, str) for text in several):
            texts[column] = tuple(several)
        elif value is not None:
            sentence = f"{column!r} is {shown(value)}; expected a text"
            wrong.append(Finding("text", "error", sentence, (where,)))
    label, image = content.get("label"), content.get("image")
    if isinstance(label, Mapping):
        label = next((v for v in label.values() if isinstance(v, str)), "")
    label = str(label) if isinstance(label, str | int) and not isinstance(label, bool) else ""
    side = ""
    try:
        side = own.side_of(place, content)
    except DataError as fault:
        wrong.append(Finding("split", "error", str(fault).partition(": ")[2], (where,)))
    path = Path(image) if isinstance(image, str) and image else None
    family = str(content.get("family") or "")
    return DataRow(where, path, texts, label.strip(), family, side, content), wrong
