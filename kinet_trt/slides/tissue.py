"""Tissue of a slide: the pixels of a thumbnail that are darker than glass.

The test prefers false positives: counting a tile of glass costs time, but skipping a tile of tissue loses nuclei.
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

THUMBNAIL_MPP = 8.0
"""Approximate um/px of a thumbnail: a pixel has the size of a nucleus."""
MIN_DENSITY = 0.05
"""Sum of the optical densities of R, G and B above which a thumbnail pixel is stained; pale nuclei exceed it."""
_GLASS_QUANTILE = 0.98  # per channel
_MIN_WHITE = 160.0  # lower limit of the white point (0 to 255), for slides without glass
_BLOCK_PIXELS = 1 << 22  # number of pixels of a level that are read at once


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small image of the whole slide, RGB uint8 [rows, columns, 3], and px of level 0 per thumbnail pixel."""

    pixels: NDArray[np.uint8]
    downsample: float

    def tissue(self) -> NDArray[np.bool_]:
        """Return the mask of pixels that are stained or adjacent to a stained pixel, bool [rows, columns]."""
        return cv2.dilate(self.stained().astype(np.uint8), np.ones((3, 3), np.uint8)) > 0

    def stained(self) -> NDArray[np.bool_]:
        """Return the mask of pixels that are darker than glass, bool [rows, columns]."""
        white = [max(_MIN_WHITE, _quantile(self.pixels[..., c], _GLASS_QUANTILE)) for c in range(3)]
        tables = [np.log10(w / np.maximum(np.arange(256), 1)).clip(0).astype(np.float32) for w in white]
        density = sum(table[self.pixels[..., c]] for c, table in enumerate(tables))
        return np.asarray(density >= MIN_DENSITY, np.bool_)

    @property
    def is_grey(self) -> bool:
        """Whether the slide has no colour, so that nuclei cannot be classified."""
        return is_grey(self.pixels)


def read_thumbnail(slide: Slide, mpp: float) -> Thumbnail:
    """Return a thumbnail of a slide at about 8 um/px.

    Each of its pixels is the mean of a block of whole pixels of one level. ``mpp`` is the um/px of level 0.
    """
    fine = [n for n, level in enumerate(slide.levels) if level.downsample * mpp <= THUMBNAIL_MPP * 1.01]
    number = max(fine, key=lambda n: slide.levels[n].downsample) if fine else 0
    level = slide.levels[number]
    factor = max(1, round(THUMBNAIL_MPP / (level.downsample * mpp)))
    columns, rows = math.ceil(level.width / factor), math.ceil(level.height / factor)
    pixels = np.empty((rows, columns, 3), np.uint8)
    # With square blocks, fewer tiles of the file are read twice than with whole rows.
    side = max(1, math.isqrt(_BLOCK_PIXELS) // factor)
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            height, width = min(side, rows - top), min(side, columns - left)
            block = slide.read(number, left * factor, top * factor, width * factor, height * factor)
            shrunk = cv2.resize(block, (width, height), interpolation=cv2.INTER_AREA) if factor > 1 else block
            pixels[top : top + height, left : left + width] = shrunk
    return Thumbnail(pixels, level.downsample * factor)


def _quantile(channel: NDArray[np.uint8], fraction: float) -> float:
    counts = np.bincount(channel.ravel(), minlength=256).cumsum()
    if not counts[-1]:
        raise ImageError("expected at least one pixel, found an empty slide")
    return float(np.searchsorted(counts, fraction * counts[-1]))
