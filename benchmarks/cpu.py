"""Time kinet-edge and the release's network on this CPU: benchmarks/results/cpu.json, the README's table of speeds.

The release's network has random weights, and a threshold that leaves few peaks, since only the time is measured.
kinet-edge in INT8 is calibrated on simulated fields. Run `python benchmarks/cpu.py` on an otherwise idle machine.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from kinet_trt.export.baselines import eager_pytorch
from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.to_onnx import export
from PIL import Image

from kinet_trt.cli.commands.bench import show_bench
from kinet_trt.cli.progress import steps
from kinet_trt.core.files import write_atomic
from kinet_trt.deploy.build import build as build_model
from kinet_trt.evaluation.benchmark import Setting, measure, simulated_frame
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.simulation import simulate

SIDE, ROUNDS = 608, 15
CALIBRATION = 36
RESULT = Path(__file__).resolve().parent / "results" / "cpu.json"


def release_onnx(folder: Path) -> Path:
    """Write the release's network at width 32, nucleus branch only."""
    torch.manual_seed(0)
    network = build(NetworkConfig("release", 32, "elu", roi=False)).eval()
    model = export(Checkpoint(network, replace(ModelInfo(), threshold=50.0)), "release-32", "fp32", False, False)
    path = folder / "release-32.onnx"
    path.write_bytes(model.data)
    return path


def int8_onnx(folder: Path) -> Path:
    """Write kinet-edge in INT8."""
    (fields := folder / "fields").mkdir()
    for seed in range(CALIBRATION):
        pixels, truth = simulate.field(2_000 + seed, SIDE, SIDE)
        Image.fromarray(pixels).save(fields / f"{seed}.png")
        rows = [f"{x},{y},{simulate.CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
        (fields / f"{seed}.csv").write_text("\n".join(["x,y,class", *rows]))
    path = folder / "edge-int8.onnx"
    build_model(None, path, "int8", calibration=fields)
    return path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        models = (None, int8_onnx(Path(folder)), release_onnx(Path(folder)))
        fast = NucleusCounter().engine.precision  # BF16 if this CPU has AMX
        settings = [Setting(model, precision) for model in models for precision in dict.fromkeys((fast, "fp32"))]
        with steps("Timing") as report:
            document = measure(settings, simulated_frame(SIDE, SIDE), ROUNDS, eager_pytorch, report)
    show_bench(document["rows"])
    write_atomic(RESULT, json.dumps(document, indent=1) + "\n")
    print(RESULT)
