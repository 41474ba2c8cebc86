"""Reference implementation of peak finding, in NumPy and OpenCV; the others return exactly the same detections."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, Detections

MAX_RADIUS = 64
"""Maximum NMS radius, px; far larger than any nucleus."""


def find_peaks(
    maps: NDArray[np.floating],
    threshold: float,
    radius: int = 5,
    classes: tuple[str, ...] = CLASSES,
) -> Detections:
    """Find the nuclei of one frame's proximity maps.

    ``v(p)`` is the largest of the class maps at pixel p. Pixel p is a nucleus if ``v(p) >= threshold`` and, for every
    other pixel q in the square window around p, ``v(p) > v(q)``, or ``v(p) == v(q)`` and p comes first in raster order.
    The class is the first channel whose value is ``v(p)``. Pixels at the border are treated like any other. NaN is
    ignored: a pixel that is NaN in every channel is never a nucleus and suppresses none.

    Parameters
    ----------
    maps
        float16 or float32 [classes, height, width].
    threshold
        Minimum height of a peak, finite.
    radius
        Radius of the suppression window, px (side 2 x radius + 1).
    classes
        One name per channel.

    Returns
    -------
    Detections
        In raster order, map coordinates.

    Raises
    ------
    ValueError
        If the shape, the threshold or the radius is invalid.
    """
    if maps.ndim != 3 or maps.shape[0] != len(classes):
        raise ValueError(f"maps: expected [{len(classes)}, height, width], found {list(maps.shape)}")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: expected a finite number, found {threshold}")
    if not 1 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius: expected 1 to {MAX_RADIUS} px, found {radius}")
    maps = maps.astype(np.float32, copy=False)
    if 0 in maps.shape:
        return Detections.empty(classes)

    highest = np.fmax.reduce(maps, axis=0)
    highest[np.isnan(highest)] = -np.inf
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    # OpenCV pads with the lowest finite value, which suppresses no pixel above the threshold.
    window_max = cv2.dilate(highest, window)
    # Compare in float32, like the maps and the threshold of a fused model.
    with np.errstate(over="ignore"):
        minimum = np.float32(threshold)
    y, x = np.nonzero((highest == window_max) & (highest >= minimum) & (highest != -np.inf))
    first = _first_of_ties(highest, y, x, radius)
    y, x = y[first], x[first]
    score = highest[y, x]
    cls = np.argmax(maps[:, y, x] == score, axis=0)
    return Detections(x.astype(np.float32), y.astype(np.float32), cls.astype(np.uint8), score, classes)


def _first_of_ties(
    highest: NDArray[np.float32], y: NDArray[np.intp], x: NDArray[np.intp], radius: int
) -> NDArray[np.intp]:
    """Return the indices of the pixels that no equal pixel in their window precedes in raster order."""
    width = highest.shape[1]
    remaining = np.arange(len(y))
    # Nearest offsets first: on a plateau, the comparison with the left neighbour removes nearly all pixels.
    for dy in range(0, -radius - 1, -1):
        for dx in range(-1, -radius - 1, -1) if dy == 0 else range(-radius, radius + 1):
            if len(remaining) == 0:
                return remaining
            qy, qx = y[remaining] + dy, x[remaining] + dx
            in_image = (qy >= 0) & (qx >= 0) & (qx < width)
            equal = np.zeros(len(remaining), bool)
            equal[in_image] = (
                highest[qy[in_image], qx[in_image]] == highest[y[remaining][in_image], x[remaining][in_image]]
            )
            remaining = remaining[~equal]
    return remaining
