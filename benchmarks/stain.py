"""How well the DAB density of a nucleus tells positive from negative tumour nuclei, at the nuclei that people labelled.

Run: python benchmarks/stain.py FIELDS    (writes benchmarks/results/stain.json; no model is needed)

Agreement is the share of tumour nuclei whose class by density is the label's. The best cut-off of a source is chosen on
its own nuclei. Fields of fewer than 30 tumour nuclei are left out of the errors of the index, percentage points.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinet_trt import Detections, measure_dab
from kinet_trt.core.files import write_atomic
from kinet_trt.core.stain_scoring import H_CUTS
from kinet_trt.datasets.labelled import LabelledField, read_fields

RESULT = Path(__file__).resolve().parent / "results" / "stain.json"
CUTS = np.round(np.arange(0, 0.6, 0.01), 2)
MIN_NUCLEI = 30


def main(folder: Path) -> None:
    """Write the figures of all fields and of each source."""
    fields = [f for f in read_fields(folder) if f.classified and {"positive", "negative"} <= {*f.labelled}]
    measured = [(field.source, *_densities(field)) for field in fields]
    sources = {
        name: [(d, p) for source, d, p in measured if source == name] for name in sorted({m[0] for m in measured})
    }
    everything = [(density, positive) for _, density, positive in measured]
    result = {
        "schema": 1,
        "fields": len(fields),
        "all": _figures(everything),
        "sources": {name: _figures(parts) for name, parts in sources.items()},
        "index_error": {f"{cut:g}": _index_error(everything, cut) for cut in (0.1, 0.15, H_CUTS[0], 0.25)},
    }
    write_atomic(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


Measured = list[tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Density and label, positive or not, of the tumour nuclei of each field."""


def _densities(field: LabelledField) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    tumor = field.cls < 2
    nuclei = Detections(field.x, field.y, field.cls, np.ones(len(field.x), np.float32)).where(tumor)
    density = measure_dab(field.frame(), nuclei).dab
    assert density is not None
    return density, nuclei.cls == 0


def _figures(parts: Measured) -> dict[str, float]:
    density, positive = (np.concatenate(column) for column in zip(*parts, strict=True))
    agreement = np.array([((density >= cut) == positive).mean() for cut in CUTS])
    return {
        "tumor_nuclei": len(density),
        "positive": int(positive.sum()),
        "auc": round(_auc(density, positive), 4),
        f"agreement_at_{H_CUTS[0]:g}": round(float(((density >= H_CUTS[0]) == positive).mean()), 4),
        "best_cut_off": float(CUTS[agreement.argmax()]),
        "agreement_at_best": round(float(agreement.max()), 4),
        "median_positive": round(float(np.median(density[positive])), 3),
        "median_negative": round(float(np.median(density[~positive])), 3),
    }


def _auc(density: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Return the share of pairs of a positive and a negative in which the positive is denser; ties count half."""
    low = np.sort(density[~positive])
    below, up_to = (np.searchsorted(low, density[positive], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(low))


def _index_error(parts: Measured, cut: float) -> dict[str, float]:
    errors = [
        100 * ((density >= cut).mean() - positive.mean()) for density, positive in parts if len(density) >= MIN_NUCLEI
    ]
    return {
        "fields": len(errors),
        "mean": round(float(np.mean(errors)), 2),
        "rmse": round(float(np.sqrt(np.mean(np.square(errors)))), 2),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
