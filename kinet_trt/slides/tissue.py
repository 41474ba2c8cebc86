"""Where a slide bears tissue: a small picture of it, and what in that is darker than glass.

The test errs on the side of tissue. Counting a tile of glass costs time; leaving out a tile costs nuclei.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import is_grey
from kinet_trt.slides.slide import Slide

CELL_UM = 8.0
"""um that a cell of the small picture should cover: about a nucleus."""
LEAST_DENSITY = 0.05
"""Sum of the optical densities of R, G and B above which a cell bears stain; a lone pale nucleus has more."""
_BRIGHTEST = 0.98  # quantile taken for glass, per channel
_LEAST_WHITE = 160.0  # of 255: a slide that is all tissue has no glass to measure
_STRIP = 1 << 22  # px of a level that are read at once


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small picture of the whole slide.

    Attributes
    ----------
    pixels
        RGB, uint8 [rows, columns, 3].
    cell
        px of level 0 along one of its px.
    """

    pixels: NDArray[np.uint8]
    cell: float

    def tissue(self) -> NDArray[np.bool_]:
        """Return which cells bear tissue, or touch one that does, bool [rows, columns]."""
        return cv2.dilate(self.stained().astype(np.uint8), np.ones((3, 3), np.uint8)) > 0

    def stained(self) -> NDArray[np.bool_]:
        """Return which cells are darker than glass, bool [rows, columns]."""
        white = [max(_LEAST_WHITE, _quantile(self.pixels[..., c], _BRIGHTEST)) for c in range(3)]
        tables = [np.log10(w / np.maximum(np.arange(256), 1)).clip(0).astype(np.float32) for w in white]
        density = sum(table[self.pixels[..., c]] for c, table in enumerate(tables))
        return np.asarray(density >= LEAST_DENSITY, np.bool_)

    @property
    def is_grey(self) -> bool:
        """Whether it has no colour: there is then no stain to tell nuclei by."""
        return is_grey(self.pixels)


def thumbnail(slide: Slide, mpp: float) -> Thumbnail:
    """Return a small picture of a slide, of cells of about 8 um.

    The coarsest level that is fine enough is averaged over whole numbers of px, strip by strip.

    Parameters
    ----------
    slide
        The slide.
    mpp
        um/px of its level 0.

    Raises
    ------
    ImageError
        If it cannot be decoded.
    """
    fine = [n for n, level in enumerate(slide.levels) if level.downsample * mpp <= CELL_UM * 1.01]
    number = max(fine, key=lambda n: slide.levels[n].downsample) if fine else 0
    level = slide.levels[number]
    factor = max(1, round(CELL_UM / (level.downsample * mpp)))
    columns, rows = math.ceil(level.width / factor), math.ceil(level.height / factor)
    pixels = np.empty((rows, columns, 3), np.uint8)
    # Squares rather than whole lines: they touch fewer tiles of the file twice.
    side = max(1, math.isqrt(_STRIP) // factor)
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            height, width = min(side, rows - top), min(side, columns - left)
            part = slide.read(number, left * factor, top * factor, width * factor, height * factor)
            small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) if factor > 1 else part
            pixels[top : top + height, left : left + width] = small
    return Thumbnail(pixels, level.downsample * factor)


def _quantile(channel: NDArray[np.uint8], share: float) -> float:
    counts = np.bincount(channel.ravel(), minlength=256).cumsum()
    if not counts[-1]:
        raise ImageError("an empty slide: expected at least one pixel")
    return float(np.searchsorted(counts, share * counts[-1]))
