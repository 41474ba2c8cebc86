"""Regions: the part of a field that counts, a drawn polygon or a mask."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError, shown
from kinet_trt.core.geometry import polygon_mask

MAX_POINTS = 10_000
_MAX_COORDINATE = 1e6  # px


@dataclass(frozen=True)
class Polygon:
    """A drawn outline. Where it crosses itself, the even-odd rule applies.

    ``points`` are 3 to 10,000 corners x, y, px of the frame (pixel centres at integers); the last is joined to the
    first.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not 3 <= len(self.points) <= MAX_POINTS:
            raise KinetError(f"a region: expected 3 to {MAX_POINTS:,} corners, found {len(self.points):,}")
        for point in self.points:
            if len(point) != 2 or not all(math.isfinite(v) and abs(v) <= _MAX_COORDINATE for v in point):
                raise KinetError(f"a region: expected corners x, y in px, found {shown(point)}")

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return which pixels of a frame have their centre inside, bool [height, width]."""
        return polygon_mask([np.asarray(self.points)], height, width)


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask, bool [height, width], of the pixels that count, such as the thresholded tumour map of the network."""

    inside: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.inside.dtype != np.bool_ or self.inside.ndim != 2:
            raise KinetError(
                f"a region mask: expected bool [height, width], found {self.inside.dtype} {list(self.inside.shape)}"
            )

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask, bool [height, width]; KinetError if the frame has another size."""
        if self.inside.shape != (height, width):
            raise KinetError(
                f"a region mask: expected the field's {width} x {height} px, found {self.inside.shape[1]} x "
                f"{self.inside.shape[0]}"
            )
        return self.inside


Region = Polygon | Mask


def to_bytes(region: Region) -> tuple[str, bytes]:
    """Return a region as it is stored: its kind, and JSON or PNG."""
    if isinstance(region, Polygon):
        return "polygon", json.dumps([list(map(float, point)) for point in region.points]).encode()
    _, data = cv2.imencode(".png", region.inside.astype(np.uint8) * 255)
    return "mask", data.tobytes()


def from_bytes(kind: str, data: bytes) -> Region:
    """Return a stored region; KinetError if it is damaged."""
    if kind == "polygon":
        try:
            points = tuple((float(x), float(y)) for x, y in json.loads(data))
        except (ValueError, TypeError, RecursionError):
            raise KinetError("a region is damaged: it is not a list of corners") from None
        return Polygon(points)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if kind == "mask" and data else None
    if pixels is None:
        raise KinetError(f"a region is damaged: expected a polygon or a mask, found {shown(kind)}")
    return Mask(np.asarray(pixels) > 127)


def contains(
    region: NDArray[np.bool_] | None, width: int, height: int, x: NDArray[np.floating], y: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Return which points x, y, px, lie in a frame and in its region, [height, width]; None: the whole frame."""
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    if region is not None:
        column = np.clip(np.floor(x + 0.5).astype(np.intp), 0, width - 1)
        row = np.clip(np.floor(y + 0.5).astype(np.intp), 0, height - 1)
        inside &= region[row, column]
    return np.asarray(inside)


def polygon(points: Sequence[Sequence[float]]) -> Polygon:
    """Return a polygon from corners as in JSON."""
    try:
        return Polygon(tuple((float(x), float(y)) for x, y in points))
    except (TypeError, ValueError):
        raise KinetError(f"a region: expected corners x, y in px, found {shown(points)}") from None
