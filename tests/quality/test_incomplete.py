"""Pictures that are not there, or cut off below."""

from __future__ import annotations

import numpy as np
import pytest

from kinet_trt.core.errors import ImageError
from kinet_trt.quality.incomplete import check_not_blank, is_truncated
from kinet_trt.simulation import simulate

TISSUE = simulate.field(3, 160, 128)[0]


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (0, 135, 0)])
def test_a_picture_of_one_colour_is_none(colour):
    with pytest.raises(ImageError, match="there is no picture: every pixel is"):
        check_not_blank(np.full((40, 60, 3), colour, np.uint8))


def test_glass_is_a_picture():
    for colour in (255, (230, 215, 180)):
        check_not_blank(np.full((40, 60, 3), colour, np.uint8))
    check_not_blank(TISSUE)
    one = np.zeros((40, 60, 3), np.uint8)
    one[20, 30] = 3
    check_not_blank(one)


def test_black_as_motion_jpeg_decodes_it_is_no_picture():
    black = np.zeros((80, 60, 3), np.uint8)
    black[::2, :, 1] = 1
    with pytest.raises(ImageError, match=r"every pixel is black, RGB \[0, 1, 0\]"):
        check_not_blank(black)


@pytest.mark.parametrize("colour", [0, 128])
@pytest.mark.parametrize("rows", [8, 16, 100])
def test_rows_that_were_not_decoded(rows, colour):
    cut = TISSUE.copy()
    cut[-rows:] = colour
    assert is_truncated(cut)
    assert not is_truncated(TISSUE)


def test_what_is_no_damage():
    framed = TISSUE.copy()
    framed[:16] = framed[-16:] = 0
    white = TISSUE.copy()
    white[-40:] = 255
    thin = TISSUE.copy()
    thin[-4:] = 0
    assert not any(is_truncated(picture) for picture in (framed, white, thin))
