"""Reference implementation of peak finding, in NumPy and OpenCV; all others return exactly its detections."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, Detections

MAX_RADIUS = 64
"""Maximum NMS radius, px; far above any nucleus."""


def find_peaks(
    maps: NDArray[np.floating],
    threshold: float,
    radius: int = 5,
    classes: tuple[str, ...] = CLASSES,
) -> Detections:
    """Find the nuclei of one frame's proximity maps.

    ``v(p)`` is the largest of the class maps at pixel p. p is a nucleus when ``v(p) >= threshold`` and, for every other
    q in the square window of the radius, ``v(p) > v(q)``, or ``v(p) == v(q)`` and p comes first in raster order. Its
    class is the first channel that holds ``v(p)``. Pixels at the border count like any other. NaN is ignored: a pixel
    that is NaN in every channel is never a nucleus and suppresses none.

    Parameters
    ----------
    maps
        float16 or float32 [classes, height, width].
    threshold
        Minimum height of a peak, finite.
    radius
        Half the window, px: 5 is 11 x 11.
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
    ceiling = cv2.dilate(highest, window)
    # Compare in float32, the type of the maps and of the fused model's threshold.
    with np.errstate(over="ignore"):
        lowest = np.float32(threshold)
    y, x = np.nonzero((highest == ceiling) & (highest >= lowest) & (highest != -np.inf))
    first = _first_of_ties(highest, y, x, radius)
    y, x = y[first], x[first]
    score = highest[y, x]
    cls = np.argmax(maps[:, y, x] == score, axis=0)
    return Detections(x.astype(np.float32), y.astype(np.float32), cls.astype(np.uint8), score, classes)


def _first_of_ties(
    highest: NDArray[np.float32], y: NDArray[np.intp], x: NDArray[np.intp], radius: int
) -> NDArray[np.intp]:
    """Return the indices of the pixels y, x that are the first of their value, in raster order, in their window."""
    width = highest.shape[1]
    alive = np.arange(len(y))
    # Nearest offsets first: on a plateau the left neighbour removes nearly all pixels.
    for dy in range(0, -radius - 1, -1):
        for dx in range(-1, -radius - 1, -1) if dy == 0 else range(-radius, radius + 1):
            if len(alive) == 0:
                return alive
            qy, qx = y[alive] + dy, x[alive] + dx
            inside = (qy >= 0) & (qx >= 0) & (qx < width)
            equal = np.zeros(len(alive), bool)
            equal[inside] = highest[qy[inside], qx[inside]] == highest[y[alive][inside], x[alive][inside]]
            alive = alive[~equal]
    return alive
