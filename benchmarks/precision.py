"""Accuracy of engines and numeric precisions: benchmarks/results/precision.json.

`python benchmarks/precision.py FIELDS [CHECKPOINT]`: F1 of kinet-edge in each engine and precision, all fields pooled
and by source; with a checkpoint also the detections of its FP32 export in each engine, compared with PyTorch on 20
fields.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from kinet_trt.export import checkpoint
from kinet_trt.export.to_onnx import Deployed, export

from kinet_trt.cli.progress import track
from kinet_trt.core.errors import EngineError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import fit
from kinet_trt.core.runtimes import CPU_RUNTIMES
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.evaluation.agreement import Agreement
from kinet_trt.evaluation.benchmark import machine
from kinet_trt.evaluation.evaluate import Evaluation, evaluate_field
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.peaks.reference import find_peaks

RESULT = Path(__file__).resolve().parent / "results" / "precision.json"
SETTINGS = [("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "fp16"), ("onnxruntime", "fp32")]
FIELDS = 20


def f1(fields: Sequence[LabelledField]) -> list[dict[str, Any]]:
    """Return F1 of the shipped model for each setting available on this machine."""
    rows = []
    for runtime, precision in SETTINGS:
        try:
            counter = NucleusCounter(runtime=runtime, precision=precision)
        except EngineError as error:
            print(f"{runtime} {precision}: {error}")
            continue
        evaluation = Evaluation(tuple(evaluate_field(counter, f) for f in track(fields, f"{runtime} {precision}")))
        pooled = {"together": evaluation.at_threshold, **evaluation.by_source()}
        figures = {
            name: {"detection": round(c.detection.f1, 5), "classification": round(c.weighted[2], 5)}
            for name, c in pooled.items()
        }
        rows.append({"runtime": counter.engine.runtime, "precision": precision, "f1": figures})
        print(rows[-1]["runtime"], precision, figures["together"])
    return rows


def parity(fields: Sequence[LabelledField], path: Path) -> list[dict[str, Any]]:
    """Compare the FP32 export of a checkpoint with eager PyTorch in each engine."""
    trained = checkpoint.load(path)
    network = Deployed(trained.network, trained.info, roi=False).eval()
    model = export(trained, path.stem, "fp32", False, False)
    card, rows = model.card, []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "k.onnx"
        file.write_bytes(model.data)
        for runtime in CPU_RUNTIMES:
            counter = NucleusCounter(file, precision="fp32", runtime=runtime)
            total = Agreement(0, 0, 0)
            for f in track(fields[:: max(1, len(fields) // FIELDS)][:FIELDS], runtime):
                frame = f.frame()
                pixels = fit(frame, card.mpp, card.multiple).pixels[None]
                with torch.inference_mode():
                    expected = network(torch.tensor(pixels))[0][0].numpy()
                pair = (expected, counter.engine.run(pixels)[0])
                total += Agreement.between(*(find_peaks(m, card.threshold, card.nms_radius) for m in pair))
            rows.append({"runtime": counter.engine.runtime, "same": total.same, "only_pytorch": total.only_first})
            rows[-1]["only_engine"] = total.only_second
            print(rows[-1])
    return rows


if __name__ == "__main__":
    if not find_spec("onnxruntime"):
        sys.exit("onnxruntime is missing: pip install 'kinet-trt[onnxruntime]'")
    everything = read_fields(Path(sys.argv[1]))
    document = {"schema": 1, "machine": machine(), "fields": len(everything), "f1": f1(everything)}
    if len(sys.argv) > 2:
        document["fp32_against_pytorch"] = parity(everything, Path(sys.argv[2]))
    write_atomic(RESULT, json.dumps(document, indent=1) + "\n")
