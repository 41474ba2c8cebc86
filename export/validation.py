"""Accuracy of a network on validation fields, and its record of a training run."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from kinet_trt.export.checkpoint import ModelInfo
from kinet_trt.export.networks.base import Network
from kinet_trt.export.prediction import detect
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.files import write_atomic
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.evaluation.evaluate import comparable_nuclei, marked
from kinet_trt.evaluation.metrics import Comparison, compare

THRESHOLDS = tuple(round(0.15 + 0.025 * i, 3) for i in range(25))
"""Thresholds that are tried in validation."""
MAX_FIELDS, SIDE = 6, 512
"""Number of fields in a sheet, and side of the upper left part of each, px."""
GAP = 8
"""Space between fields, px."""


@dataclass(frozen=True)
class Validation:
    """Accuracy on validation fields at the best threshold."""

    threshold: float  # with the highest figure
    figure: float  # mean over sources of the mean of detection and classification F1
    by_source: dict[str, tuple[float, float]]  # detection F1 and weighted classification F1
    found: tuple[Detections, ...] = field(default=(), repr=False, compare=False)

    def metrics(self) -> dict[str, float]:
        """Return the figures by name, as in the model card."""
        named = {"figure": self.figure}
        for source, (detection, classification) in self.by_source.items():
            source = source or "fields"
            named[f"{source}.detection_f1"] = detection
            named[f"{source}.classification_f1"] = classification
        return {name: round(value, 4) for name, value in named.items()}

    def record(self, out: Path, iteration: int, loss: float, fields: Sequence[LabelledField]) -> None:
        """Append a row to the table ``NAME.csv`` of a training run, and draw the detections in ``NAME.pictures``.

        ``out`` is the checkpoint of the run, ``NAME.pt``; ``loss`` is the mean since the previous validation.
        """
        sheet = contact_sheet(self.found, fields, self.threshold)
        write_atomic(out.with_suffix(".pictures") / f"{iteration:06d}.jpg", sheet)
        path, figures = out.with_suffix(".csv"), self.metrics()
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            if new:
                table.writerow(["time", "iteration", "loss", "threshold", *figures])
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            table.writerow([now, iteration, f"{loss:.5g}", self.threshold, *figures.values()])


def validate(network: Network, info: ModelInfo, fields: Sequence[LabelledField]) -> Validation:
    """Return the accuracy at the threshold with the highest mean F1 over sources."""
    found = [detect(network, info, f.pixels(), THRESHOLDS[0]) for f in fields]
    best = Validation(THRESHOLDS[0], -1.0, {})
    for threshold in THRESHOLDS:
        by_source = {
            source: _f1_scores([(d, f) for d, f in zip(found, fields, strict=True) if f.source == source], threshold)
            for source in sorted({f.source for f in fields})
        }
        figure = float(np.mean([np.mean(pair) for pair in by_source.values()]))
        if figure > best.figure:
            best = Validation(threshold, figure, by_source)
    return replace(best, found=tuple(found))


def _f1_scores(pairs: Sequence[tuple[Detections, LabelledField]], threshold: float) -> tuple[float, float]:
    """Return detection F1 and weighted classification F1 of the fields of one source, ignoring unlabelled classes.

    If the nuclei of the fields have no class, both are detection F1.
    """
    total = Comparison.empty(len(CLASSES))
    for detected, f in pairs:
        found = detected.where(detected.score >= threshold)
        if not f.classified:
            found = replace(found, cls=np.zeros_like(found.cls))
            f = replace(f, cls=np.zeros_like(f.cls), labelled=CLASSES[:1])
        total += compare(*comparable_nuclei(found, f), len(CLASSES))
    return total.detection.f1, total.weighted[2]


def contact_sheet(found: Sequence[Detections], fields: Sequence[LabelledField], threshold: float) -> bytes:
    """Draw false negatives (yellow), false positives (magenta) and wrong classes (orange) of a field of each source.

    ``found`` are the detections in each field, px of the field, which is at the model's scale; those below
    ``threshold`` are not drawn. Return a JPEG file.
    """
    first = {f.source: i for i, f in reversed(list(enumerate(fields)))}
    order = sorted(range(len(fields)), key=lambda i: (i != first[fields[i].source], i))
    pictures: list[NDArray[np.uint8]] = []
    for i in order[:MAX_FIELDS]:
        nuclei = comparable_nuclei(found[i].where(found[i].score >= np.float32(threshold)), fields[i])
        pictures.append(marked(fields[i].pixels(), *nuclei, 1.0)[:SIDE, :SIDE])
    height = max(map(len, pictures))
    padded = [np.pad(p, ((0, height - len(p)), (0, GAP), (0, 0)), constant_values=255) for p in pictures]
    sheet = np.hstack(padded)[:, :-GAP]
    packed: bytes = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return packed
