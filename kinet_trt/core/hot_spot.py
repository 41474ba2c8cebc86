"""Hot spot: the disc of n tumour nuclei with the highest Ki67 index."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.ki67 import Ki67

HOT_SPOT = 500
"""Default number of tumour nuclei in a hot spot (WHO 2019, ENETS: 500 to 2,000 where labelling is highest)."""
MAX_CENTRES = 800
"""Maximum number of discs that are tried in a picture or a session."""
_ROW = 50.0  # µm: height of the rows along which centres are taken


@dataclass(frozen=True)
class HotSpot:
    """The hot spot of a picture or a slide; its index has a small upward bias, because it is the maximum of many.

    The centre is in px of the picture, or of level 0 of the slide; the radius in µm.
    """

    x: float
    y: float
    radius: float
    ki67: Ki67

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON: x, y (px), radius_um, tumor, positive, ki67_index, interval."""
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
    """Find the hot spot of n tumour nuclei in a picture; None if it has fewer."""
    return next(iter(find_hot_spots(nuclei, mpp, n, 1)), None)


def find_hot_spots(nuclei: Detections, mpp: float, n: int, number: int) -> tuple[HotSpot, ...]:
    """Find up to ``number`` hot spots of n tumour nuclei in a picture that do not overlap, best first."""
    tumor, positive = tumor_nuclei(nuclei)
    return hot_spots_of(tumor.x, tumor.y, positive, mpp, n, number, -(-len(tumor) // MAX_CENTRES))


def hot_spots_of(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    positive: NDArray[np.bool_],
    mpp: float,
    n: int,
    number: int,
    step: int,
) -> tuple[HotSpot, ...]:
    """Return hot spots of tumour nuclei with centres in px; for ``step`` see :func:`find_discs`."""
    discs = find_discs(x * np.float32(mpp), y * np.float32(mpp), positive, n, step, number)
    return tuple(HotSpot(float(x[d.centre]), float(y[d.centre]), d.radius, Ki67(d.positive, n)) for d in discs)


def tumor_nuclei(nuclei: Detections) -> tuple[Detections, NDArray[np.bool_]]:
    """Return the tumour nuclei, and the mask of the positive ones among them."""
    classes = [k for k, name in enumerate(nuclei.classes) if name in ("positive", "negative")]
    tumor = nuclei.where(np.isin(nuclei.cls, classes))
    return tumor, np.asarray([name == "positive" for name in nuclei.classes])[tumor.cls]


@dataclass(frozen=True, eq=False)
class Disc:
    """A disc about one nucleus."""

    centre: int  # index of the nucleus at its centre
    positive: int  # number of positive nuclei
    radius: float  # µm
    nuclei: NDArray[np.intp]  # indices

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: more positive nuclei first, then the smaller disc."""
        return self.positive, -self.radius


def find_disc(
    x: NDArray[np.floating], y: NDArray[np.floating], positive: NDArray[np.bool_], n: int, step: int
) -> Disc | None:
    """Find the best disc of n tumour nuclei, see :func:`find_discs`; None if there are fewer than n nuclei."""
    return next(iter(find_discs(x, y, positive, n, step, 1)), None)


def find_discs(
    x: NDArray[np.floating], y: NDArray[np.floating], positive: NDArray[np.bool_], n: int, step: int, number: int
) -> list[Disc]:
    """Find discs of n tumour nuclei with the most positive ones that do not overlap, best first.

    A candidate is the n nuclei nearest to a tumour nucleus, itself included. Each next disc is the best of those that
    overlap no better one. Ties go to the smallest disc, then to the first.

    Parameters
    ----------
    x, y
        Centres of tumour nuclei, µm [total].
    positive
        Mask of the positive ones, bool [total].
    n
        Number of nuclei in a disc.
    step
        Every ``step``-th nucleus is tried as a centre, in row order, which spreads the centres evenly.
    number
        Number of discs to find; fewer are returned if there is no space for more, none with fewer than n nuclei.
    """
    if len(x) < n:
        return []
    centres = np.lexsort((x, np.floor(y / _ROW)))[::step]
    hits, radius = measure_discs(x, y, positive, n, centres)
    chosen = separate_discs(x[centres], y[centres], radius, np.lexsort((radius, -hits)), number)
    grid = _Grid(x, y, n)
    return [Disc(int(centres[k]), int(hits[k]), float(radius[k]), grid.nearest(int(centres[k]), n)[0]) for k in chosen]


def measure_discs(
    x: NDArray[np.floating], y: NDArray[np.floating], positive: NDArray[np.bool_], n: int, centres: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the number of positive nuclei and the radius, µm, of the disc of n nuclei about each centre.

    ``centres`` are indices of nuclei [k]; there are at least n nuclei.
    """
    grid = _Grid(x, y, n)
    hits, radius = np.empty(len(centres), np.intp), np.empty(len(centres))
    for k, centre in enumerate(centres):
        nuclei, radius[k] = grid.nearest(int(centre), n)
        hits[k] = np.count_nonzero(positive[nuclei])
    return hits, radius


def separate_discs(
    x: NDArray[np.floating], y: NDArray[np.floating], radius: NDArray[np.floating], order: NDArray[np.intp], number: int
) -> list[int]:
    """Return the indices of up to ``number`` discs that do not overlap: each the first in ``order`` that is free."""
    x, y, radius = (np.asarray(values[order], np.float64) for values in (x, y, radius))
    free, chosen = np.ones(len(order), bool), list[int]()
    while len(chosen) < number and free.any():
        first = int(free.argmax())
        chosen.append(int(order[first]))
        free &= np.hypot(x - x[first], y - y[first]) > radius + radius[first]
        free[first] = False
    return chosen


class _Grid:
    """Spatial index: nuclei by the cells of a regular grid."""

    def __init__(self, x: NDArray[np.floating], y: NDArray[np.floating], n: int) -> None:
        self._left, self._top = float(x.min()), float(y.min())
        width, height = float(x.max()) - self._left, float(y.max()) - self._top
        # About n / 8 evenly spread nuclei per cell, and no more cells than nuclei.
        self._cell = max(math.sqrt(max(width * height, 1.0) * n / 8 / len(x)), max(width, height) / 4096, 1e-6)
        self._columns, self._rows = int(width / self._cell) + 1, int(height / self._cell) + 1
        column = ((x - self._left) / self._cell).astype(np.int64)
        row = ((y - self._top) / self._cell).astype(np.int64)
        key = row * self._columns + column
        self._order = np.argsort(key, kind="stable")
        self._begins = np.searchsorted(key[self._order], np.arange(self._rows * self._columns + 1))
        self._x, self._y = x, y

    def nearest(self, centre: int, n: int) -> tuple[NDArray[np.intp], float]:
        """Return the indices of the n nuclei nearest to a nucleus, itself included, and the distance of the last."""
        near = self.about(float(self._x[centre]), float(self._y[centre]), n)
        square = (self._x[near].astype(np.float64) - self._x[centre]) ** 2
        square += (self._y[near].astype(np.float64) - self._y[centre]) ** 2
        nearest = np.argpartition(square, n - 1)[:n]
        return near[nearest], math.sqrt(float(square[nearest].max()))

    def about(self, x: float, y: float, n: int) -> NDArray[np.intp]:
        """Return indices of nuclei that include the n nearest to a point, ascending."""
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
                # They include the n nearest only if the disc of n nuclei lies within the square.
                square = (self._x[near] - x) ** 2 + (self._y[near] - y) ** 2
                if np.count_nonzero(square <= reach * reach) >= n:
                    return np.sort(near)
            reach *= 1.5

    def _span(self, at: float, reach: float, cells: int) -> tuple[int, int]:
        return max(0, int((at - reach) // self._cell)), min(cells - 1, int((at + reach) // self._cell))
