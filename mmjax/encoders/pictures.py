"""Pictures as RGB: which formats are read, how large they may be, and which pixels come out.

What the originals do, `Image.convert("RGB")`, is done here, with two exceptions. A picture stands
upright, as its camera noted. And 16-bit grey, which Pillow cuts at 255, is scaled.
"""

import contextlib
import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from mmjax.checks.foreign import shown_path
from mmjax.errors import MmjaxError, first_line

T = TypeVar("T")

# A path, encoded bytes (PNG, JPEG, ...), an open picture, or uint8 [h, w, 3 | 4] or [h, w].
ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"
# Pillow knows some forty more. One of them starts Ghostscript, and others open further files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
ROOM = 400 << 20  # bytes that one picture may take while it is decoded and made RGB
LARGEST_FILE = 1 << 29  # bytes
MOST_SCANS = 100  # of a progressive JPEG, each of which walks over all of its pixels; ten are usual
MOST_SLOW = 8_000_000  # pixels that Pillow decodes in Python, a microsecond or two each

_PIXEL = 8  # bytes: a decoded pixel takes four, its RGB twin or its upright one four more
_WIDE = {"I": 17, "F": 17}  # bytes of a pixel that becomes RGB by way of numpy
_WEBP = 17  # libwebp keeps four canvases
_SLOW = ("bmp_rle", "ppm", "ppm_plain")
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 274  # EXIF's and TIFF's number of this tag
_BITS, _PHOTOMETRIC, _TILE_SIDES = 258, 262, (322, 323)  # of TIFF
# EXIF's numbers of how a camera was held.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)


def open_image(image: ImageLike, index: int = 0) -> Image.Image:
    """Opens anything that is a picture as RGB, upright.

    Transparent pixels show the colour that lies under them, as with the original libraries'
    `convert("RGB")`; in most files that is black. 16-bit grey keeps its upper eight bits, as Pillow
    does it with 16-bit RGB: the format's whole range counts, so values of 12 bits are dark in a
    file that calls them 16. Whole numbers of 32 bits are taken for 16-bit grey, fractions for
    shares of white. Of animated files and those of several pages the first is read. JPEGs too large
    to be decoded whole are decoded at a half, a quarter or an eighth of their size.

    Args:
      image: a path, encoded bytes, an open picture, or a uint8 array [h, w, 3 | 4] or [h, w].
      index: its number, for error messages.

    Returns:
      An RGB picture.

    Raises:
      MmjaxError: names the picture that cannot be read, has no pixels, or has too many.
    """
    where = _where(image, index)
    with _reading(where):
        if isinstance(image, str | os.PathLike):
            return _read_path(Path(image), where, _read)
        if isinstance(image, bytes):
            if not image:
                raise MmjaxError(f"{where} is empty: 0 bytes")
            return _read(io.BytesIO(image), where)
        if isinstance(image, Image.Image):
            return _to_rgb(image, where)
        if isinstance(image, np.ndarray):
            return _to_rgb(_of_array(image, where), where)
    raise MmjaxError(
        f"{where} is a {type(image).__name__}; expected a path, encoded bytes, a PIL image "
        "or a uint8 array"
    )


def size_of(image: ImageLike, index: int = 0) -> tuple[int, int]:
    """(height, width) of what `open_image` gives; encoded pixels are not decoded for it.

    Raises:
      MmjaxError: names the picture that cannot be read.
    """
    where = _where(image, index)
    if isinstance(image, bytes) and image:
        with _reading(where):
            return _measure(io.BytesIO(image), where)
    if not isinstance(image, str | os.PathLike):
        opened = open_image(image, index)
        return opened.height, opened.width
    with _reading(where):
        return _read_path(Path(image), where, _measure)


def _where(image: object, index: int) -> str:
    path = f" ({shown_path(image)})" if isinstance(image, str | os.PathLike) else ""
    return f"picture {index}{path}"


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Says what Pillow says of a picture, and which one it is."""
    try:
        yield
    except MmjaxError:
        raise
    except UnidentifiedImageError as error:
        raise MmjaxError(
            f"{where} cannot be read: cannot identify it as one of {', '.join(FORMATS)}; convert "
            "it to PNG"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MmjaxError(f"{where} has too many pixels; make it smaller") from error
    except Exception as error:  # a damaged file leads to errors of every kind in Pillow
        message = getattr(error, "strerror", None) or first_line(error)
        raise MmjaxError(f"{where} cannot be read: {message}") from error


def check_room(width: int, height: int, where: str, becomes: str) -> None:
    """Refuses a picture that would grow out of all proportion on its way into a model.

    Args:
      width: of what it becomes, in pixels.
      height: the same.
      where: names the picture.
      becomes: what happens to it: "resized", say.

    Raises:
      MmjaxError: it is too long and thin, or is wanted too large.
    """
    if width * height * _PIXEL > ROOM:
        raise MmjaxError(
            f"{where} would be {becomes} to {width} x {height} pixels; cut out a part that is less "
            "long and thin, or ask for a smaller size"
        )


def _read_path(path: Path, where: str, read: Callable[[io.BufferedReader, str], T]) -> T:
    file_stat = os.stat(path)
    if not stat.S_ISREG(file_stat.st_mode):  # a pipe would wait for ever, a device has no end
        raise MmjaxError(f"{where} is no file but a {'folder' if path.is_dir() else 'device'}")
    if file_stat.st_size > LARGEST_FILE:
        raise MmjaxError(
            f"{where} has {file_stat.st_size} bytes; a picture's file may have {LARGEST_FILE}"
        )
    if not file_stat.st_size:
        raise MmjaxError(f"{where} is empty: 0 bytes")
    with path.open("rb") as file:
        return read(file, where)


def _measure(file: io.BytesIO | io.BufferedReader, where: str) -> tuple[int, int]:
    with Image.open(file, formats=FORMATS) as opened:
        _make_fit(opened, file, where)
        turned = _orientation(opened) in _ON_ITS_SIDE
        return (opened.width, opened.height) if turned else (opened.height, opened.width)


def _read(file: io.BytesIO | io.BufferedReader, where: str) -> Image.Image:
    with Image.open(file, formats=FORMATS) as opened:
        _make_fit(opened, file, where)
        opened.load()
        return _to_rgb(opened, where)


def _make_fit(opened: Image.Image, file: io.BytesIO | io.BufferedReader, where: str) -> None:
    """Refuses, before it is decoded, what would take too long or too much memory."""
    pixels = opened.width * opened.height
    whole, each = 0, _WIDE.get(opened.mode, _PIXEL)  # bytes of a pixel: of the file's, of ours
    if opened.format == "WEBP":
        each = _WEBP
    elif opened.format == "TIFF":  # a strip or tile is decoded at once, and may be the whole
        tags = getattr(opened, "tag_v2", {})
        tile = math.prod(tags.get(side, 1) for side in _TILE_SIDES)
        whole = sum(tags.get(_BITS, (8,))) // 8 * max(1, tile // max(1, pixels))
    elif "progressive" in opened.info:  # every coefficient is kept
        whole = 2 * len(opened.getbands())
        if _count(file, b"\xff\xda") > MOST_SCANS:
            raise MmjaxError(f"{where} is a JPEG of more than {MOST_SCANS} scans; save it anew")
    reducible = isinstance(opened, JpegImagePlugin.JpegImageFile)
    for times in (1, 2, 4, 8) if reducible else (1,):
        if pixels * whole + pixels * each // times**2 <= ROOM:
            if times > 1:
                opened.draft(None, (opened.width // times, opened.height // times))
            break
    else:
        raise MmjaxError(
            f"{where} has {opened.width} x {opened.height} pixels; at most "
            f"{ROOM // (whole + each) // 1_000_000} million of a {opened.format} like it are read: "
            "make it smaller"
        )
    slow = any(part[0] in _SLOW for part in getattr(opened, "tile", ()))
    if slow and pixels > MOST_SLOW:
        raise MmjaxError(
            f"{where} has {opened.width} x {opened.height} pixels in a rare kind of "
            f"{opened.format}, of which at most {MOST_SLOW} are read; convert it to PNG"
        )


def _count(file: io.BytesIO | io.BufferedReader, marker: bytes) -> int:
    """How often two bytes stand in a file; where it is read stays the same."""
    at, count, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        count += (last + block).count(marker)
        last = block[-1:]
    file.seek(at)
    return count


def _of_array(image: np.ndarray, where: str) -> Image.Image:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise MmjaxError(
            f"{where} is an array of {image.dtype} {list(image.shape)}; expected uint8 "
            "[height, width, 3]"
        )
    if image.size == 0:
        raise MmjaxError(f"{where} has no pixels: shape {list(image.shape)}")
    return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)


def _to_rgb(picture: Image.Image, where: str) -> Image.Image:
    if min(picture.size) < 1:
        raise MmjaxError(f"{where} has no pixels: {picture.width} x {picture.height}")
    picture.load()  # a file that the caller opened may be damaged too
    turn = _UPRIGHT.get(_orientation(picture))
    if picture.mode in (*_SIXTEEN, "I", "F"):
        picture = Image.fromarray(_eight_bits(picture, where))
    elif picture.mode in ("RGBa", "La"):  # colours that are multiplied by their opacity
        picture = picture.convert(picture.mode.upper())
    if picture.mode != "RGB":
        if "transparency" in picture.info:  # of which Pillow warns that it is left out
            picture = picture.copy()
            del picture.info["transparency"]
        picture = picture.convert("RGB")
    if turn is not None:
        picture = picture.transpose(turn)
        picture.info = {}  # which would still say how it was held, to whoever opens it again
    return picture


def _orientation(picture: Image.Image) -> int:
    """How the camera was held; what cannot be read says nothing."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises, or warns, whatever the damage leads to
        return 1


def _eight_bits(picture: Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """Grey of more than eight bits, scaled by the whole range of its format."""
    tags, values = getattr(picture, "tag_v2", {}), np.asarray(picture)
    least, most = values.min(), values.max()
    if picture.mode == "F":
        if not (least >= 0 and most <= 1):  # so written, NaN is refused too
            raise MmjaxError(
                f"{where} holds fractions from {least:g} to {most:g}, whose range is not known; "
                "scale them to 0 .. 1, or save it with 8 or 16 bits"
            )
        grey = np.round(values * 255).astype(np.uint8)
    elif least < 0 or most >= 1 << 16:
        raise MmjaxError(
            f"{where} holds numbers from {least} to {most}, whose range is not known; save it with "
            "8 or 16 bits"
        )
    else:
        bits = min(16, *tags.get(_BITS, (16,))) if picture.mode in _SIXTEEN else 16
        grey = (values >> (bits - 8)).astype(np.uint8)
    # Pillow turns TIFFs in which 0 is white if they have eight bits, but no wider ones.
    return ~grey if tags.get(_PHOTOMETRIC) == 0 else grey
