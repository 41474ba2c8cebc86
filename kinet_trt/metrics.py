"""The paper's metrics (section IV-C): detections held to annotated nuclei."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinet_trt.errors import MissingExtraError

MATCH_RADIUS = 16.0
"""Gold-standard radius r of the paper, px at the model's scale."""


def match(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    true_x: NDArray[np.floating],
    true_y: NDArray[np.floating],
    radius: float = MATCH_RADIUS,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Pair detections with annotations: the most pairs within the radius (inclusive), then the least total distance.

    Parameters
    ----------
    x, y
        Detections, px.
    true_x, true_y
        Annotations, px.
    radius
        Largest distance of a pair, px.

    Returns
    -------
    detected, true
        Indices of the paired detections and annotations, int [pairs].
    distance
        Their distances, px [pairs].

    Raises
    ------
    MissingExtraError
        If the extra ``eval`` is not installed.
    """
    try:
        from lap import lapjv  # an extra, and heavy only where it is needed
    except ImportError:
        raise MissingExtraError("Matching nuclei with annotations", "eval", "lapx") from None

    none = np.empty(0, np.intp)
    if len(x) == 0 or len(true_x) == 0:
        return none, none, np.empty(0)
    distance = np.hypot(
        np.subtract.outer(x.astype(np.float64), true_x.astype(np.float64)),
        np.subtract.outer(y.astype(np.float64), true_y.astype(np.float64)),
    )
    near = distance <= radius
    # One pair more is worth more than any saving in distance: a pair too far apart costs more than all others together.
    # Rows and columns without a partner cannot be paired and only cost time.
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if len(rows) == 0:
        return none, none, np.empty(0)
    forbidden = (min(len(rows), len(columns)) + 1) * (radius + 1)
    cost = np.where(near[np.ix_(rows, columns)], distance[np.ix_(rows, columns)], forbidden)
    _, column_of, _ = lapjv(cost, extend_cost=True)
    detected = np.flatnonzero(column_of >= 0)
    true = np.asarray(column_of)[detected]
    kept = cost[detected, true] <= radius
    detected, true = rows[detected[kept]], columns[true[kept]]
    return detected, true, distance[detected, true]


@dataclass(frozen=True)
class Score:
    """Precision, recall and F1 from counts.

    Attributes
    ----------
    paired, detected, true
        Pairs, detections and annotations.
    """

    paired: int
    detected: int
    true: int

    def __add__(self, other: Score) -> Score:
        return Score(self.paired + other.paired, self.detected + other.detected, self.true + other.true)

    @property
    def precision(self) -> float:
        """Share of the detections that are nuclei; 0 when there are none."""
        return self.paired / self.detected if self.detected else 0.0

    @property
    def recall(self) -> float:
        """Share of the nuclei that were detected; 0 when there are none."""
        return self.paired / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.paired / (self.detected + self.true) if self.detected + self.true else 0.0


def weighted_f1(per_class: list[Score]) -> float:
    """Return the mean F1 over classes, weighted by each class's share of the annotations (paper, IV-C)."""
    total = sum(score.true for score in per_class)
    return sum(score.f1 * score.true for score in per_class) / total if total else 0.0
