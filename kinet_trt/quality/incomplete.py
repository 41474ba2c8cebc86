"""Pictures that a decoder or a camera did not fill: all of one colour, or cut off below."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError

_BRIGHTEST = 160
"""Largest value of a colour that decoders leave where nothing was decoded (black, middle grey, green);
glass is brighter."""
_ROUNDING = 1
"""Difference between the pixels of one colour that a decoder of JPEG or video leaves."""
_LEAST_ROWS = 8
"""Rows of one colour from which on a picture is cut: JPEG and video are coded in blocks of 8 px and more."""


def check_not_blank(pixels: NDArray[np.uint8]) -> None:
    """Raise if there is no picture.

    Parameters
    ----------
    pixels
        RGB uint8 [height, width, 3].

    Raises
    ------
    ImageError
        If all pixels are of one colour, to a rounding of the decoder, and darker than glass.
    """
    if _is_flat(pixels[::64, ::64]) and _is_flat(pixels):
        colour = pixels[0, 0].tolist()
        name = "black" if max(colour) <= _ROUNDING else "of one colour"
        raise ImageError(f"there is no picture: every pixel is {name}, RGB {colour}")


def is_truncated(pixels: NDArray[np.uint8]) -> bool:
    """Return whether the lower part of a picture is missing: at least 8 rows of one colour, darker than glass.

    Where the first row has this colour too, it is a frame around the picture.
    """
    rows = _rows_of_one_colour(pixels)
    framed = bool((pixels[0] == pixels[-1, -1]).all())
    return rows >= _LEAST_ROWS and not framed


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    brightest = pixels.max(axis=(0, 1))
    return bool(brightest.max() <= _BRIGHTEST and (brightest - pixels.min(axis=(0, 1))).max() <= _ROUNDING)


def _rows_of_one_colour(pixels: NDArray[np.uint8]) -> int:
    """Return how many rows from the bottom up have the colour of the last pixel everywhere; 0 if it is bright."""
    last = pixels[-1, -1]
    if last.max() > _BRIGHTEST or (pixels[-1] != last).any():
        return 0
    other = np.flatnonzero((pixels != last).any(axis=(1, 2)))
    return len(pixels) if len(other) == 0 else int(len(pixels) - 1 - other[-1])
