"""The paper's metrics (section IV-C): compare detections with annotated nuclei."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import MissingExtraError

MATCH_RADIUS = 16.0
"""Gold-standard radius r of the paper, px at the model's scale."""


def match(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    true_x: NDArray[np.floating],
    true_y: NDArray[np.floating],
    radius: float = MATCH_RADIUS,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Pair detections with annotations: as many pairs as possible within the radius, then the smallest total distance.

    Positions and radius are in px. Returns the indices of the paired detections and annotations, int [pairs], and their
    distances, px [pairs]. Needs the extra ``eval``.
    """
    try:
        from lap import lapjv  # needs the extra eval
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
    # One more pair outweighs any saving in distance: a pair that is too far apart costs more than all others together.
    # Rows and columns without a near partner cannot be paired and are left out for speed.
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
    """Precision, recall and F1 from the numbers of pairs, detections and annotations."""

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


@dataclass(frozen=True, eq=False)
class Comparison:
    """Detections compared with annotations, in one field or several: all classes together, and per class.

    ``distance`` has the distances of the pairs of ``detection``, px at the model's scale, float64 [pairs].
    """

    detection: Score
    per_class: tuple[Score, ...]
    distance: NDArray[np.float64]

    @classmethod
    def empty(cls, classes: int) -> Comparison:
        """Return the comparison of no fields."""
        return cls(Score(0, 0, 0), (Score(0, 0, 0),) * classes, np.empty(0))

    def __add__(self, other: Comparison) -> Comparison:
        per_class = tuple(a + b for a, b in zip(self.per_class, other.per_class, strict=True))
        distance = np.concatenate([self.distance, other.distance])
        return Comparison(self.detection + other.detection, per_class, distance)

    @property
    def weighted(self) -> tuple[float, float, float]:
        """Precision, recall and F1, each the mean over classes weighted by their share of the annotations."""
        true = np.array([score.true for score in self.per_class], float)
        if true.sum() == 0:
            return 0.0, 0.0, 0.0
        figures = np.array([(score.precision, score.recall, score.f1) for score in self.per_class])
        precision, recall, f1 = (true / true.sum()) @ figures
        return float(precision), float(recall), float(f1)


def compare(
    found: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]],
    true: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]],
    classes: int,
    radius: float = MATCH_RADIUS,
) -> Comparison:
    """Compare detections with annotations (x and y, px, and class index of each), over all classes and per class."""
    (x, y, cls), (true_x, true_y, true_cls) = found, true
    _, _, distance = match(x, y, true_x, true_y, radius)
    per_class = []
    for c in range(classes):
        p, t = cls == c, true_cls == c
        pairs = len(match(x[p], y[p], true_x[t], true_y[t], radius)[0])
        per_class.append(Score(pairs, int(p.sum()), int(t.sum())))
    return Comparison(Score(len(distance), len(x), len(true_x)), tuple(per_class), distance)


def area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Return the area under a precision-recall curve, points in any order: trapezoids up to the largest recall."""
    order = np.lexsort((-precision, recall))
    r, p = recall[order], precision[order]
    return float((np.diff(r) * (p[1:] + p[:-1]) / 2).sum())
