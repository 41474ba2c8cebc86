"""Proximity maps, Eq. 1 of the paper."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
    """Draw the maps that a network should give.

    ``y(u, v, s) = (exp(alpha (1 - D / d)) - 1) / (exp(alpha) - 1)`` where D, the distance to the nearest nucleus of
    class s, is at most d, else 0 (Eq. 1). The paper calls the maps mutually exclusive: a pixel belongs to the class of
    its nearest nucleus, so between touching nuclei of two classes each map ends half-way.

    Parameters
    ----------
    x, y
        Nucleus centres, px, pixel centres at integers; those outside the picture draw what reaches into it.
    cls
        Class index of each nucleus.
    height, width
        Size, px.
    alpha, distance
        Decay (no unit) and reach d, px.

    Returns
    -------
    maps
        float32 [classes, height, width], 1 at a centre on a pixel.
    nearest
        Distance to the nearest nucleus of any class, float32 [height, width], px; capped at ``distance + 1``.
    """
    nearest = np.full((height, width), distance + 1, np.float32)
    owner = np.full((height, width), -1, np.int16)
    margin = int(np.ceil(distance))
    for px, py, s in zip(x, y, cls, strict=True):
        top, bottom = max(0, int(py) - margin - 1), min(height, int(py) + margin + 2)
        left, right = max(0, int(px) - margin - 1), min(width, int(px) + margin + 2)
        if top >= bottom or left >= right:
            continue
        dy = np.arange(top, bottom, dtype=np.float32) - np.float32(py)
        dx = np.arange(left, right, dtype=np.float32) - np.float32(px)
        d = np.sqrt(dy[:, None] ** 2 + dx[None, :] ** 2)
        region = (slice(top, bottom), slice(left, right))
        closer = d < nearest[region]
        nearest[region][closer] = d[closer]
        owner[region][closer] = s
    value = (np.exp(alpha * (1 - nearest / distance)) - 1) / (np.exp(alpha) - 1)
    value = np.where(nearest <= distance, value, 0).astype(np.float32)
    maps = np.where(owner[None] == np.arange(classes)[:, None, None], value[None], 0).astype(np.float32)
    return maps, nearest
