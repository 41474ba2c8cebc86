"""Blank and truncated pictures."""

from __future__ import annotations

import numpy as np
import pytest

from kinet_trt.core.errors import ImageError
from kinet_trt.quality.incomplete import check_has_picture, is_truncated
from kinet_trt.simulation import simulate

TISSUE = simulate.field(3, 160, 128)[0]


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (0, 135, 0)])
def test_check_has_picture_refuses_one_colour(colour):
    with pytest.raises(ImageError, match="there is no picture: every pixel is"):
        check_has_picture(np.full((40, 60, 3), colour, np.uint8))


def test_check_has_picture_accepts_glass():
    for colour in (255, (230, 215, 180)):
        check_has_picture(np.full((40, 60, 3), colour, np.uint8))
    check_has_picture(TISSUE)
    one = np.zeros((40, 60, 3), np.uint8)
    one[20, 30] = 3
    check_has_picture(one)


def test_check_has_picture_refuses_black_of_motion_jpeg():
    black = np.zeros((80, 60, 3), np.uint8)
    black[::2, :, 1] = 1
    with pytest.raises(ImageError, match=r"every pixel is black, RGB \[0, 1, 0\]"):
        check_has_picture(black)


@pytest.mark.parametrize("colour", [0, 128])
@pytest.mark.parametrize("rows", [8, 16, 100])
def test_is_truncated_if_rows_were_not_decoded(rows, colour):
    cut = TISSUE.copy()
    cut[-rows:] = colour
    assert is_truncated(cut)
    assert not is_truncated(TISSUE)


def test_is_truncated_is_false_for_intact_pictures():
    framed = TISSUE.copy()
    framed[:16] = framed[-16:] = 0
    white = TISSUE.copy()
    white[-40:] = 255
    thin = TISSUE.copy()
    thin[-4:] = 0
    assert not any(is_truncated(picture) for picture in (framed, white, thin))
