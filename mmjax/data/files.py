"""Files of data sets, read with bounds: a fault is one sentence with the file and the row."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from mmjax.checks import foreign
from mmjax.checks.foreign import is_file, shown_path
from mmjax.errors import DataError, MmjaxError, shown

LONGEST_LINE = 1 << 22  # bytes; captions and ids take a thousandth of it
Skip: TypeAlias = Callable[[DataError], None]  # is told what is wrong with a row that is left out
LARGEST = 1 << 28  # bytes of a JSON file that is read at once


def parse(place: str, content: str, expected: str) -> Any:
    """JSON whose nesting and numbers are bounded.

    Args:
      place: names the file, and the row, in messages.
      content: the JSON.
      expected: what should stand there.

    Returns:
      What it says.

    Raises:
      DataError: it is no JSON, or none that a data set needs.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise DataError(f"{place}: JSON nested too deep to be read") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: expected {expected} ({error})") from error
    except ValueError as error:  # Python converts no whole number of more than 4,300 digits
        raise DataError(f"{place}: holds a number of thousands of digits") from error


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """A file of bounded size.

    Raises:
      DataError: it is missing, no file, or larger than any of its kind.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise DataError(f"cannot read {shown_path(path)}: {error_of(error)}") from error
    if len(content) > largest:
        raise DataError(f"{path} has more than {largest >> 20} MiB; no such file is that large")
    return content


def error_of(error: Exception) -> str:
    """What an error of the file system says, without the name that the message has already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_text(path: Path) -> str:
    """A text file, without its byte order mark; every line end is a newline, whoever wrote it.

    Raises:
      DataError: it is missing, too large, or no UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: it is not UTF-8 ({error})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_data_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
      DataError: as `read_text`, or it is no JSON.
    """
    return parse(f"cannot read {path}", read_text(path), "JSON")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      DataError: as `read_data_json`, or it holds something else.
    """
    content = read_data_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_jsonl(path: Path, skip: Skip | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("FILE, row N", object) of a JSON-lines file, rows counted from 1.

    Rows end at line feeds alone: other separators, such as U+2028, may stand in a JSON text.

    Args:
      path: the file.
      skip: is given the fault of a row that is no object, which is passed over then; None raises
        it.

    Raises:
      DataError: the file is missing, or a row is too long, no UTF-8 or no JSON object.
    """
    for number, line in read_lines(path):
        place = f"{path}, row {number}"
        if not line.strip():
            continue
        try:
            record = parse(place, line, "one JSON object a line")
            if not isinstance(record, dict):
                raise DataError(f"{place}: expected a JSON object, found {type(record).__name__}")
        except DataError as fault:
            if skip is None:
                raise
            skip(fault)
        else:
            yield place, record


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields lines, each with its number from 1 and its end, without a byte order mark.

    Raises:
      DataError: the file is missing, or a line is no UTF-8 or longer than memory bears.
    """
    for number, _, line in read_placed_lines(path, LONGEST_LINE, "one row a line"):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"cannot read {path}: row {number} is not UTF-8 ({error})") from error
        yield number, text


def read_placed_lines(path: Path, longest: int, expected: str) -> Iterator[tuple[int, int, bytes]]:
    """Yields (row from 1, byte at which it starts, line with its end).

    Args:
      path: the file.
      longest: bytes of a line.
      expected: what should stand in a line.

    Raises:
      DataError: the file is missing, or a line is longer.
    """
    row, start = 0, 0
    try:
        with path.open("rb") as file:
            while line := file.readline(longest + 1):
                row += 1
                if len(line) > longest:
                    raise DataError(
                        f"{path}, row {row}: is longer than {longest >> 20} MiB; expected "
                        f"{expected}"
                    )
                yield row, start, line
                start += len(line)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {shown_path(path)}: {error_of(error)}") from error


def read_rows(path: Path) -> list[str]:
    """The lines of a list, such as the names of classes.

    Args:
      path: UTF-8 text, perhaps with a byte order mark.

    Returns:
      The lines without white space around them.

    Raises:
      DataError: a file that cannot be read, has no lines, or an empty one.
    """
    rows = [(number, line.strip()) for number, line in read_lines(path)]
    for number, row in rows:
        if not row:
            raise DataError(f"{path}, row {number}: is empty")
    if not rows:
        raise DataError(f"{path} has no rows")
    return [row for _, row in rows]


def text_of(place: str, record: Mapping[str, Any], key: str) -> str:
    """A record's text under a key, stripped.

    Raises:
      DataError: it has none, or one that is empty or no whole Unicode; names the place.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {key!r} is {shown(value)}; expected a text that is not empty")
    return whole_text(f"{place}: {key!r}", value).strip()


def whole_text(where: str, value: object) -> str:
    """A text of bounded length that can be written as UTF-8.

    Raises:
      DataError: it is none; names where it stands.
    """
    try:
        return foreign.text(where, value)
    except MmjaxError as error:
        raise DataError(str(error)) from error


def name_of(place: str, record: Mapping[str, Any], key: str, usual: str) -> str:
    """A record's name under a key: a text, or a whole number; what is usual where it has none.

    Raises:
      DataError: something else; names the place.
    """
    value = record.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{place}: {key!r} is {shown(value)}; expected a text or a whole number")
    return whole_text(f"{place}: {key!r}", str(value))


def check_image(place: str, path: Path) -> Path:
    """A picture's path, if there is a file.

    Raises:
      DataError: there is none; names the place.
    """
    if not is_file(path):
        raise DataError(f"{place}: no picture at {shown_path(path)}")
    return path


def stamp_of(path: Path, name: str = "") -> bytes:
    """What a fingerprint takes of a file that it does not read: name, size, time of change."""
    stat = path.stat()
    return f"{name or path}:{stat.st_size}:{stat.st_mtime_ns};".encode()


def check_name(place: str, name: str) -> str:
    """A name that becomes a part of a path, if it cannot lead elsewhere.

    Raises:
      DataError: it holds a separator or goes up; names the place.
    """
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise DataError(f"{place}: {shown(name)} cannot be the name of a file")
    return name
