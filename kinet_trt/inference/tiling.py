"""Images larger than one tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kinet_trt.core.detections import Detections


@dataclass(frozen=True)
class Tile:
    """A core and the window about it that is looked at.

    A nucleus belongs to the one tile whose core holds its peak. Cores cover the image without overlap, so no nucleus
    is lost or counted twice at a seam. The window reaches a halo beyond the core; the halo is at least the network's
    reach plus the NMS radius and every window begins on a multiple of the network's alignment, so what a core shows
    is the same as in the whole image.

    Attributes
    ----------
    top, bottom, left, right
        The core, px; bottom and right are exclusive.
    window_top, window_bottom, window_left, window_right
        The window, px.
    """

    top: int
    bottom: int
    left: int
    right: int
    window_top: int
    window_bottom: int
    window_left: int
    window_right: int

    def own(self, found: Detections) -> Detections:
        """Return the detections of the window that belong to the core, in coordinates of the image."""
        x, y = found.x + self.window_left, found.y + self.window_top
        inside = (x >= self.left) & (x < self.right) & (y >= self.top) & (y < self.bottom)
        moved = Detections(x, y, found.cls, found.score, found.classes)
        return moved.where(inside)


def tiles(height: int, width: int, tile: int, halo: int, multiple: int) -> Iterator[Tile]:
    """Cut an image into tiles; one that fits into a tile with its halo stays whole.

    Parameters
    ----------
    height, width
        Of the padded image, px; multiples of ``multiple``.
    tile, halo
        Largest side of a core and the px about it; multiples of ``multiple``.
    multiple
        Alignment of windows, px.
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
    """Cut a length into aligned spans of about one size; one that fits into a tile with its halo stays whole.

    Parameters
    ----------
    length
        px, a multiple of ``multiple``.
    tile, halo, multiple
        See :func:`tiles`.

    Returns
    -------
    list
        Start and end of each, px, ends exclusive. The first is the longest.
    """
    if length <= tile + 2 * halo:
        return [(0, length)]
    count = -(-length // tile)
    span = -(-length // (count * multiple)) * multiple
    return [(start, min(start + span, length)) for start in range(0, length, span)]
