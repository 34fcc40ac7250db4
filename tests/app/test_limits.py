"""Visitors' words and files: what is refused, in one sentence that names no path of the host."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.app.limits import Limits, refusal, visitors_name, without_paths
from mmjax.errors import MmjaxError

LIMITS = Limits(file_bytes=100_000, pixels=10_000, pictures=3, letters=20)


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.png", b"", "empty.png is empty"),
        ("page.png", b"<script>alert(1)</script>", "page.png cannot be read: cannot identify"),
        ("cut.png", png(40, 40)[:60], "cut.png cannot be read"),
        ("bomb.png", bomb(60_000), "bomb.png has"),
        ("wide.png", png(101, 100), "wide.png has 100 x 101 pixels; at most 0.01 million"),
        ("large.png", b"x" * 100_001, "large.png has 0.1 MB; at most"),
        ("code.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "code.eps cannot be"),
        ("draw.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "draw.svg cannot be read"),
    ],
)
def test_hostile_pictures_are_refused_in_a_sentence(name, data, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(MmjaxError, match=said) as caught:
        LIMITS.open(path)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pixels_are_counted_before_any_is_decoded(tmp_path, monkeypatch):
    from mmjax.app import limits

    path = tmp_path / "wide.png"
    path.write_bytes(png(101, 100))
    monkeypatch.setattr(limits, "open_image", lambda _: pytest.fail("decoded"))
    with pytest.raises(MmjaxError, match="make it smaller"):
        LIMITS.open(path)


def test_good_pictures_come_through(tmp_path):
    path = tmp_path / "good.png"
    path.write_bytes(png(100, 100))
    assert LIMITS.open(path).size == (100, 100)
    assert LIMITS.read(path) == path.read_bytes()
    path.unlink()
    with pytest.raises(MmjaxError, match=r"good\.png is no longer here"):
        LIMITS.open(path)


def test_words_are_bounded():
    assert LIMITS.text("  红苹果\n", "query") == "红苹果"
    for value, said in (
        (None, "Type a query first"),
        (" \n", "Type a query first"),
        (["a"], "Type a query first"),
        ("a" * 21, "has 21 letters; at most 20"),
        ("a\x00b", "cannot be shown"),
    ):
        with pytest.raises(MmjaxError, match=said):
            LIMITS.text(value, "query")


def test_files_are_counted():
    assert LIMITS.files("a.png") == [Path("a.png")]
    assert LIMITS.files(["a.png", "b.png"]) == [Path("a.png"), Path("b.png")]
    for value, said in ((None, "Choose"), ([], "Choose"), (3, "Choose"), (["a"] * 4, "4 files")):
        with pytest.raises(MmjaxError, match=said):
            LIMITS.files(value)


def test_no_path_is_shown():
    private = ["/srv/my runs/a", "/home"]
    for said, shown in (
        ("/srv/my runs/a/adapter/card.json is damaged", "adapter/card.json is damaged"),
        ("card of /srv/my runs/a lacks it", "card of ... lacks it"),
        ("cannot read '/var/lib/x/y.bin'", "cannot read 'y.bin'"),
        ("1/2 of https://example.org/a/b and and/or", "1/2 of https://example.org/a/b and and/or"),
    ):
        assert without_paths(said, private) == shown


def test_names_and_sentences_are_safe_to_show():
    assert visitors_name(Path("dir/a\u202egnp.exe")) == "a?gnp.exe"
    long = visitors_name(Path("x" * 200 + ".png"))
    assert len(long) <= 60
    assert long.endswith(".png")
    assert refusal("<b> & co") == '<p class="refused told" role="alert">&lt;b&gt; &amp; co</p>'
    assert refusal("") == ""
