"""Appearance: numbers that tell H-DAB brightfield tissue from photographs, screenshots, drawings and other pictures.

Three groups, all measured on one window at the model's um/px:

- *colour*, as optical density against the picture's own white (Beer-Lambert): tissue is blue, brown or a mixture of
  both, with a brown of moderate saturation, on a nearly neutral background.
- *structure*: stained tissue is dark on bright, with short round edges in all directions, and of the same texture
  everywhere. Objects, text and drawings have long straight edges, and large light and dark areas.
- *spots* of a nucleus's size: in stained tissue they are dark, and the dark ones are coloured.

`kinet_trt.quality.domain_check` turns them into a score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_Reals = NDArray[np.float32]

NAMES = (
    "magenta",
    "green",
    "grey",
    "hue of brown",
    "saturation of brown",
    "colour of white",
    "number of colours",
    "pale",
    "coherence",
    "anisotropy",
    "between blocks",
    "uneven blocks",
    "skewness",
    "dark spots",
    "yellow in dark spots",
    "green against magenta",
)
"""What `Appearance.numbers` are, in order."""

_BLOCK = 8  # px of half the model's resolution
_STAINED = 0.15  # sum of optical densities above which a px bears stain
_COLOURED = 0.04  # chroma, as a share of the density, above which a stained px has a hue
_PALE = 0.3  # sum of optical densities below which a px is background or pale
# Both stains: each has a share of the stain, other colours hardly any, and the background is bright.
_SATURATED = 0.35
_EACH, _TOGETHER, _BRIGHT = 0.03, 0.95, 216


@dataclass(frozen=True)
class Appearance:
    """What was measured.

    Attributes
    ----------
    numbers
        One finite number for each of `NAMES`.
    both_stains
        Whether the picture shows haematoxylin and DAB, hardly any other colour, and a bright background. Few other
        pictures do; many fields do not either, for one stain may prevail.
    """

    numbers: tuple[float, ...]
    both_stains: bool


def appearance(pixels: NDArray[np.uint8]) -> Appearance:
    """Measure a window.

    Parameters
    ----------
    pixels
        RGB at the model's um/px, uint8 [height, width, 3], at least 128 px each way.

    Returns
    -------
    Appearance
    """
    height, width = pixels.shape[:2]
    half = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    few = np.ascontiguousarray(pixels[::4, ::4]).reshape(-1, 3)
    white = np.array([_percentile(few[:, channel], 97) for channel in range(3)])
    brightness = cv2.transform(half, np.full((1, 3), 1 / 3, np.float32)).astype(np.float32)
    quarter = cv2.resize(half, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    colour, both_stains = _colour(few, white)
    numbers = (*colour, *_edges(brightness), *_blocks(brightness), *_spots(quarter.astype(np.float32)))
    return Appearance(numbers, both_stains)


def _percentile(values: NDArray[np.uint8], percent: float) -> float:
    """Return the lowest level that at least that percentage of the values does not exceed."""
    below = np.cumsum(np.bincount(values, minlength=256))
    return float(np.searchsorted(below, percent / 100 * len(values)))


def _colour(few: NDArray[np.uint8], white: NDArray[np.float64]) -> tuple[tuple[float, ...], bool]:
    """Return the numbers up to "pale", and whether both stains are there; small shares as square roots."""
    levels = np.arange(1, 257)[:, None] / (np.maximum(white, 60) + 1)
    tables = np.clip(-np.log10(levels), 0, 2.4).astype(np.float32)
    red, green, blue = (tables[few[:, channel], channel] for channel in range(3))
    total = red + green + blue
    pale, stained = float((total < _PALE).mean()), total > _STAINED
    red, green, blue, total = red[stained], green[stained], blue[stained], total[stained]
    along = (red - blue) / np.float32(math.sqrt(2))  # blue > 0 > brown
    across = (2 * green - red - blue) / np.float32(math.sqrt(6))  # magenta > 0 > green
    hue = np.degrees(np.arctan2(across, along)) % 360
    saturation = np.hypot(along, across) / total
    # The darkest px are full of noise, and would outweigh all others.
    weight = np.minimum(total, 1)
    whole = max(1e-6, float(weight.sum()))
    coloured = saturation >= _COLOURED

    def share(chosen: NDArray[np.bool_]) -> float:
        return float(weight @ chosen) / whole

    brown = coloured & (hue >= 135) & (hue < 225)
    blue = coloured & ((hue < 75) | (hue >= 330))
    explained = share((brown | blue | ~coloured) & (saturation < _SATURATED))
    both = min(share(brown), share(blue)) >= _EACH and explained >= _TOGETHER and white.min() >= _BRIGHT
    among = weight[brown]
    tint = (float(v[brown] @ among / among.sum()) for v in (hue, saturation)) if len(among) > 20 else (177.0, 0.13)
    counts = np.bincount((few >> 3).astype(np.intp) @ np.array([1024, 32, 1]))
    shares = counts[counts > 0] / len(few)
    others = (coloured & (hue >= 75) & (hue < 135), coloured & (hue >= 225) & (hue < 330), ~coloured)
    numbers = (
        *(math.sqrt(share(chosen)) for chosen in others),
        *tint,
        math.sqrt(float(white.max() - white.min()) / 255),
        float(-(shares * np.log2(shares)).sum()),  # entropy, bits
        pale,
    )
    return numbers, bool(both)


def _edges(brightness: _Reals) -> tuple[float, float]:
    """Return coherence and anisotropy (structure tensor, Bigun and Granlund 1987).

    Coherence says how far edges agree with those near them, which straight ones do; anisotropy, with all others.
    """
    soft = cv2.GaussianBlur(brightness, (0, 0), 0.7)
    across, down = (cv2.Sobel(soft, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
    xx, yy, xy = cv2.multiply(across, across), cv2.multiply(down, down), cv2.multiply(across, down)
    height, width = brightness.shape
    coarse = (-(-width // 2), -(-height // 2))
    near = [cv2.GaussianBlur(cv2.resize(v, coarse, interpolation=cv2.INTER_AREA), (0, 0), 1.5) for v in (xx, yy, xy)]
    energy = max(1e-6, float(near[0].sum() + near[1].sum()))
    coherent = float(cv2.magnitude(near[0] - near[1], 2 * near[2]).sum())
    whole = max(1e-6, float(xx.sum() + yy.sum()))
    uneven = math.hypot(float(xx.sum()) - float(yy.sum()), 2 * float(xy.sum()))
    return coherent / energy, math.sqrt(uneven / whole)


def _blocks(brightness: _Reals) -> tuple[float, float, float]:
    """Return how much differs between blocks, how unevenly it does within them, and the skewness of the brightness."""
    rows, columns = (side // _BLOCK for side in brightness.shape)
    blocks = brightness[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    mean, deviation = blocks.mean(axis=(1, 3)), blocks.std(axis=(1, 3))
    spread = max(1e-3, float(brightness.std()))
    z = (brightness - float(brightness.mean())) / spread
    return (
        float(mean.var()) / spread**2,
        float(deviation.std()) / max(1e-3, float(deviation.mean())),
        _limited(float((z * z * z).mean())),
    )


def _spots(quarter: _Reals) -> tuple[float, float, float]:
    """Return their skewness, how far the yellow ones are the bright ones, and green against magenta in them.

    Spots are differences of Gaussians of 4 and 9 model px.
    """
    red, green, blue = cv2.split(cv2.GaussianBlur(quarter, (0, 0), 1.0) - cv2.GaussianBlur(quarter, (0, 0), 2.25))
    light, yellow, verdant = (red + green + blue) / 3, red - blue, green - (red + blue) / 2
    power, yellows, greens = (max(1e-6, float(np.square(v).mean())) for v in (light, yellow, verdant))
    return (
        _limited(float((light * light * light).mean() / power**1.5)),
        float((yellow * light).mean()) / math.sqrt(yellows * power),
        math.log((math.sqrt(greens) + 0.1) / (math.sqrt(power) + 0.1)),
    )


def _limited(value: float) -> float:
    return min(6.0, max(-6.0, value))
