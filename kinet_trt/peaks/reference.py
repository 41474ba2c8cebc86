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
    # Compare in float32, like the maps and the threshold of a fused model.
    with np.errstate(over="ignore"):
        minimum = np.float32(threshold)
    window_max = _dilate(highest, 2 * radius + 1, 2 * radius + 1, (radius, radius))
    is_peak = (highest == window_max) & (highest >= minimum) & (highest != -np.inf)
    # np.nonzero takes several times as long as np.flatnonzero.
    y, x = np.divmod(np.flatnonzero(is_peak), highest.shape[1])
    first_of_equals = highest[y, x] > _earlier_max(highest, y, x, radius)
    y, x = y[first_of_equals], x[first_of_equals]
    score = highest[y, x]
    cls = np.argmax(maps[:, y, x] == score, axis=0)
    return Detections(x.astype(np.float32), y.astype(np.float32), cls.astype(np.uint8), score, classes)


def _earlier_max(
    highest: NDArray[np.float32], y: NDArray[np.intp], x: NDArray[np.intp], radius: int
) -> NDArray[np.float32]:
    """Return the maximum over the pixels of each window that come before its centre in raster order."""
    rows = _dilate(highest, radius, 2 * radius + 1, (radius, radius - 1))
    row = _dilate(highest, 1, radius, (radius - 1, 0))
    above = np.where(y > 0, rows[y - 1, x], -np.inf)
    left = np.where(x > 0, row[y, x - 1], -np.inf)
    return np.maximum(above, left)


def _dilate(image: NDArray[np.float32], height: int, width: int, anchor: tuple[int, int]) -> NDArray[np.float32]:
    """Return the maximum over a window of height x width px, with the pixel at ``anchor`` (x, y) in the window."""
    outside = (-np.inf,) * 4
    window = np.ones((height, width), np.uint8)
    return np.asarray(cv2.dilate(image, window, anchor=anchor, borderType=cv2.BORDER_CONSTANT, borderValue=outside))
