"""The part of a slide that is counted: areas that somebody drew in QuPath."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.geometry import Shape, contains
from kinet_trt.io.geojson import read_geojson


@dataclass(frozen=True, eq=False)
class Region:
    """Areas that are counted, without areas that are left out.

    Attributes
    ----------
    counted, ignored
        Polygons with their holes, px of level 0, pixel centres at integers.
    """

    counted: tuple[Shape, ...]
    ignored: tuple[Shape, ...] = ()

    def __post_init__(self) -> None:
        if not self.counted:
            raise KinetError("a region: expected at least one area to count in")

    @property
    def sha256(self) -> str:
        """Of its corners, hexadecimal."""
        digest = hashlib.sha256()
        for shapes in (self.counted, self.ignored):
            digest.update(f"{len(shapes)}\n".encode())
            for shape in shapes:
                for ring in shape:
                    digest.update(np.ascontiguousarray(ring, "<f8").tobytes())
                digest.update(b"\n")
        return digest.hexdigest()

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of all areas that count, px of level 0."""
        corners = np.concatenate([ring for shape in self.counted for ring in shape])
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def holds(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which places lie in it, bool [n]: in any area that counts and in none that is left out.

        Parameters
        ----------
        x, y
            px of level 0 [n].
        """
        inside = np.zeros(len(x), np.bool_)
        for shape in self.counted:
            inside |= contains(shape, x, y)
        for shape in self.ignored:
            inside &= ~contains(shape, x, y)
        return inside

    def touched(self, height: int, width: int, cell: float) -> NDArray[np.bool_]:
        """Return which cells of a grid it touches, or lies near: bool [height, width].

        Parameters
        ----------
        height, width
            Of the grid.
        cell
            px of level 0 along a cell.
        """
        mask = np.zeros((height, width), np.uint8)
        for shape in self.counted:
            rings = [np.clip(np.floor((ring + 0.5) / cell), -1e6, 1e6).astype(np.int32) for ring in shape]
            # Even-odd with the holes; the outline, wider than its rounding, is in whatever the fill says.
            one = np.zeros_like(mask)
            cv2.fillPoly(one, rings, (1,))
            cv2.polylines(one, rings, isClosed=True, color=(1,), thickness=3)
            mask |= one
        return mask > 0


def read_region(path: Path) -> Region:
    """Read where to count from a QuPath GeoJSON.

    Areas without a class, those called ``Region*`` and the cores of a TMA are counted, ``Ignore*`` and missing cores
    are left out. Where there are none of the first kind, areas called ``Tumor`` are counted.

    Raises
    ------
    KinetError
        If it cannot be read, or holds no such area.
    """
    marked = read_geojson(path)
    outlines = marked.outlines
    counted = outlines.counted or outlines.tumor
    if not counted:
        found = {
            "points or nuclei": len(marked.x) + len(outlines.unknown),
            "areas that are left out": len(outlines.ignored),
            "areas of other tissue": len(outlines.other),
        }
        listed = ", ".join(f"{n} {what}" for what, n in found.items() if n) or "no objects"
        raise KinetError(
            f"{path}: expected areas without a class or called Region* or Tumor, or TMA cores, found {listed}: draw "
            "where to count in QuPath and export the objects as GeoJSON"
        )
    return Region(counted, outlines.ignored)
