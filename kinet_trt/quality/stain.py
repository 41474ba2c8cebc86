"""Colour of stain in optical density (Beer-Lambert)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STAINED = 0.15  # sum of optical densities above which a px is stained
_WHITE_PERCENT = 97


@dataclass(frozen=True, eq=False)
class Chroma:
    """Chroma of the stained pixels, float32 [m] each.

    ``blue`` and ``magenta`` are optical densities: on the axis from brown (below 0) to blue, and from green (below 0)
    to magenta. ``total`` is the sum of the optical densities.
    """

    blue: NDArray[np.float32]
    magenta: NDArray[np.float32]
    total: NDArray[np.float32]

    @property
    def weight(self) -> NDArray[np.float32]:
        """Weight of each pixel: the density, limited because the darkest pixels are noisy."""
        return np.minimum(self.total, 1)


def white_point(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the white point of RGB pixels [n, 3]: in each channel, the lowest level not below 97% of the pixels."""
    return np.array([_percentile(pixels[:, channel], _WHITE_PERCENT) for channel in range(3)])


def _percentile(values: NDArray[np.uint8], percent: float) -> float:
    below = np.cumsum(np.bincount(values, minlength=256))
    return float(np.searchsorted(below, percent / 100 * len(values)))


def chroma(pixels: NDArray[np.uint8], white: NDArray[np.float64]) -> tuple[Chroma, NDArray[np.float32]]:
    """Return the chroma of the stained pixels among RGB pixels [n, 3], and the summed density of all pixels [n]."""
    levels = np.arange(1, 257)[:, None] / (white + 1)
    tables = np.clip(-np.log10(levels), 0, 2.4).astype(np.float32)
    red, green, blue = (tables[pixels[:, channel], channel] for channel in range(3))
    total = red + green + blue
    stained = total > _STAINED
    red, green, blue = red[stained], green[stained], blue[stained]
    magenta = (2 * green - red - blue) / np.float32(math.sqrt(6))
    return Chroma((red - blue) / np.float32(math.sqrt(2)), magenta, total[stained]), total
