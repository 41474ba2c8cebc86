"""Pairing of the nuclei of two lists, nearest first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating]


def pair(
    x: Reals, y: Reals, other_x: Reals, other_y: Reals, radius: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Pair the points of two lists, [n] and [m], the nearest pair first, each point at most once.

    Unlike :func:`kinet_trt.evaluation.metrics.match`, it does not maximise the number of pairs, and needs no extra
    package. Pairs are at most ``radius`` apart. Returns the indices of the paired points, ascending in the first, and
    the distance of each pair.
    """
    order = np.argsort(other_x, kind="stable")
    sorted_x = np.asarray(other_x, np.float64)[order]
    low = np.searchsorted(sorted_x, np.asarray(x, np.float64) - radius, "left")
    high = np.searchsorted(sorted_x, np.asarray(x, np.float64) + radius, "right")
    width = high - low
    # All pairs that are near enough in x, as flat arrays.
    i = np.repeat(np.arange(len(x)), width)
    start = np.repeat(low - np.concatenate([[0], np.cumsum(width)[:-1]]).astype(np.intp), width) if len(x) else low
    j = order[start + np.arange(len(i))] if len(i) else np.empty(0, np.intp)
    distance = np.hypot(
        np.asarray(x, np.float64)[i] - np.asarray(other_x, np.float64)[j],
        np.asarray(y, np.float64)[i] - np.asarray(other_y, np.float64)[j],
    )
    near = distance <= radius
    i, j, distance = i[near], j[near], distance[near]
    nearest = np.lexsort((j, i, distance))
    # Python lists are several times faster here than numpy scalars.
    taken_i, taken_j, kept = bytearray(len(x)), bytearray(len(other_x)), []
    for a, b, k in zip(i[nearest].tolist(), j[nearest].tolist(), nearest.tolist(), strict=True):
        if not (taken_i[a] or taken_j[b]):
            taken_i[a] = taken_j[b] = 1
            kept.append(k)
    chosen = np.array(kept, np.intp)
    chosen = chosen[np.argsort(i[chosen], kind="stable")]
    return i[chosen].astype(np.intp), j[chosen].astype(np.intp), distance[chosen]
