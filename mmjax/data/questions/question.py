"""One question of a published set, and readers of the files that such sets come in."""

import csv
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.checks.foreign import reading
from mmjax.data.files import LONGEST_LINE, error_of, whole_text
from mmjax.data.records import StoredImage
from mmjax.errors import DataError, shown

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Question:
    """What is asked about a picture.

    Attributes:
      id: unique in its set, and the same whenever it is read.
      text: the question, without options and without a token for the picture.
      image: a file that may turn out to be missing, or where to read one; None without a picture.
      answers: every right answer, or all that belongs to the one right answer: references of a
        caption, what ten people said, ingredients of a dish.
      options: what there is to choose from; empty where answers are free.
      kind: which part of its set it belongs to, such as "open" and "closed".
      group: questions of one group are about one picture; empty where that does not count.
    """

    id: str
    text: str
    image: Path | StoredImage | None
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    kind: str = ""
    group: str = ""


def listed(path: Path, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("FILE, row N", object) of a JSON list, however large the file is.

    Args:
      path: a JSON list of objects, or an object with such a list in it.
      key: under which the list stands; empty where the file is the list.

    Raises:
      DataError: the file cannot be read or has no such list, or a row is no object.
    """
    decoder, number, at, text = json.JSONDecoder(), 0, 0, ""
    opening = re.compile(rf'"{re.escape(key)}"\s*:\s*\[' if key else r"\A\s*\[")
    begun = False
    for chunk in _chunks(path):
        # What was searched for the list may go, but for what a key's beginning may stand in.
        text, at = (text[at:] if begun else text[-4096:] if key else text) + chunk, 0
        if not begun:
            match = opening.search(text)
            if match is None and not key and text.strip():
                break
            if match is None:
                continue
            begun, at = True, match.end()
        while begun:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            if at < len(text) and text[at] == "]":
                return
            place = f"{path}, row {number + 1}"
            try:
                row, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                if len(text) - at > LONGEST_LINE or isinstance(error, RecursionError):
                    raise DataError(f"{place}: is not readable as a JSON object") from error
                break  # it may go on in the next chunk
            if not isinstance(row, dict):
                raise DataError(f"{place}: is {shown(row)}; expected a JSON object")
            number, at = number + 1, end
            yield place, row
    if not begun:
        raise DataError(f"{path}: expected a JSON list{f' under {key!r}' if key else ''}")
    raise DataError(f"{path}, row {number + 1}: the file ends, or is no JSON, within this row")


def _chunks(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: it is not UTF-8 ({error})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error_of(error)}") from error


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields ("FILE, row N", cells by column) of a CSV file, its header being row 1.

    Raises:
      DataError: the file cannot be read, lacks a column, or a row has not as many cells.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            missing = sorted(set(columns) - set(rows.fieldnames or ()))
            if missing:
                raise DataError(f"{path}, row 1: has no column {missing[0]!r}")
            for number, row in enumerate(rows, 2):
                if None in row or None in row.values():
                    raise DataError(f"{path}, row {number}: has not as many cells as the header")
                yield f"{path}, row {number}", row
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: it is not UTF-8 ({error})") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error_of(error)}") from error


@dataclass(frozen=True)
class ParquetImage:
    """A picture in the column `image` of a Parquet file of the Hugging Face Hub.

    Attributes:
      path: the file.
      group: number of its group of rows.
      row: number of the row within the group.
    """

    path: Path
    group: int
    row: int

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
          DataError: there is none.
        """
        picture = _pictures(self.path, self.group)[self.row]
        content = picture.get("bytes") if isinstance(picture, dict) else None
        if not content:
            raise DataError(f"{self.path}, group {self.group}, row {self.row}: has no picture")
        return content


@functools.lru_cache(maxsize=2)  # rows are read in order, and a group has a hundred or so
def _pictures(path: Path, group: int) -> list[Any]:
    import pyarrow.parquet as pq

    with reading(path, "a Parquet file", DataError), pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=["image"])["image"].to_pylist()


def parquet(
    folder: Path, pattern: str, columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any], ParquetImage]]:
    """Yields ("FILE, row N", cells by column, picture) of the Parquet files of one split.

    Args:
      folder: where they lie.
      pattern: of their names, such as "test-*.parquet"; they are read in the names' order.
      columns: to read; the pictures stay in the file until they are wanted.

    Raises:
      DataError: no such file, or one that cannot be read or lacks a column.
    """
    import pyarrow.parquet as pq

    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DataError(f"{folder} has no file {pattern}; put the data set's Parquet files there")
    for path in paths:
        number = 0
        with reading(path, "a Parquet file", DataError), pq.ParquetFile(path) as file:
            missing = sorted({*columns, "image"} - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"{path}: has no column {missing[0]!r}")
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=list(columns)).to_pylist()
                for i, row in enumerate(rows):
                    number += 1
                    yield f"{path}, row {number}", row, ParquetImage(path, group, i)


def text_or_number(place: str, row: Mapping[str, Any], key: str) -> str:
    """A cell that should be a text, but is a number in some rows of published files.

    Raises:
      DataError: it is something else, or empty; names the place.
    """
    value = row.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    text = whole_text(f"{place}: {key!r}", value).strip()
    if not text:
        raise DataError(f"{place}: {key!r} is empty")
    return text


def kind_of(place: str, row: Mapping[str, Any], key: str, kinds: Sequence[str]) -> str:
    """A cell that is one of several words, in small letters.

    Raises:
      DataError: it is none of them; names the place.
    """
    kind = text_or_number(place, row, key).lower()
    if kind not in kinds:
        raise DataError(f"{place}: {key!r} is {shown(kind)}; expected one of {list(kinds)}")
    return kind
