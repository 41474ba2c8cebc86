"""Evaluate a model on labelled fields with the paper's metrics (section IV-C)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.frame import Frame
from kinet_trt.core.ki67 import Ki67
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.evaluation.cases import PairedCases, Results, Row, pair_cases
from kinet_trt.evaluation.figures import encode
from kinet_trt.evaluation.metrics import Comparison, Score, area, compare, match
from kinet_trt.evaluation.statistics import IndexAgreement
from kinet_trt.inference.counter import NucleusCounter, Threshold

SCHEMA = 1
XI = tuple(round(0.05 * i, 2) for i in range(21))
"""Relative thresholds of the precision-recall curve (paper, Figure 8)."""

Nuclei = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]
FALSE_NEGATIVE, FALSE_POSITIVE, WRONG_CLASS, CORRECT = (255, 210, 0), (230, 0, 230), (255, 120, 0), (255, 255, 255)


def comparable_nuclei(found: Detections, field: LabelledField) -> tuple[Nuclei, Nuclei]:
    """Return the detections and annotations of a field that can be compared; px of the field's image.

    These lie inside the counted region and belong to the classes that the source labels.
    """
    labelled = [CLASSES.index(name) for name in field.labelled]
    known = np.array([CLASSES.index(name) if name in CLASSES else len(CLASSES) for name in found.classes], np.uint8)
    nuclei = []
    for x, y, cls in ((found.x, found.y, known[found.cls]), (field.x, field.y, field.cls)):
        keep = np.isin(cls, labelled) & field.is_counted(x, y)
        nuclei.append((x[keep], y[keep], cls[keep]))
    return nuclei[0], nuclei[1]


@dataclass(frozen=True, eq=False)
class FieldEvaluation:
    """Evaluation of one field: at the counter's threshold, and at the relative thresholds :data:`XI` (the curve).

    ``found`` and ``true`` are the compared detections and annotations, px of the field; ``mpp`` was used for counting.
    """

    field: LabelledField
    mpp: float
    found: Nuclei
    true: Nuclei
    at_threshold: Comparison
    curve: tuple[Comparison, ...]

    @property
    def ki67(self) -> tuple[Ki67, Ki67]:
        """Detected index and true index."""
        counts = [
            dict(zip(CLASSES, np.bincount(n[2], minlength=len(CLASSES)), strict=True)) for n in (self.found, self.true)
        ]
        found, true = (Ki67.from_counts({name: int(n) for name, n in c.items()}) for c in counts)
        return found, true


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Evaluation of several fields."""

    fields: tuple[FieldEvaluation, ...]

    @cached_property
    def at_threshold(self) -> Comparison:
        """All fields pooled, at the counter's threshold."""
        return _pooled(f.at_threshold for f in self.fields)

    @cached_property
    def curve(self) -> NDArray[np.float64]:
        """Weighted classification recall and precision at each relative threshold, float64 [21, 2]."""
        pooled = [_pooled(f.curve[i] for f in self.fields) for i in range(len(XI))]
        return np.array([(c.weighted[1], c.weighted[0]) for c in pooled])

    @property
    def auc(self) -> float:
        """Area under :attr:`curve`."""
        recall, precision = self.curve.T
        return area(recall, precision)

    @property
    def index_errors(self) -> list[float]:
        """Absolute errors of the index, fractions; fields without detected or true tumour nuclei are excluded."""
        indices = [(found.index, true.index) for found, true in (f.ki67 for f in self.fields)]
        return [abs(a - b) for a, b in indices if a is not None and b is not None]

    def by_source(self) -> dict[str, Comparison]:
        """Return the pooled result of each source."""
        sources = sorted({f.field.source for f in self.fields})
        return {s: _pooled(f.at_threshold for f in self.fields if f.field.source == s) for s in sources}


def _pooled(parts: Iterable[Comparison]) -> Comparison:
    total = Comparison.empty(len(CLASSES))
    for part in parts:
        total += part
    return total


def evaluate_field(counter: NucleusCounter, field: LabelledField, mpp: float | None = None) -> FieldEvaluation:
    """Count one field and compare the detections with the annotations.

    Nuclei match within 16 px at the model's scale. ``mpp`` defaults to the file's, else the model's.
    """
    card = counter.engine.card
    used = mpp or field.frame().mpp or card.mpp
    # One pass serves every threshold: the peaks above a higher one are those above a lower one with a higher score.
    own = counter.threshold
    lowest = Threshold(0.0 if own.relative else min(0.0, own.value))
    candidates = counter.with_threshold(lowest)(Frame(field.pixels(), used))
    highest = float(candidates.score.max(initial=-np.inf))
    scale = np.float32(used / card.mpp)

    def compared(threshold: Threshold) -> tuple[Nuclei, Nuclei, Comparison]:
        kept = candidates.where(candidates.score >= np.float32(threshold.of(highest)))
        found, true = comparable_nuclei(kept, field)
        at_scale = [(n[0] * scale, n[1] * scale, n[2]) for n in (found, true)]
        return found, true, compare(at_scale[0], at_scale[1], len(CLASSES))

    found, true, at_threshold = compared(own)
    curve = tuple(compared(Threshold(xi, relative=True))[2] for xi in XI)
    return FieldEvaluation(field, used, found, true, at_threshold, curve)


def index_cases(
    evaluation: Evaluation, *, pattern: re.Pattern[str] | None = None, cases: Mapping[str, str] | None = None
) -> PairedCases:
    """Return the detected and the true index of each field, or of each case.

    Parameters
    ----------
    evaluation
        At least one field.
    pattern, cases
        Group the fields by case: see :func:`kinet_trt.evaluation.cases.pair_cases`. Without both, each field is a case.

    Raises
    ------
    KinetError
        If the pattern fits no field.
    """
    fields = [f.field for f in evaluation.fields]
    is_unique = len({f.name for f in fields}) == len(fields)
    names = [f.name if is_unique else str(f.image) for f in fields]
    if pattern or cases is not None:
        names = [""] * len(fields)
    folder = fields[0].image.parent
    found, true = (
        Results(
            folder,
            tuple(
                Row.counted(str(f.field.image), f.ki67[which], name)
                for f, name in zip(evaluation.fields, names, strict=True)
            ),
        )
        for which in (0, 1)
    )
    return pair_cases(found, true, pattern=pattern, cases=cases)


def to_json(
    counter: NucleusCounter,
    evaluation: Evaluation,
    cases: PairedCases | None = None,
    agreement: IndexAgreement | None = None,
) -> str:
    """Return an evaluation as JSON, schema 1, with the agreement of the index if it is given."""
    pooled, engine = evaluation.at_threshold, counter.engine
    errors = evaluation.index_errors
    document = {
        "schema": SCHEMA,
        "model": {
            "name": engine.card.name,
            "sha256": engine.card.model_sha256,
            "runtime": engine.runtime,
            "precision": engine.precision,
            "threshold": str(counter.threshold) if counter.threshold.relative else counter.threshold.value,
            "notice": engine.card.notice,
        },
        "detection": _detection(pooled),
        "classification": {
            "weighted": dict(zip(("precision", "recall", "f1"), pooled.weighted, strict=True)),
            "per_class": {name: _figures(s) for name, s in zip(CLASSES, pooled.per_class, strict=True)},
            "auc": evaluation.auc,
            "curve": [
                {"xi": xi, "recall": float(r), "precision": float(p)}
                for xi, (r, p) in zip(XI, evaluation.curve, strict=True)
            ],
        },
        "index": {
            "fields": len(errors),
            "mean_absolute_error": float(np.mean(errors)) if errors else None,
            "within_10_points": float(np.mean([e <= 0.10 for e in errors])) if errors else None,
        },
        "fields": [_field(f) for f in evaluation.fields],
        "agreement": agreement.record() if agreement else None,
        "cases": cases.records("found", "true") if cases else [],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _detection(c: Comparison) -> dict[str, Any]:
    d = c.distance
    return {
        **_figures(c.detection),
        "distance_mean_px": float(d.mean()) if len(d) else None,
        "distance_std_px": float(d.std()) if len(d) else None,
    }


def _figures(score: Score) -> dict[str, Any]:
    return {
        "precision": score.precision,
        "recall": score.recall,
        "f1": score.f1,
        "paired": score.paired,
        "detected": score.detected,
        "true": score.true,
    }


def _field(f: FieldEvaluation) -> dict[str, Any]:
    found, true = f.ki67
    return {
        "image": str(f.field.image),
        "source": f.field.source,
        "labelled": list(f.field.labelled),
        "mpp": f.mpp,
        "detection": _detection(f.at_threshold),
        "classification_f1": f.at_threshold.weighted[2],
        "index": {"found": found.index, "true": true.index},
    }


def marked(pixels: NDArray[np.uint8], found: Nuclei, truth: Nuclei, scale: float) -> NDArray[np.uint8]:
    """Draw false negatives (yellow), false positives (magenta), wrong classes (orange), matches (small, white).

    ``pixels`` are RGB, uint8 [H, W, 3], and are not changed; nuclei are in their px. ``scale`` is model px per px.
    """
    image = pixels.copy()
    (x, y, cls), (true_x, true_y, true_cls) = found, truth
    detected, true, _ = match(x * scale, y * scale, true_x * scale, true_y * scale)
    unpaired = np.setdiff1d(np.arange(len(x)), detected), np.setdiff1d(np.arange(len(true_x)), true)
    radius = max(3, round(7 / scale))
    marks: Sequence[tuple[float, float, int, tuple[int, int, int]]] = [
        *((x[i], y[i], radius, FALSE_POSITIVE) for i in unpaired[0]),
        *((true_x[i], true_y[i], radius, FALSE_NEGATIVE) for i in unpaired[1]),
        *(
            (x[i], y[i], *((2, CORRECT) if cls[i] == true_cls[j] else (radius, WRONG_CLASS)))
            for i, j in zip(detected, true, strict=True)
        ),
    ]
    for cx, cy, r, colour in marks:
        cv2.circle(image, (round(float(cx) * 16), round(float(cy) * 16)), r * 16, colour, 1, cv2.LINE_AA, 4)
    return image


def curve_plot(evaluation: Evaluation, name: str, target: str = ".png") -> bytes:
    """Draw the precision-recall curve of the classification for a .png or .svg file; needs the extra ``eval``."""
    from matplotlib.figure import Figure

    recall, precision = evaluation.curve.T
    now = evaluation.at_threshold.weighted
    figure = Figure(figsize=(5, 4), layout="tight")
    axes = figure.add_subplot()
    axes.plot(recall, precision, ".-", label=f"xi from 0 to 1, area {evaluation.auc:.3f}")
    axes.plot(now[1], now[0], "o", label=f"threshold in use, F1 {now[2]:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="weighted recall", ylabel="weighted precision", title=name)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return encode(figure, target)
