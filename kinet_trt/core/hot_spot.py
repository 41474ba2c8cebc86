"""The hot spot: the disc of n tumour nuclei with the highest index, among hundreds of nuclei or millions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.ki67 import Ki67

HOT_SPOT = 500
"""Tumour nuclei of a hot spot (WHO 2019, ENETS: at least 500, up to 2,000, where labelling is highest)."""
MAX_CENTRES = 800
"""Tumour nuclei of a picture or a session about which a hot spot is sought, at most."""
_ROW = 50.0  # um: centres are taken along rows of this height


@dataclass(frozen=True)
class HotSpot:
    """The hot spot of a picture or a slide.

    Attributes
    ----------
    x, y
        Its centre, px of the picture, or of level 0 of the slide.
    radius
        um.
    ki67
        Index of the nuclei in it. As the highest of many it is slightly too high by chance alone.
    """

    x: float
    y: float
    radius: float
    ki67: Ki67

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it: x, y (px), radius_um, tumor, positive, ki67_index, interval."""
        assert self.ki67.interval is not None
        return {
            "x": round(self.x, 2),
            "y": round(self.y, 2),
            "radius_um": round(self.radius, 1),
            "tumor": self.ki67.tumor,
            "positive": self.ki67.positive,
            "ki67_index": self.ki67.index,
            "interval": list(self.ki67.interval),
        }


def find_hot_spot(nuclei: Detections, mpp: float, n: int = HOT_SPOT) -> HotSpot | None:
    """Find the hot spot of a picture.

    Parameters
    ----------
    nuclei
        All of its nuclei.
    mpp
        um/px.
    n
        Tumour nuclei of a hot spot, at least 1.

    Returns
    -------
    HotSpot or None
        None where there are fewer tumour nuclei.
    """
    tumor = nuclei.where(
        np.isin(nuclei.cls, [k for k, c in enumerate(nuclei.classes) if c in ("positive", "negative")])
    )
    positive = np.asarray([name == "positive" for name in nuclei.classes])[tumor.cls]
    spot = find_disc(tumor.x * np.float32(mpp), tumor.y * np.float32(mpp), positive, n, -(-len(tumor) // MAX_CENTRES))
    if spot is None:
        return None
    return HotSpot(float(tumor.x[spot.centre]), float(tumor.y[spot.centre]), spot.radius, Ki67(spot.positive, n))


@dataclass(frozen=True, eq=False)
class Disc:
    """A disc.

    Attributes
    ----------
    centre
        Index of the nucleus in its middle.
    positive
        How many of its nuclei are positive.
    radius
        um.
    nuclei
        Indices of its nuclei.
    """

    centre: int
    positive: int
    radius: float
    nuclei: NDArray[np.intp]

    @property
    def rank(self) -> tuple[int, float]:
        """The larger the better: most positive nuclei, and of equal ones the smallest disc."""
        return self.positive, -self.radius


def find_disc(
    x: NDArray[np.floating], y: NDArray[np.floating], positive: NDArray[np.bool_], n: int, step: int
) -> Disc | None:
    """Find the disc of n tumour nuclei with most positive ones.

    About every ``step``-th tumour nucleus the n nearest are taken, itself included; most positive nuclei win, of equal
    ones the smallest disc, of equal ones the first.

    Parameters
    ----------
    x, y
        Tumour nuclei, um [total].
    positive
        Which of them are positive, bool [total].
    n
        Nuclei of a disc, at least 1.
    step
        1: about each; k: about every k-th along a path that goes through the place row by row, an even spread and the
        same every time.

    Returns
    -------
    Disc or None
        None where there are fewer than n.
    """
    if len(x) < n:
        return None
    grid = _Grid(x, y, n)
    best: Disc | None = None
    for centre in np.lexsort((x, np.floor(y / _ROW)))[::step]:
        near = grid.about(float(x[centre]), float(y[centre]), n)
        square = (x[near].astype(np.float64) - x[centre]) ** 2 + (y[near].astype(np.float64) - y[centre]) ** 2
        nearest = np.argpartition(square, n - 1)[:n]
        hits = int(positive[near[nearest]].sum())
        if best is not None and hits < best.positive:
            continue
        spot = Disc(int(centre), hits, math.sqrt(float(square[nearest].max())), near[nearest])
        if best is None or spot.rank > best.rank:
            best = spot
    return best


class _Grid:
    """Nuclei by the cell of a grid that they lie in: those near a place are found without looking at the others."""

    def __init__(self, x: NDArray[np.floating], y: NDArray[np.floating], n: int) -> None:
        self._left, self._top = float(x.min()), float(y.min())
        width, height = float(x.max()) - self._left, float(y.max()) - self._top
        # A cell holds about n / 8 nuclei where they are spread evenly; no more cells than nuclei.
        self._cell = max(math.sqrt(max(width * height, 1.0) * n / 8 / len(x)), max(width, height) / 4096, 1e-6)
        self._columns, self._rows = int(width / self._cell) + 1, int(height / self._cell) + 1
        column = ((x - self._left) / self._cell).astype(np.int64)
        row = ((y - self._top) / self._cell).astype(np.int64)
        key = row * self._columns + column
        self._order = np.argsort(key, kind="stable")
        self._begins = np.searchsorted(key[self._order], np.arange(self._rows * self._columns + 1))
        self._x, self._y = x, y

    def about(self, x: float, y: float, n: int) -> NDArray[np.intp]:
        """Return nuclei among which are the n nearest to a place, ascending."""
        reach = self._cell
        while True:
            first, last = self._span(x - self._left, reach, self._columns)
            top, bottom = self._span(y - self._top, reach, self._rows)
            parts = [
                self._order[self._begins[row * self._columns + first] : self._begins[row * self._columns + last + 1]]
                for row in range(top, bottom + 1)
            ]
            near = np.concatenate(parts)
            if len(near) == len(self._order):
                return np.sort(near)
            if len(near) >= n:
                # The nearest n are among them only when the disc that holds n lies within the square.
                square = (self._x[near] - x) ** 2 + (self._y[near] - y) ** 2
                if np.count_nonzero(square <= reach * reach) >= n:
                    return np.sort(near)
            reach *= 1.5

    def _span(self, at: float, reach: float, cells: int) -> tuple[int, int]:
        return max(0, int((at - reach) // self._cell)), min(cells - 1, int((at + reach) // self._cell))
