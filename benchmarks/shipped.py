"""Detection and classification F1 of the models in the repository on the validation fields of their training.

Run: python benchmarks/shipped.py FIELDS    (writes benchmarks/results/shipped.json; needs the extras eval and train)

Threshold and checkpoint were chosen on these fields, so the figures are optimistic; they compare the models.
``inner_f1`` is detection F1 without the 12 px at a field's border, where labelling of cut nuclei is inconsistent.
The fields of FIELDS/more have no classes of Ki67, so only detection is scored, on those that were not trained on; of
the field from two scanners the Ki67 index is stated.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np
from kinet_trt.export.sampling import split_fields
from numpy.typing import NDArray

from kinet_trt import Detections, NucleusCounter
from kinet_trt.core.files import write_atomic
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.evaluation.benchmark import machine
from kinet_trt.evaluation.evaluate import Evaluation, FieldEvaluation, evaluate_field
from kinet_trt.evaluation.metrics import Score, match
from kinet_trt.io.images import read_image

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "kinet-edge": (None, "fp32"),
    "kinet-edge, int8": (None, "int8"),
    "kinet-edge-0": (ROOT / "benchmarks" / "models" / "kinet-edge-0.onnx", "fp32"),
    "kinet": (ROOT / "weights" / "kinet.onnx", "fp32"),
}
HELD_OUT = {
    "endonet": r"en_(55[7-9]|5[6-9]\d|6[0-3]\d|64[0-6]|157[4-9]|158[0-4]|47[6-8]\d|4790)",
    "marrow": r"pc_006_.*",
}
BORDER = 12


def main(folder: Path) -> None:
    """Write the figures of each source, and their mean."""
    _, fields = split_fields(read_fields(folder))
    models = {}
    for name, (path, precision) in MODELS.items():
        counter = NucleusCounter(path, precision=precision)
        sources = {}
        for source in sorted({field.source for field in fields}):
            own = Evaluation(tuple(evaluate_field(counter, f) for f in fields if f.source == source))
            at = own.at_threshold
            sources[source] = {
                "nuclei": at.detection.true,
                "detection_f1": round(at.detection.f1, 4),
                "inner_f1": round(sum((_inner(e) for e in own.fields), Score(0, 0, 0)).f1, 4),
                "classification_f1": round(at.weighted[2], 4),
                "auc": round(own.auc, 4),
            }
        figures = [s[key] for s in sources.values() for key in ("detection_f1", "classification_f1")]
        models[name] = {
            "sha256": counter.card.model_sha256,
            "threshold": counter.threshold.value,
            "mean": round(mean(figures), 4),
            "sources": sources,
            "detection_only": {source: _detection(counter, folder / "more" / source) for source in HELD_OUT},
            "two_scanners": _two_scanners(counter, folder / "more" / "scanners"),
        }
        print(name, json.dumps(models[name], indent=1))
    result = {"schema": 1, "machine": machine(), "models": models}
    write_atomic(ROOT / "benchmarks" / "results" / "shipped.json", json.dumps(result, indent=1) + "\n")


def _detection(counter: NucleusCounter, folder: Path) -> dict[str, float]:
    """Return the detection scores of the fields of a source that were not trained on."""
    total, fields = Score(0, 0, 0), 0
    for row in csv.DictReader((folder / "index.csv").open(encoding="utf-8")):
        if not re.fullmatch(HELD_OUT[folder.name], Path(row["image"]).stem):
            continue
        mask = None
        if row["counted_mask"]:
            mask = cv2.imread(str(folder / row["counted_mask"]), cv2.IMREAD_GRAYSCALE) > 127
        points = np.genfromtxt(folder / row["points"], delimiter=",", names=True, dtype=None, encoding="utf-8")
        nuclei = counter(read_image(folder / row["image"]))
        (x, y), (true_x, true_y) = _counted(nuclei.x, nuclei.y, mask), _counted(points["x"], points["y"], mask)
        total += Score(len(match(x, y, true_x, true_y)[0]), len(x), len(true_x))
        fields += 1
    scores = {"precision": total.precision, "recall": total.recall, "f1": total.f1}
    return {"fields": fields, "nuclei": total.true, **{name: round(value, 4) for name, value in scores.items()}}


def _counted(
    x: NDArray[Any], y: NDArray[Any], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    if mask is None:
        return x, y
    rows, columns = (np.clip(np.rint(v).astype(int), 0, n - 1) for v, n in zip((y, x), mask.shape, strict=True))
    keep = mask[rows, columns]
    return x[keep], y[keep]


def _two_scanners(counter: NucleusCounter, folder: Path) -> dict[str, dict[str, float]]:
    """Return the index of one field from two scanners, whole and of the part (x >= 800 px) that was not trained on."""
    result = {}
    for path in sorted(folder.glob("*.png")):
        nuclei = counter(read_image(path))
        held_out = nuclei.where(nuclei.x >= 800)
        result[path.stem] = {
            "whole_percent": _percent(nuclei),
            "held_out_percent": _percent(held_out),
        }
    return result


def _percent(nuclei: Detections) -> float:
    index = nuclei.ki67.index
    assert index is not None
    return round(100 * index, 2)


def _inner(field: FieldEvaluation) -> Score:
    height, width = field.field.pixels().shape[:2]
    (x, y, _), (true_x, true_y, _) = field.found, field.true
    near, true_near = (
        (np.minimum(a, width - a) < BORDER) | (np.minimum(b, height - b) < BORDER)
        for a, b in ((x, y), (true_x, true_y))
    )
    detected, true, _ = match(x, y, true_x, true_y)
    paired = int((~true_near[true]).sum())
    invented = int((~np.delete(near, detected)).sum())
    return Score(paired, paired + invented, int((~true_near).sum()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
