"""Pictures as the page shows them: small, encoded anew, inside the page itself."""

import base64
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmjax.app.limits import Limits
from mmjax.encoders.pictures import open_image
from mmjax.errors import MmjaxError

THUMBNAIL = 224  # pixels
SAMPLES = 12  # pictures that a page offers
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")


def encoded(image: Image.Image, side: int, quality: int = 85) -> bytes:
    """A picture as JPEG, made no larger than some pixels on its longer side.

    Args:
      image: RGB; it stays as it is.
      side: pixels.
      quality: of the JPEG.

    Returns:
      The file.
    """
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A picture as the address of itself: the page asks nobody for it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def files_in(folder: Path, most: int) -> list[Path]:
    """The picture files of a folder, at any depth, sorted.

    Args:
      folder: that is searched.
      most: files.

    Returns:
      Their paths.

    Raises:
      MmjaxError: no such folder, no picture in it, or more than `most`.
    """
    if not folder.is_dir():
        raise MmjaxError(f"{folder} is no folder; --images takes one with pictures")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise MmjaxError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    if len(paths) > most:
        raise MmjaxError(
            f"{folder} holds {len(paths)} pictures; raise --most-images {most}, or give a part"
        )
    return paths


@dataclass(frozen=True)
class SamplePictures:
    """Pictures that a visitor may ask about instead of an own one.

    Attributes:
      files: what each file holds.
      thumbnails: the same as JPEGs.
    """

    files: tuple[bytes, ...] = ()
    thumbnails: tuple[bytes, ...] = ()


def samples_in(folder: Path, most: int, limits: Limits) -> SamplePictures:
    """The first pictures of a folder that a visitor may send.

    Args:
      folder: that is searched at any depth.
      most: files in it.
      limits: of what a visitor may send.

    Returns:
      At most `SAMPLES` pictures.

    Raises:
      MmjaxError: no folder, no picture, or more files than `most`.
    """
    samples: list[tuple[bytes, bytes]] = []
    for path in files_in(folder, most):
        if len(samples) == SAMPLES:
            break
        try:
            samples.append((path.read_bytes(), encoded(limits.open(path), THUMBNAIL)))
        except MmjaxError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
    return SamplePictures(tuple(data for data, _ in samples), tuple(small for _, small in samples))


def readable(paths: list[Path]) -> Iterator[tuple[Path, bytes]]:
    """Those that are pictures, with thumbnails; of others whoever runs the page is told.

    Args:
      paths: of files.

    Yields:
      (path, thumbnail).
    """
    for path in paths:
        try:
            yield path, encoded(open_image(path), THUMBNAIL)
        except MmjaxError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
