"""Detection and classification F1 of the models in the repository on the validation fields of their training.

Run: python benchmarks/shipped.py FIELDS    (writes benchmarks/results/shipped.json; needs the extras eval and train)

Threshold and checkpoint were chosen on these fields, so the figures are optimistic; they compare the models.
``inner_f1`` is detection F1 without the 12 px at a field's border, where labelling of cut nuclei is inconsistent.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean

import numpy as np
from kinet_trt.export.sampling import split_fields

from kinet_trt import NucleusCounter
from kinet_trt.core.files import write_atomic
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.evaluation.benchmark import machine
from kinet_trt.evaluation.evaluate import Evaluation, FieldEvaluation, evaluate_field
from kinet_trt.evaluation.metrics import Score, match

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "weights"
MODELS = {"kinet-edge": None, "kinet": WEIGHTS / "kinet.onnx", "kinet-half": WEIGHTS / "kinet-half.onnx"}
BORDER = 12


def main(folder: Path) -> None:
    """Write the figures of each source, and their mean."""
    _, fields = split_fields(read_fields(folder))
    models = {}
    for name, path in MODELS.items():
        counter = NucleusCounter(path, precision="fp32")
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
        }
        print(name, json.dumps(models[name], indent=1))
    result = {"schema": 1, "machine": machine(), "precision": "fp32", "models": models}
    write_atomic(ROOT / "benchmarks" / "results" / "shipped.json", json.dumps(result, indent=1) + "\n")


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
