"""Detect pictures that a decoder or a camera filled incompletely: blank or truncated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError

_MAX_FILL = 160
"""Largest value of the colours with which decoders fill missing parts (black, grey, green); glass is brighter."""
_ROUNDING = 1
"""Rounding error of a decoder of JPEG or video."""
_MIN_ROWS = 8
"""Minimum number of missing rows: JPEG and video are coded in blocks of at least 8 px."""


def check_has_picture(pixels: NDArray[np.uint8]) -> None:
    """Raise an ImageError if RGB pixels, uint8 [height, width, 3], are all of one colour darker than glass.

    The rounding of a decoder does not matter.
    """
    if _is_flat(pixels[::64, ::64]) and _is_flat(pixels):
        colour = pixels[0, 0].tolist()
        name = "black" if max(colour) <= _ROUNDING else "of one colour"
        raise ImageError(f"there is no picture: every pixel is {name}, RGB {colour}")


def is_truncated(pixels: NDArray[np.uint8]) -> bool:
    """Return True if at least 8 rows at the bottom have one colour darker than glass, and the first row does not."""
    rows = _rows_of_one_colour(pixels)
    has_border = bool((pixels[0] == pixels[-1, -1]).all())
    return rows >= _MIN_ROWS and not has_border


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    brightest = pixels.max(axis=(0, 1))
    return bool(brightest.max() <= _MAX_FILL and (brightest - pixels.min(axis=(0, 1))).max() <= _ROUNDING)


def _rows_of_one_colour(pixels: NDArray[np.uint8]) -> int:
    """Return the number of bottom rows with the colour of the last pixel; 0 if it is bright."""
    last = pixels[-1, -1]
    if last.max() > _MAX_FILL or (pixels[-1] != last).any():
        return 0
    other = np.flatnonzero((pixels != last).any(axis=(1, 2)))
    return len(pixels) if len(other) == 0 else int(len(pixels) - 1 - other[-1])
