"""Regions of a slide to count, drawn in QuPath."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.geometry import Shape
from kinet_trt.core.geometry import contains as polygon_contains
from kinet_trt.io.geojson import read_geojson


@dataclass(frozen=True, eq=False)
class Region:
    """Polygons to count, without ignored polygons, with their holes; px of level 0, pixel centres at integers."""

    counted: tuple[Shape, ...]
    ignored: tuple[Shape, ...] = ()

    def __post_init__(self) -> None:
        if not self.counted:
            raise KinetError("region: expected at least one polygon to count")

    @property
    def sha256(self) -> str:
        """Sha256 of the corners, hexadecimal."""
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
        """Left, top, right and bottom of the counted polygons, px of level 0."""
        corners = np.concatenate([ring for shape in self.counted for ring in shape])
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def contains(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which points, px of level 0 [n], lie in a counted polygon and not in an ignored one, bool [n]."""
        inside = np.zeros(len(x), np.bool_)
        for shape in self.counted:
            inside |= polygon_contains(shape, x, y)
        for shape in self.ignored:
            inside &= ~polygon_contains(shape, x, y)
        return inside

    def touched_pixels(self, height: int, width: int, downsample: float) -> NDArray[np.bool_]:
        """Return which pixels of a thumbnail lie in or near the counted polygons, bool [height, width].

        ``downsample`` is px of level 0 per thumbnail pixel.
        """
        mask = np.zeros((height, width), np.uint8)
        for shape in self.counted:
            rings = [np.clip(np.floor((ring + 0.5) / downsample), -1e6, 1e6).astype(np.int32) for ring in shape]
            # Even-odd rule for holes. The outline, wider than the rounding error, is always included.
            filled = np.zeros_like(mask)
            cv2.fillPoly(filled, rings, (1,))
            cv2.polylines(filled, rings, isClosed=True, color=(1,), thickness=3)
            mask |= filled
        return mask > 0


def read_region(path: Path) -> Region:
    """Read the region to count from a GeoJSON file of QuPath.

    Annotations without a class, those called ``Region*`` and TMA cores are counted; ``Ignore*`` and missing cores are
    not. If there are none to count, annotations called ``Tumor`` are counted.
    """
    marked = read_geojson(path)
    outlines = marked.outlines
    counted = outlines.counted or outlines.tumor
    if not counted:
        found = {
            "points or nuclei": len(marked.x) + len(outlines.unknown),
            "ignored regions": len(outlines.ignored),
            "regions of other tissue": len(outlines.other),
        }
        listed = ", ".join(f"{n} {kind}" for kind, n in found.items() if n) or "no objects"
        raise KinetError(
            f"{path}: expected annotations without a class or called Region* or Tumor, or TMA cores, found {listed}. "
            "Draw the regions to count in QuPath and export the objects as GeoJSON"
        )
    return Region(counted, outlines.ignored)
