"""Features that separate H-DAB brightfield tissue from photographs, screenshots, drawings and other pictures.

There are three groups, measured on a window at the model's µm/px:

- *colour* in optical density (Beer-Lambert): tissue is blue, brown with moderate saturation, or a mixture of both, on a
  nearly neutral background.
- *structure*: stained tissue is dark on bright, with short round edges in all directions and uniform texture. Objects,
  text and drawings have long straight edges, and large light and dark areas.
- *spots* of the size of a nucleus: in stained tissue they are dark, and the dark ones are coloured.

`kinet_trt.quality.domain_check` computes a score from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.quality.stain import chroma, white_point

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
"""Names of `Appearance.numbers`, in order."""

_BLOCK = 8  # px at half the model's resolution
_COLOURED = 0.04  # saturation above which a stained px has a hue
_PALE = 0.3  # sum of optical densities below which a px is background or pale
# Limits for both stains: share of each, share of both together, and brightness of the background.
_SATURATED = 0.35
_EACH, _TOGETHER, _BRIGHT = 0.03, 0.95, 216


@dataclass(frozen=True)
class Appearance:
    """Features of one window: one finite number for each of `NAMES`.

    ``both_stains`` is True if the window shows haematoxylin and DAB, hardly any other colour, and a bright background.
    False does not exclude tissue, where one stain may dominate.
    """

    numbers: tuple[float, ...]
    both_stains: bool


def appearance(pixels: NDArray[np.uint8]) -> Appearance:
    """Measure a window, RGB uint8 [height, width, 3] at the model's µm/px, at least 128 px in both directions."""
    height, width = pixels.shape[:2]
    half = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    few = np.ascontiguousarray(pixels[::4, ::4]).reshape(-1, 3)
    white = white_point(few)
    brightness = cv2.transform(half, np.full((1, 3), 1 / 3, np.float32)).astype(np.float32)
    quarter = cv2.resize(half, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    colour, both_stains = _colour(few, white)
    numbers = (*colour, *_edges(brightness), *_blocks(brightness), *_spots(quarter.astype(np.float32)))
    return Appearance(numbers, both_stains)


def _colour(few: NDArray[np.uint8], white: NDArray[np.float64]) -> tuple[tuple[float, ...], bool]:
    """Return the features up to "pale", and `Appearance.both_stains`; small shares as square roots."""
    stain, total = chroma(few, np.maximum(white, 60))
    pale, weight = float((total < _PALE).mean()), stain.weight
    hue = np.degrees(np.arctan2(stain.magenta, stain.blue)) % 360
    saturation = np.hypot(stain.blue, stain.magenta) / stain.total
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
    """Return coherence, the agreement of nearby edges, and anisotropy, that of all edges (structure tensor).

    See Bigun and Granlund 1987.
    """
    soft = cv2.GaussianBlur(brightness, (0, 0), 0.7)
    gradient_x, gradient_y = (cv2.Sobel(soft, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
    xx, yy = cv2.multiply(gradient_x, gradient_x), cv2.multiply(gradient_y, gradient_y)
    xy = cv2.multiply(gradient_x, gradient_y)
    height, width = brightness.shape
    coarse = (-(-width // 2), -(-height // 2))
    near = [cv2.GaussianBlur(cv2.resize(v, coarse, interpolation=cv2.INTER_AREA), (0, 0), 1.5) for v in (xx, yy, xy)]
    energy = max(1e-6, float(near[0].sum() + near[1].sum()))
    coherent = float(cv2.magnitude(near[0] - near[1], 2 * near[2]).sum())
    whole = max(1e-6, float(xx.sum() + yy.sum()))
    uneven = math.hypot(float(xx.sum()) - float(yy.sum()), 2 * float(xy.sum()))
    return coherent / energy, math.sqrt(uneven / whole)


def _blocks(brightness: _Reals) -> tuple[float, float, float]:
    """Return the variance between blocks, the variation of the deviation in blocks, and the skewness."""
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
    """Return the last three features, of differences of Gaussians with 4 and 9 model px."""
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
