"""Pictures that are none, that are too much, and places that are no files.

Each is refused in one sentence with the picture's name, or read right, in little time and memory.
"""

import io
import os
import re
import socket
import stat
import struct
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from mmjax.encoders import load_encoder
from mmjax.encoders.image_preprocess import ImagePreprocess
from mmjax.encoders.llava_images import LlavaImages
from mmjax.encoders.pictures import open_image

CLIP = ImagePreprocess(224, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SHAPES = Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3))


@pytest.fixture
def refuses(refused: Callable[..., str]) -> Callable[[str, Callable[[], Any]], None]:
    """Returns `refuses(match, call)`: as `refused`, and the sentence is the right one."""

    def check(match: str, call: Callable[[], Any]) -> None:
        message = refused(call)
        assert re.search(match, message), message
        assert "BytesIO" not in message  # no names of Python's
        assert message.isprintable()

    return check


def encoded(form: str, image: Image.Image = SHAPES, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    whole = name + data
    return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))


def png(width: int, height: int, bits: int, kind: int, *chunks: bytes) -> bytes:
    """A PNG that says what it likes of its size."""
    size = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", size), *chunks, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(count: int) -> bytes:
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count % (1 << 20))), packer.flush()])


def bmp(width: int, height: int, compression: int = 0) -> bytes:
    palette = bytes(1024) if compression else b""
    body, bits = b"\x05\x00" * 64, 8 if compression else 24
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    sizes = (40, width, height, 1, bits, compression, len(body), 0, 0, 256 if compression else 0, 0)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + palette + body


def tiff(width: int, height: int, **tags: int) -> bytes:
    found = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 8}
    found |= {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    rows = b"".join(struct.pack("<HHII", t, 4, 1, value) for t, value in sorted(found.items()))
    ifd = struct.pack("<H", len(found)) + rows + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 16) + bytes(8) + ifd


def resized(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    at = next(i for i in range(len(data)) if data[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def many_scans() -> bytes:
    """A progressive JPEG whose last scan comes a thousand times."""
    data = encoded("JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * 1000 + data[-2:]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "an EPS": (lambda: EPS + b"showpage\n", "cannot identify it as one of PNG, JPEG"),
    "an EPS without end": (lambda: EPS + b"{ } loop\n", "cannot identify"),
    "an EPS of Pillow's": (lambda: encoded("EPS"), "cannot identify"),
    "a PDF": (lambda: encoded("PDF"), "cannot identify"),
    "an icon": (lambda: encoded("ICO"), "cannot identify"),
    "a TGA": (lambda: encoded("TGA"), "cannot identify"),
    "an SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>", "identify"),
    "a web page": (lambda: b"<html><body>404 Not Found</body></html>", "cannot identify"),
    "nothing": (lambda: b"", "is empty: 0 bytes"),
    "one byte": (lambda: b"\x89", "cannot identify"),
    "a PNG's first bytes": (lambda: b"\x89PNG\r\n\x1a\n", "cannot"),
    "a text of zeros": (lambda: bytes(1 << 20), "cannot identify"),
    "a PNG of 0 x 4": (lambda: png(0, 4, 8, 2), "cannot|no pixels"),
    "a PNG without pixels' chunk": (lambda: png(9, 9, 8, 2), "cannot be read"),
    "a PNG of garbage": (lambda: png(9, 9, 8, 2, chunk(b"IDAT", b"no zlib")), "cannot be read"),
    "a PNG that ends early": (lambda: png(9, 9, 8, 2, chunk(b"IDAT", zeros(20))), "cannot be"),
    "a PNG of 13,300 x 13,300": (
        lambda: png(13300, 13300, 8, 2, chunk(b"IDAT", zeros(1 << 20))),
        "13300 x 13300 pixels; at most 52 million of a PNG|too many pixels",
    ),
    "a PNG of 8,000 x 8,000": (lambda: png(8000, 8000, 8, 2), "8000 x 8000 pixels; at most 52"),
    "a PNG of 2^31 x 2^31": (lambda: png(2**31 - 1, 2**31 - 1, 8, 2), "too many pixels"),
    "a PNG of long texts": (
        lambda: png(9, 9, 8, 2, chunk(b"zTXt", b"a\0\0" + zeros(1 << 24))),
        "cannot be read",
    ),
    "a GIF of 0 x 5": (lambda: b"GIF89a" + struct.pack("<HH", 0, 5) + bytes(3), "cannot|no pix"),
    "a GIF without frames": (lambda: encoded("GIF")[:13] + b";", "cannot be read"),
    "a BMP of 60,000 x 60,000": (lambda: bmp(60000, 60000), "too many pixels"),
    "a BMP of 7,000 x 12,000": (lambda: bmp(7000, 12000), "7000 x 12000 pixels; at most 52"),
    "a BMP in runs of 7,000 x 7,000": (lambda: bmp(7000, 7000, 1), "rare kind of BMP"),
    "a PPM of 0 x 5": (lambda: b"P6 0 5 255\n", "cannot|no pixels"),
    "a PPM of 10^9 x 10^9": (lambda: b"P6 1000000000 1000000000 255\n", "cannot|too many"),
    "a PPM of 7,000 x 7,000 in words": (lambda: b"P3 7000 7000 255\n" + b"9 " * 99, "rare kind"),
    "a PGM of 7,000 x 7,000 and 12 bits": (
        lambda: b"P5 7000 7000 4095\n" + bytes(99),
        "rare|24 million",
    ),
    "a PPM of 10^5 digits": (lambda: b"P6 " + b"9" * 100_000, "cannot be read"),
    "a TIFF of 100,000 x 100,000": (lambda: tiff(100000, 100000), "too many pixels"),
    "a TIFF of one giant tile": (
        lambda: tiff(8, 8, tag322=32768, tag323=32768, tag324=8, tag325=8, tag259=8),
        "8 x 8 pixels; at most|cannot be read",
    ),
    "a TIFF of 65,535 channels": (lambda: tiff(8, 8, tag277=65535), "cannot"),
    "a JPEG of 65,500 x 65,500": (lambda: resized(encoded("JPEG"), 65500, 65500), "too many"),
    "a JPEG of 9,000 x 9,000 cut off": (
        lambda: resized(encoded("JPEG", progressive=True), 9000, 9000),
        "cannot be read|at most",
    ),
    "a JPEG of a thousand scans": (many_scans, "more than 100 scans"),
    "fractions beyond 1": (
        lambda: encoded("TIFF", Image.new("F", (4, 4), 7.5)),
        "holds fractions from 7.5 to 7.5, whose range is not known",
    ),
    "fractions that are none": (lambda: encoded("TIFF", Image.new("F", (4, 4), np.nan)), "nan"),
    "32-bit numbers": (lambda: encoded("TIFF", Image.new("I", (4, 4), 1 << 20)), "1048576"),
    "numbers below 0": (lambda: encoded("TIFF", Image.new("I", (4, 4), -3)), "numbers from -3"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused(refuses, name, tmp_path):
    make, match = REFUSED[name]
    data = make()
    (tmp_path / "a.png").write_bytes(data)
    refuses(rf"picture 3 \(.*a\.png\) .*({match})", lambda: open_image(tmp_path / "a.png", 3))
    refuses(rf"picture 3 .*({match})", lambda: open_image(data, 3))


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_that_was_cut_off_is_refused(refuses, form, share, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    data = encoded(form, noise)
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(data[: int(len(data) * share)])
    refuses(r"picture 0 \(.*\) cannot be read", lambda: open_image(path))


@pytest.mark.parametrize("name", ["a.png", "a.eps", "a.jpg", "a", "a.png.exe"])
def test_the_content_counts_and_not_the_name(name, tmp_path):
    (tmp_path / name).write_bytes(encoded("BMP"))
    assert_array_equal(np.asarray(open_image(tmp_path / name)), np.asarray(SHAPES))


@pytest.mark.parametrize("program", ["showpage", "{ } loop"])
def test_no_program_is_started(refuses, program, tmp_path, monkeypatch):
    """Pillow would hand an EPS to Ghostscript, which is a programming language."""
    trace = tmp_path / "trace"
    gs = tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {trace}\nexit 1\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked up anew
    (tmp_path / "a.png").write_bytes(EPS + program.encode() + b"\n")
    (tmp_path / "a.eps").write_bytes(EPS + program.encode() + b"\n")
    for name in ("a.png", "a.eps"):
        refuses(rf"{name}\) cannot be read: cannot identify", lambda n=name: CLIP([tmp_path / n]))
    assert not trace.exists()


def _fifo(place: Path) -> Path:
    os.mkfifo(place / "a.png")
    return place / "a.png"


def _folder(place: Path) -> Path:
    (place / "a.png").mkdir()
    return place / "a.png"


def _socket(place: Path) -> Path:
    end = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(place)  # a socket's name has a hundred letters
    end.bind("a.png")
    os.chdir(before)
    end.close()
    assert stat.S_ISSOCK((place / "a.png").stat().st_mode)
    return place / "a.png"


def _loop(place: Path) -> Path:
    (place / "a.png").symlink_to(place / "b.png")
    (place / "b.png").symlink_to(place / "a.png")
    return place / "a.png"


def _dangling(place: Path) -> Path:
    (place / "a.png").symlink_to(place / "b.png")
    return place / "a.png"


def _secret(place: Path) -> Path:
    (place / "a.png").write_bytes(b"")
    return place / "a.png" / "b.png"


PLACES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pipe that no one writes to": (_fifo, "is no file but a device"),
    "a socket": (_socket, "is no file but a device"),
    "a device": (lambda _: Path("/dev/null"), "is no file but a device"),
    "a device without end": (lambda _: "/dev/zero", "is no file but a device"),
    "a folder": (_folder, "is no file but a folder"),
    "links in a circle": (_loop, "cannot be read: "),
    "a link to nothing": (_dangling, "cannot be read: No such file"),
    "below a file": (_secret, "cannot be read: Not a directory"),
    "nothing": (
        lambda place: place / "lacking.png",
        r"lacking\.png\) cannot be read: No such file",
    ),
    "a name of 5,000 letters": (lambda place: place / ("a" * 5000), "cannot be read: "),
    "a name with NUL": (lambda place: f"{place}/a\0.png", "cannot be read: "),
    "a name with line breaks": (lambda place: f"{place}/a\n\x1b[2J.png", "cannot be read: No such"),
    "half a surrogate pair": (lambda place: f"{place}/\ud800.png", "cannot be read: "),
    "no name": (lambda _: "", "is no file|cannot be read"),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_file_is_refused(refuses, name, tmp_path):
    make, match = PLACES[name]
    place = make(tmp_path)
    refuses(rf"picture 5 .*({match})", lambda: open_image(place, 5))


VALUES = {
    "None": None,
    "a number": 7,
    "a list": [[1, 2], [3, 4]],
    "fractions": np.zeros((4, 4, 3), np.float32),
    "wide numbers": np.zeros((4, 4, 3), np.uint16),
    "five channels": np.zeros((4, 4, 5), np.uint8),
    "no rows": np.zeros((0, 4, 3), np.uint8),
    "objects": np.array([["a"]], object),
    "one axis": np.zeros(12, np.uint8),
    "closed": Image.new("RGB", (0, 4)),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_no_picture_at_all_is_refused(refuses, name):
    refuses("picture 0 ", lambda: _untyped(VALUES[name]))


def _untyped(value: Any) -> Any:
    """As a user's program calls: nothing checks its types."""
    return getattr(open_image, "__wrapped__", open_image)(value)


def test_a_file_that_was_opened_and_is_damaged_is_refused(refuses):
    opened = Image.open(io.BytesIO(encoded("PNG")[:-60]))
    refuses("picture 0 cannot be read", lambda: open_image(opened))


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 50_000)])
def test_a_thread_is_not_blown_up(refuses, size):
    picture = Image.new("L", size, 200)
    refuses(r"picture 2 would be resized to \d+ x \d+ pixels", lambda: CLIP([picture], 2))


def test_a_thread_padded_to_a_square_is_refused(refuses):
    model: Any = types.SimpleNamespace(preprocess=CLIP)
    picture = Image.new("L", (60_000, 1))
    refuses(
        "picture 4 would be padded to 60000 x 60000",
        lambda: LlavaImages._square(model, picture, "picture 4"),
    )


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (300, 2), (1, 1), (2, 2500)])
def test_unusual_shapes_that_can_be_resized_are(size):
    squashed = ImagePreprocess(32, 32, (0, 0, 0), (1, 1, 1), squash=size[0] * size[1] > 5000)
    found = squashed([Image.new("L", size, 51)])
    np.testing.assert_allclose(found, 0.2, atol=1e-6)


@pytest.mark.parametrize("size", [14 * 500, 10**9, -14, 0, 5])
def test_sizes_that_no_model_reads_are_refused(refuses, size, folder):
    path = folder("dinov2_tiny")
    refuses(f"image_size .*{size}", lambda: load_encoder(path, image_size=size))


def test_a_tiff_that_points_at_itself_is_one_picture():
    assert open_image(tiff(8, 8)[:-4] + struct.pack("<I", 16)).size == (8, 8)
