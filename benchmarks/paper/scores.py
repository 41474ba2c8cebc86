"""Accuracy of a network on test fields, by the paper's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.networks.base import Network
from kinet_trt.export.prediction import predict

from kinet_trt.core.detections import CLASSES
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.evaluation.evaluate import XI, comparable_nuclei
from kinet_trt.evaluation.metrics import Comparison, area, compare
from kinet_trt.peaks.reference import find_peaks


def score(network: Network, info: ModelInfo, fields: Sequence[LabelledField]) -> dict[str, Any]:
    """Return Table I's figures at the network's threshold, and the curves of Figures 8 and 9, for JSON.

    Fields are pooled; unlabelled classes and areas are ignored. As in the paper, the thresholds of the curves are
    relative to the largest peak of each field.
    """
    none = Comparison.empty(len(CLASSES))
    at_threshold, curve = none, [none] * len(XI)
    by_source: dict[str, Comparison] = {}
    for field in fields:
        maps = predict(network, info, field.pixels())
        height, width = field.pixels().shape[:2]
        peaks = find_peaks(maps, 0.0, info.nms_radius)
        peaks = peaks.where((peaks.x < width) & (peaks.y < height))
        largest = float(peaks.score.max(initial=0))

        def held(least: float, peaks: Any = peaks, field: LabelledField = field) -> Comparison:
            return compare(*comparable_nuclei(peaks.where(peaks.score >= np.float32(least)), field), len(CLASSES))

        own = held(info.threshold)
        at_threshold += own
        by_source[field.source] = by_source.get(field.source, none) + own
        curve = [total + held(xi * largest) for total, xi in zip(curve, XI, strict=True)]
    points = {
        "detection": [(c.detection.recall, c.detection.precision) for c in curve],
        "classification": [(c.weighted[1], c.weighted[0]) for c in curve],
    }
    recall, precision = np.array(points["classification"]).T
    return {
        **_figures(at_threshold),
        "auc": area(recall, precision),
        "curves": {name: [list(point) for point in values] for name, values in points.items()},
        "by_source": {name: _figures(c) for name, c in sorted(by_source.items())},
        "by_class": {name: s.f1 for name, s in zip(CLASSES, at_threshold.per_class, strict=True)},
    }


def _figures(c: Comparison) -> dict[str, Any]:
    found = c.distance
    return {
        "detection": [c.detection.precision, c.detection.recall, c.detection.f1],
        "classification": list(c.weighted),
        "distance": [float(found.mean()), float(found.std())] if len(found) else None,
        "nuclei": c.detection.true,
    }
