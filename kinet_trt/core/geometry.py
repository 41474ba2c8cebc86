"""Polygons, and the map between pixel grids. Coordinates: x right, y down, pixel centres at integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Corners x, y of a closed line, float64 [n, 2], px."""
Shape = tuple[Ring, ...]
"""A polygon: its outline, then its holes. Where lines cross, the even-odd rule applies."""

_Floats = TypeVar("_Floats", bound=NDArray[np.floating[Any]])

# A point on an edge belongs to the side to the right of it, or below a horizontal edge, so that polygons with a common
# edge share no point. The offsets, px, stay above the resolution of float64 at any coordinate of a slide.
_RIGHT, _DOWN = 1e-6, 1e-9


def rescale(centres: _Floats, scale: float) -> _Floats:
    """Map x or y, px, from one pixel grid to another of the same area, computed in float64.

    ``scale`` is pixels of the new grid per pixel of the old one. Shape and dtype stay.
    """
    if scale == 1.0:
        return centres
    return ((centres.astype(np.float64) + 0.5) * scale - 0.5).astype(centres.dtype)  # type: ignore[return-value]


def contains(shape: Sequence[Ring], x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which points [n], px, lie inside a polygon, bool [n]."""
    import shapely  # only regions need it

    outline, *holes = map(shapely.linearrings, shape)
    polygon = shapely.polygons(outline, holes or None)
    shapely.prepare(polygon)  # also makes the even-odd rule apply to outlines that cross themselves
    return np.asarray(shapely.contains_xy(polygon, x.astype(np.float64) + _RIGHT, y.astype(np.float64) + _DOWN))


def polygon_mask(shape: Sequence[Ring], height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixel centres lie inside a polygon, bool [height, width]: :func:`contains` row by row."""
    inside = np.zeros((height, width), np.bool_)
    columns = np.arange(width)
    for ring in shape:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            rows = np.arange(max(0, math.ceil(y0)), min(height, math.ceil(y1)))
            if len(rows):
                crossing = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
                inside[rows] ^= columns >= crossing[:, None]
    return inside
