"""Which pixels a picture's file becomes, against Pillow's own conversions and plain arithmetic."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from mmjax.encoders import pictures
from mmjax.encoders.pictures import FORMATS, open_image
from mmjax.errors import MmjaxError

RNG = np.random.default_rng(0)
COLOURS = Image.fromarray(RNG.integers(0, 256, (24, 40, 4), np.uint8))  # RGBA
WIDE = RNG.integers(0, 1 << 16, (24, 40)).astype(np.uint16)
WIDE[0, :3] = 0, 1 << 15, (1 << 16) - 1


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(image) -> np.ndarray:
    return np.asarray(open_image(image))


def paletted(transparency) -> Image.Image:
    image = COLOURS.convert("RGB").quantize(16)
    image.info["transparency"] = transparency
    return image


LOSSLESS = {
    "grey": (COLOURS.convert("L"), "PNG", {}),
    "one bit": (COLOURS.convert("1"), "PNG", {}),
    "one bit TIFF": (COLOURS.convert("1"), "TIFF", {"compression": "group4"}),
    "palette": (COLOURS.convert("RGB").quantize(16), "PNG", {}),
    "palette with one transparent colour": (paletted(3), "PNG", {}),
    "palette with opacities": (paletted(bytes(range(0, 160, 10))), "PNG", {}),
    "grey with opacity": (COLOURS.convert("LA"), "PNG", {}),
    "colours with opacity": (COLOURS, "PNG", {}),
    "colours with one transparent colour": (
        COLOURS.convert("RGB"), "PNG", {"transparency": COLOURS.convert("RGB").getpixel((0, 0))}
    ),
    "CMYK TIFF": (COLOURS.convert("RGB").convert("CMYK"), "TIFF", {}),
    "CMYK JPEG": (COLOURS.convert("RGB").convert("CMYK"), "JPEG", {}),
    "JPEG": (COLOURS.convert("RGB"), "JPEG", {}),
    "progressive JPEG": (COLOURS.convert("RGB"), "JPEG", {"progressive": True}),
    "YCbCr TIFF": (COLOURS.convert("YCbCr"), "TIFF", {}),
    "deflated TIFF": (COLOURS, "TIFF", {"compression": "tiff_adobe_deflate"}),
    "GIF": (COLOURS.convert("RGB").quantize(16), "GIF", {"transparency": 2}),
    "WEBP": (COLOURS, "WEBP", {"lossless": True, "exact": True}),
    "BMP": (COLOURS.convert("RGB"), "BMP", {}),
    "PPM": (COLOURS.convert("RGB"), "PPM", {}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow's, of the oracle
@pytest.mark.parametrize("name", LOSSLESS)
def test_files_become_what_the_originals_convert_them_to(name):
    image, form, options = LOSSLESS[name]
    data = encoded(image, form, **options)
    assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


def test_what_lies_under_transparency_is_shown():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 1), (255, 0, 0, 255))
    image.putpixel((2, 2), (0, 9, 255, 0))
    found = open_image(encoded(image, "PNG"))
    assert [found.getpixel((i, i)) for i in range(3)] == [(0, 0, 0), (255, 0, 0), (0, 9, 255)]


def tiff(values: np.ndarray, photometric: int = 1, bits: int = 16, **tags: int) -> bytes:
    """A grey TIFF in one raw strip, written by hand: Pillow writes none where 0 is white."""
    data = values.tobytes()
    found = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: photometric}
    found |= {273: 8 + 2 + 12 * 11 + 4, 277: 1, 278: values.shape[0], 279: len(data), 339: 1}
    found |= {274: tags.get("orientation", 1)}
    rows = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(found.items())]
    return (
        struct.pack("<2sHI", b"II", 42, 8)
        + struct.pack("<H", 11)
        + b"".join(rows)
        + (struct.pack("<I", 0) + data)
    )


def grey(image: Image.Image | np.ndarray | bytes) -> np.ndarray:
    """Red, which is as green and blue."""
    found = pixels(image)
    assert (found == found[..., :1]).all()
    return found[..., 0]


def wide_png() -> bytes:
    return encoded(Image.fromarray(WIDE), "PNG")


def upper_half_as_colour() -> bytes:
    """The same numbers as 16-bit RGB, which Pillow scales itself."""
    lines = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in WIDE)

    def chunk(name: bytes, data: bytes) -> bytes:
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    size = struct.pack(">IIBBBBB", 40, 24, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    "image",
    [
        wide_png(),
        upper_half_as_colour(),
        encoded(Image.fromarray(WIDE), "TIFF"),
        encoded(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(WIDE), "TIFF", big_endian=True),
        b"P5 40 24 65535\n" + WIDE.astype(">u2").tobytes(),
        Image.fromarray(WIDE),
        Image.fromarray(WIDE.astype(np.int32)),
        tiff(WIDE),
    ],
    ids=["png", "png rgb", "tiff", "lzw", "big endian", "pgm", "I;16", "I", "by hand"],
)  # fmt: skip
def test_16_bit_grey_is_scaled_by_its_whole_range(image):
    """An X-ray: cut at 255 instead, everything in it would be white."""
    assert_array_equal(grey(image), WIDE // 256)
    assert grey(image)[0, :3].tolist() == [0, 128, 255]


def test_16_bit_grey_in_which_0_is_white_is_turned():
    assert_array_equal(grey(tiff(WIDE, photometric=0)), 255 - WIDE // 256)
    eight = (WIDE // 256).astype(np.uint8)
    assert_array_equal(grey(tiff(eight, photometric=0, bits=8)), 255 - eight)  # Pillow's own doing


def test_12_bit_tiffs_have_their_own_range():
    twelve = WIDE >> 4
    pairs = twelve.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    data = tiff(np.ascontiguousarray(packed).reshape(24, 60), bits=12)
    data = data.replace(struct.pack("<HHII", 256, 4, 1, 60), struct.pack("<HHII", 256, 4, 1, 40))
    assert_array_equal(grey(data), twelve >> 4)


def test_fractions_are_shares_of_white():
    shares = np.linspace(0, 1, 24 * 40, dtype=np.float32).reshape(24, 40)
    wanted = np.round(shares * 255).astype(np.uint8)
    assert_array_equal(grey(Image.fromarray(shares)), wanted)
    assert_array_equal(grey(encoded(Image.fromarray(shares), "TIFF")), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation):
    """As transformers' load_image turns them, whatever the kind of file, opened or not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(COLOURS.convert("RGB"), form, exif=exif, **options)
        with Image.open(io.BytesIO(data)) as file:
            wanted = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
        assert wanted.shape[:2] == ((24, 40) if orientation < 5 else (40, 24))
        assert_array_equal(pixels(data), wanted, err_msg=form)
        with Image.open(io.BytesIO(data)) as file:
            assert_array_equal(pixels(file), wanted, err_msg=f"opened {form}")
        # What reads a corpus opens it, and what prepares it for an encoder does so again.
        assert_array_equal(pixels(open_image(data)), wanted, err_msg=f"opened twice {form}")
    turned = tiff(WIDE, orientation=orientation)
    assert grey(turned).shape == ((24, 40) if orientation < 5 else (40, 24))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's; it is no reason to refuse
def test_a_damaged_note_of_the_camera_says_nothing():
    data = encoded(COLOURS.convert("RGB"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert_array_equal(pixels(data), pixels(encoded(COLOURS.convert("RGB"), "JPEG")))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_animated_files_the_first_frame_is_read(form):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert_array_equal(pixels(data), np.asarray(frames[0]))


def test_multiplied_colours_are_divided_by_their_opacity():
    half = Image.new("RGBA", (3, 3), (200, 100, 50, 128))
    found = np.asarray(open_image(half.convert("RGBa")))
    assert np.abs(found.astype(int) - (200, 100, 50)).max() <= 1


def test_an_opened_picture_stays_as_it_was():
    image = paletted(b"\0\1\2")
    open_image(image)
    assert image.mode == "P"
    assert image.info["transparency"] == b"\0\1\2"


def test_too_large_jpegs_are_decoded_smaller(monkeypatch):
    image = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    data = encoded(image, "JPEG", quality=95)
    monkeypatch.setattr(pictures, "ROOM", 640 * 480 * 8 // 4)
    found = open_image(data)
    assert found.size == (320, 240)
    wanted = np.asarray(image.resize((320, 240), Image.Resampling.BOX), int)
    assert np.abs(np.asarray(found) - wanted).max() <= 3
    with pytest.raises(MmjaxError, match=r"640 x 480 pixels; at most .* of a PNG"):
        open_image(encoded(image, "PNG"))


def test_the_formats_start_no_program():
    assert set(FORMATS) == {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"}
