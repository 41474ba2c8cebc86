"""Proximity maps, Eq. 1 of the paper."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Window = tuple[tuple[slice, slice], NDArray[np.float32], NDArray[np.float32]]
"""Rows and columns of a window, and the vertical [h, 1] and horizontal [1, w] distances from its centre, px."""


def windows(
    x: NDArray[np.floating], y: NDArray[np.floating], radius: float, height: int, width: int
) -> Iterator[tuple[int, Window]]:
    """Yield the index of each point and the window around it, for points whose window is inside the image in part."""
    margin = int(np.ceil(radius))
    for index, (px, py) in enumerate(zip(x, y, strict=True)):
        top, bottom = max(0, int(py) - margin - 1), min(height, int(py) + margin + 2)
        left, right = max(0, int(px) - margin - 1), min(width, int(px) + margin + 2)
        if top < bottom and left < right:
            dy = np.arange(top, bottom, dtype=np.float32) - np.float32(py)
            dx = np.arange(left, right, dtype=np.float32) - np.float32(px)
            yield index, ((slice(top, bottom), slice(left, right)), dy[:, None], dx[None])


def proximity_maps(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    cls: NDArray[np.integer],
    height: int,
    width: int,
    classes: int = 3,
    alpha: float = 3.0,
    distance: float = 15.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the target maps of nuclei, float32 [classes, height, width], 1 at a centre on a pixel.

    ``y(u, v, s) = (exp(alpha (1 - D / d)) - 1) / (exp(alpha) - 1)`` where D, the distance to the nearest nucleus of
    class s, is at most d, else 0 (Eq. 1). As in the paper the maps are mutually exclusive: a pixel belongs to the class
    of its nearest nucleus, so between touching nuclei of two classes each map ends half-way.

    ``x`` and ``y`` are px, pixel centres at integers; nuclei outside the image are drawn in part. ``alpha`` is the
    decay (no unit), ``distance`` is d (px). Also return the distance to the nearest nucleus of any class, px, float32
    [height, width]; at most ``distance + 1``.
    """
    nearest = np.full((height, width), distance + 1, np.float32)
    owner = np.full((height, width), -1, np.int16)
    for index, (window, dy, dx) in windows(x, y, distance, height, width):
        d = np.sqrt(dy**2 + dx**2)
        closer = d < nearest[window]
        nearest[window][closer] = d[closer]
        owner[window][closer] = cls[index]
    value = (np.exp(alpha * (1 - nearest / distance)) - 1) / (np.exp(alpha) - 1)
    value = np.where(nearest <= distance, value, 0).astype(np.float32)
    maps = np.where(owner[None] == np.arange(classes)[:, None, None], value[None], 0).astype(np.float32)
    return maps, nearest
