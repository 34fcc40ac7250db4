"""Examples on a page: a picture beside what was said of it, and why it was judged so."""

import io
from dataclasses import dataclass

from PIL import Image

LONGEST = 800  # letters of a text on the page


@dataclass(frozen=True)
class Sample:
    """One example.

    Attributes:
      title: what it is about, a question say.
      badge: the verdict, in a word or two; "" shows none.
      good: whether the verdict is a good one.
      lines: (name, text), in order.
      png: its picture; None where there is none.
      missing: why there is no picture.
    """

    title: str
    badge: str = ""
    good: bool = False
    lines: tuple[tuple[str, str], ...] = ()
    png: bytes | None = None
    missing: str = ""


@dataclass(frozen=True)
class Samples:
    """Examples of one kind under a heading."""

    title: str
    rows: tuple[Sample, ...]
    caption: str = ""


def shorten(text: str, longest: int = LONGEST) -> str:
    """A text of bounded length that can be written as UTF-8, whatever it holds."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= longest else text[:longest].rstrip() + " …"


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A picture as PNG, made no larger than a number of pixels on its longer side."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
