"""Pictures to arrays, against transformers' own processor, and pictures that are none."""

import io
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mmjax.encoders.image_preprocess import (
    ImagePreprocess,
    load_image_preprocess,
    open_image,
)
from mmjax.errors import MmjaxError

PREPROCESS = ImagePreprocess(20, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_equals_transformers(golden, tmp_path):
    arrays = golden("image_preprocess")
    (tmp_path / "preprocessor_config.json").write_text(str(arrays["config"]))
    preprocess = load_image_preprocess(tmp_path, None)
    for i in range(4):
        pixels = preprocess([arrays[f"image_{i}"]])
        assert pixels.dtype == np.float32
        assert_allclose(pixels[0], arrays[f"pixels_{i}"], atol=1e-6)


def test_image_size_replaces_both_sizes(golden, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(str(golden("image_preprocess")["config"]))
    preprocess = load_image_preprocess(tmp_path, 112)
    assert (preprocess.shortest_edge, preprocess.crop) == (112, 112)
    assert preprocess.fingerprint != load_image_preprocess(tmp_path, 126).fingerprint


def test_every_kind_of_input_gives_the_same_pixels(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    inputs = [array, image, png(image), tmp_path / "a.png", str(tmp_path / "a.png")]
    pixels = PREPROCESS(inputs)
    assert pixels.shape == (5, 16, 16, 3)
    for other in pixels[1:]:
        assert_array_equal(other, pixels[0])


def test_gray_and_wide_gray_pictures():
    assert open_image(np.full((3, 5), 7, np.uint8)).getpixel((4, 2)) == (7, 7, 7)
    assert open_image(np.full((3, 5, 1), 7, np.uint8)).getpixel((4, 2)) == (7, 7, 7)


def test_the_camera_orientation_of_files_is_followed():
    image = Image.new("RGB", (10, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert open_image(buffer.getvalue()).size == (4, 10)


GOOD = png(Image.new("RGB", (9, 9)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"", "picture 7 is empty: 0 bytes"),
        (b"no picture", "picture 7 cannot be read: cannot identify"),
        (GOOD[:40], "picture 7 cannot be read"),
        ("lacking.png", r"picture 7 \(lacking.png\) cannot be read: .*No such file"),
        (np.zeros((0, 4, 3), np.uint8), "picture 7 has no pixels"),
        (np.zeros((4, 4, 3), np.float32), "picture 7 is an array of float32"),
        (np.zeros((4, 4, 2), np.uint8), "picture 7 is an array of uint8"),
        (np.zeros((4, 4, 0), np.uint8), "picture 7 is an array of uint8"),
        (Image.new("RGB", (0, 4)), "picture 7 has no pixels: 0 x 4"),
    ],
)
def test_what_cannot_be_read_is_named(bad, message):
    with pytest.raises(MmjaxError, match=message):
        PREPROCESS([GOOD, bad], first_index=6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": False}, "do_center_crop is false"),
        ({"size": {"height": 3, "width": 4}}, "shortest_edge"),
        ({"crop_size": {"height": 3, "width": 4}}, "square crop_size"),
        ({"image_mean": None}, "image_mean"),
    ],
)
def test_configs_that_are_not_supported(change, message, golden, tmp_path):
    config = json.loads(str(golden("image_preprocess")["config"])) | change
    config = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(MmjaxError, match=message):
        load_image_preprocess(tmp_path, None)


def test_no_config(tmp_path):
    with pytest.raises(MmjaxError, match=r"preprocessor_config\.json does not exist"):
        load_image_preprocess(tmp_path, None)
