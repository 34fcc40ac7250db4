"""The named views: fixed, of the picture's own size, white where it left the frame."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from mmjax.data.transforms import VIEWS, view
from mmjax.errors import MmjaxError


@pytest.fixture
def picture():
    """Red on the left half, blue on the right, no white."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15, 0] = 255
    pixels[:, 15:, 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_fixed_and_keeps_size_and_mode(name, picture):
    before = np.asarray(picture).copy()
    first, second = view(name, picture), view(name, picture)
    assert first.size == picture.size
    assert first.mode == "RGB"
    assert_array_equal(np.asarray(first), np.asarray(second))
    assert_array_equal(np.asarray(picture), before)


def test_plain_and_mirror(picture):
    assert_array_equal(np.asarray(view("plain", picture)), np.asarray(picture))
    assert_array_equal(np.asarray(view("mirror", picture)), np.asarray(ImageOps.mirror(picture)))


@pytest.mark.parametrize("name", ["tilt", "mirror_tilt", "small"])
def test_what_is_turned_and_shrunk_has_white_around_it(name, picture):
    pixels = np.asarray(view(name, picture)).astype(int)
    assert (pixels[0, 0] > 250).all()
    assert (pixels[-1, -1] > 250).all()
    left, right = pixels[10, 9], pixels[10, 21]
    mirrored = name.startswith("mirror")
    assert (left[0] > left[2]) != mirrored
    assert (right[2] > right[0]) != mirrored


def test_grey_has_three_equal_channels(picture):
    pixels = np.asarray(view("grey", picture))
    assert (np.ptp(pixels, axis=2) == 0).all()


def test_views_differ(picture):
    seen = {view(name, picture).tobytes() for name in VIEWS}
    assert len(seen) == len(VIEWS)


def test_an_unknown_view_says_the_choices(picture):
    with pytest.raises(MmjaxError, match=r"names 'blur'; expected one of \['grey', 'mirror'"):
        view("blur", picture)
