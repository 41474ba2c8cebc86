"""Cut images that are larger than one tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections


@dataclass(frozen=True)
class Tile:
    """A core, and the window around it that the network sees; px, the ends (bottom and right) exclusive.

    A nucleus belongs to the one tile whose core contains its peak. Cores cover the image without overlap, so no nucleus
    is lost or counted twice at a seam. The window extends a halo beyond the core. The halo is at least the network's
    reach plus the NMS radius, and every window begins on a multiple of the network's alignment, so the maps of a core
    are those of the whole image.
    """

    top: int
    bottom: int
    left: int
    right: int
    window_top: int
    window_bottom: int
    window_left: int
    window_right: int

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the core in the image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the window in the image."""
        return slice(self.window_top, self.window_bottom), slice(self.window_left, self.window_right)

    def cropped(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the core's part of an array of the window's size [height, width]."""
        top, left = self.top - self.window_top, self.left - self.window_left
        return values[top : top + self.bottom - self.top, left : left + self.right - self.left]

    def keep_core(self, found: Detections) -> Detections:
        """Return the detections of the window that belong to the core, in coordinates of the image."""
        x, y = found.x + self.window_left, found.y + self.window_top
        in_core = (x >= self.left) & (x < self.right) & (y >= self.top) & (y < self.bottom)
        moved = Detections(x, y, found.cls, found.score, found.classes)
        return moved.where(in_core)


def tiles(height: int, width: int, tile: int, halo: int, multiple: int) -> Iterator[Tile]:
    """Cut a padded image into tiles; an image that fits into one tile with its halo stays whole.

    ``tile`` is the largest side of a core, ``halo`` the width of the margin around it, ``multiple`` the alignment of
    windows. All lengths are in px, multiples of the latter.
    """
    for top, bottom in spans(height, tile, halo, multiple):
        for left, right in spans(width, tile, halo, multiple):
            yield Tile(
                top,
                bottom,
                left,
                right,
                max(0, top - halo),
                min(height, bottom + halo),
                max(0, left - halo),
                min(width, right + halo),
            )


def spans(length: int, tile: int, halo: int, multiple: int) -> list[tuple[int, int]]:
    """Cut a length into aligned spans of similar size; a length that fits into one tile with its halo stays whole.

    Lengths are in px, multiples of ``multiple``. Returns start and end (exclusive) of each span; the first is the
    longest.
    """
    if length <= tile + 2 * halo:
        return [(0, length)]
    count = -(-length // tile)
    span = -(-length // (count * multiple)) * multiple
    return [(start, min(start + span, length)) for start in range(0, length, span)]
