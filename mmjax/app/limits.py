"""What a visitor may send, and how a refusal is said: one sentence, without a path of the host."""

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from mmjax.encoders.pictures import open_image, size_of
from mmjax.errors import MmjaxError

LONGEST_NAME = 60  # letters of a file's name that a sentence shows
BROKEN = "Something went wrong here; whoever runs this page finds the reason in its terminal."
_NUMBERED = re.compile(r"^picture \d+ ?")
_PATH = re.compile(r"(?<![\w./:])/(?:[^\s/'\"():,;]+/)+(?=[^\s/'\"():,;])")


@dataclass(frozen=True)
class Limits:
    """What one visitor may send.

    Attributes:
      file_bytes: of an uploaded file.
      pixels: of a picture.
      pictures: uploaded at once, and of one visitor's gallery or class.
      classes: that a visitor may teach.
      letters: of a query, a question or a name.
      turns: of a talk; afterwards it begins anew.
      waiting: visitors in the queue; more are asked to come back.
      kept_bytes: that all uploads together may take on the disk.
    """

    file_bytes: int = 8 << 20
    pixels: int = 25_000_000
    pictures: int = 16
    classes: int = 12
    letters: int = 500
    turns: int = 20
    waiting: int = 100
    kept_bytes: int = 1 << 30

    @property
    def sentence(self) -> str:
        """The limits on uploads, as the page says them."""
        return (
            f"Up to {self.pictures} pictures at once (PNG, JPEG, WebP, GIF, BMP, TIFF), each of at "
            f"most {self.file_bytes / (1 << 20):.3g} MB and {self.pixels / 1e6:.3g} megapixels."
        )

    def text(self, value: object, what: str) -> str:
        """A visitor's words, stripped.

        Args:
          value: what came.
          what: names it: "query".

        Returns:
          The words.

        Raises:
          MmjaxError: there are none, too many, or what is no text.
        """
        if not isinstance(value, str) or not value.strip():
            raise MmjaxError(f"Type a {what} first.")
        words = value.strip()
        if len(words) > self.letters:
            raise MmjaxError(
                f"The {what} has {len(words)} letters; at most {self.letters} are read."
            )
        if not words.isprintable() and any(not c.isprintable() for c in words if c not in "\n\t"):
            raise MmjaxError(f"The {what} holds characters that cannot be shown; type it anew.")
        return words

    def files(self, values: object) -> list[Path]:
        """The files of one upload.

        Args:
          values: what came: a path, several, or None.

        Returns:
          Their paths on the host.

        Raises:
          MmjaxError: there are none, or too many.
        """
        uploads = [values] if isinstance(values, str) else values
        if not isinstance(uploads, Sequence) or not uploads:
            raise MmjaxError("Choose a picture first.")
        if len(uploads) > self.pictures:
            raise MmjaxError(
                f"{len(uploads)} files are too many; at most {self.pictures} are read at once."
            )
        return [Path(str(path)) for path in uploads]

    def read(self, path: Path) -> bytes:
        """An uploaded picture's bytes, which are known to be one.

        Args:
          path: of the upload.

        Returns:
          What the file holds.

        Raises:
          MmjaxError: it is too large, has too many pixels, or is no picture; names it as the
            visitor does.
        """
        self.open(path)
        return path.read_bytes()

    def open(self, path: Path) -> Image:
        """The same, as an RGB picture."""
        name = visitors_name(path)
        try:
            size = path.stat().st_size
            if size > self.file_bytes:
                raise MmjaxError(
                    f"{name} has {size / (1 << 20):.1f} MB; at most "
                    f"{self.file_bytes / (1 << 20):.3g} MB are read."
                )
            data = path.read_bytes()
        except OSError as error:
            raise MmjaxError(f"{name} is no longer here; choose it again.") from error
        try:
            height, width = size_of(data)
            if height * width > self.pixels:
                raise MmjaxError(
                    f"{name} has {width} x {height} pixels; at most {self.pixels / 1e6:g} million "
                    "are read: make it smaller."
                )
            return open_image(data)
        except MmjaxError as error:
            raise MmjaxError(_NUMBERED.sub(lambda _: f"{name} ", str(error))) from None


def visitors_name(path: Path) -> str:
    """A file's name as its visitor knows it, short enough for a sentence."""
    name = "".join(c if c.isprintable() else "?" for c in path.name)
    return name if len(name) <= LONGEST_NAME else f"{name[:40]}...{name[-12:]}"


def without_paths(text: str, private: Sequence[str | os.PathLike[str]] = ()) -> str:
    """A sentence whose paths are cut to the last name in them.

    Args:
      text: as mmjax says it.
      private: folders that nobody shall read of, whatever letters are in them.

    Returns:
      The sentence for a visitor.
    """
    for folder in sorted((str(place) for place in private), key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(folder.rstrip("/") + "/", "").replace(folder, "...")
    return _PATH.sub("", text)


def refusal(sentence: str) -> str:
    """A sentence as the page's own alert, in HTML; "" clears it."""
    return f'<p class="refused told" role="alert">{html.escape(sentence)}</p>' if sentence else ""
