"""What comes from files that others made: a type and a range for values, a sentence for failures.

Readers of weights, configurations, tokenizers, cards and data sets read through this file, so that
nothing of another's making is trusted by accident and no other library's traceback reaches a user.
"""

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmjax.errors import MmjaxError, WeightsError, first_line, shown

# No file that mmjax reads needs a longer text in one value, deeper JSON, or a larger JSON file.
LONGEST_TEXT = 1 << 20
LARGEST_JSON = 1 << 28
LARGEST_DESCRIPTION = 1 << 24  # of a model: its config, an index of its shards
# Sizes of models: no published encoder has more layers, wider layers or a longer table of anything.
MOST_LAYERS = 1_000
WIDEST = 1 << 18
MOST_TOKENS = 1 << 22
MOST_TENSORS, LONGEST_NAME = 50_000, 500  # of one file of weights; letters of a tensor's name


def integer(where: str, value: object, least: int, most: int) -> int:
    """A whole number within bounds.

    Args:
      where: names the value in the message: the file, then the key.
      value: what stands there; a bool or a float is no whole number.
      least: smallest good value.
      most: largest good value.

    Returns:
      The number.

    Raises:
      MmjaxError: it is of another type or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise MmjaxError(
            f"{where} is {shown(value)}; expected a whole number from {least} to {most}"
        )
    return value


def real(
    where: str,
    value: object,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float | None = None,
) -> float:
    """A finite number within bounds.

    Args:
      where: names the value in the message: the file, then the key.
      value: what stands there; an int is a number too, a bool or a text is none.
      least: smallest good value.
      most: largest good value.
      above: every good value is larger than this one.

    Returns:
      The number.

    Raises:
      MmjaxError: it is of another type, not finite, or out of bounds.
    """
    good = not isinstance(value, bool) and isinstance(value, int | float)
    with contextlib.suppress(OverflowError):  # an int of a thousand digits
        number = float(value) if good else math.nan  # pyright: ignore[reportArgumentType]
        inside = least <= number <= most and (above is None or number > above)
        if inside and math.isfinite(number):
            return number
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"at least {least:g}"] if least > -math.inf else []
    bounds += [f"at most {most:g}"] if most < math.inf else []
    expected = " ".join(["a finite number", ", ".join(bounds)]).strip()
    raise MmjaxError(f"{where} is {shown(value)}; expected {expected}")


def text(where: str, value: object, longest: int = LONGEST_TEXT) -> str:
    """A text of bounded length.

    Raises:
      MmjaxError: it is of another type, too long, or cannot be written as UTF-8.
    """
    if not isinstance(value, str) or len(value) > longest:
        raise MmjaxError(
            f"{where} is {shown(value)}; expected a text of at most {longest} characters"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MmjaxError(f"{where} holds half of a surrogate pair, which is no text") from error
    return value


def shown_path(path: os.PathLike[str] | str) -> str:
    """A path as a message shows it: not for ever, and nothing that a terminal cannot print."""
    name = os.fspath(path)
    name = name if len(name) <= 300 else f"{name[:100]}... of {len(name)} letters"
    return name if name.isprintable() else ascii(name)


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that no system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def reading(
    path: os.PathLike[str] | str, what: str, kind: type[MmjaxError] = WeightsError
) -> Iterator[None]:
    """Turns whatever another library raises while it reads a file into one sentence with its name.

    Args:
      path: the file.
      what: what it should be, with its article: "a safetensors file".
      kind: the error to raise.

    Raises:
      MmjaxError: as `kind`, for every exception but mmjax's own and those that end a process.
    """
    try:
        yield
    except (MmjaxError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # pyo3's PanicException is no Exception
        if isinstance(error, OSError) and error.strerror:
            raise kind(f"{path} cannot be read ({error.strerror})") from error
        raise kind(f"{path} is not readable as {what} ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """What another library's exception says, short enough for a sentence."""
    message = first_line(error, 160) if str(error).strip() else "no reason given"
    return f"{type(error).__name__}: {message}"


def read_bounded_json(path: Path, most: int = LARGEST_DESCRIPTION) -> Any:
    """Reads a JSON file of bounded size.

    Args:
      path: the file.
      most: bytes that it may have; in memory it takes up to thirty times as much.

    Raises:
      MmjaxError: it does not exist, cannot be read, is larger, or holds no JSON.
    """
    try:
        return parse_json(path, read_bytes(path, most))
    except FileNotFoundError as error:
        raise MmjaxError(f"{path} does not exist; the folder must hold it") from error
    except OSError as error:
        raise MmjaxError(f"{path} cannot be read ({error.strerror or error})") from error


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file that is held whole in memory.

    Raises:
      MmjaxError: it is no regular file, or has more than `most` bytes.
      OSError: it cannot be read.
    """
    file_stat = path.stat()
    if not stat.S_ISREG(file_stat.st_mode):  # a device or a pipe has no end
        raise MmjaxError(f"{path} is no regular file")
    if file_stat.st_size > most:
        raise MmjaxError(f"{path} has {file_stat.st_size} bytes; at most {most} are read")
    return path.read_bytes()


def parse_json(path: Path, data: bytes | str) -> Any:
    """Reads JSON whose nesting and numbers are bounded.

    Args:
      path: names the source in messages; what follows it there (a line, say) is the caller's.
      data: UTF-8 bytes or text.

    Raises:
      MmjaxError: it is no JSON, or has deeper nests or longer numbers than any data set needs.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise MmjaxError(f"{path} is nested too deep to be read as JSON") from error
    except ValueError as error:
        raise MmjaxError(f"{path} is not readable JSON ({error})") from error
