"""Time kinet-edge and the release's network on this CPU: benchmarks/results/cpu.json, the README's table of speeds.

The release's network has random weights, and a threshold that leaves few peaks, since only the time is measured.
kinet-edge-0 is the first kinet-edge, at full resolution. Run `python benchmarks/cpu.py` on an otherwise idle machine.
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

from kinet_trt.cli.commands.bench import show_bench
from kinet_trt.cli.progress import steps
from kinet_trt.core.files import write_atomic
from kinet_trt.evaluation.benchmark import Setting, measure, simulated_frame
from kinet_trt.inference.counter import NucleusCounter

SIDE, ROUNDS = 608, 9
HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "cpu.json"
FIRST = HERE / "models" / "kinet-edge-0.onnx"


def release_onnx(folder: Path) -> Path:
    """Write the release's network at width 32, nucleus branch only."""
    torch.manual_seed(0)
    network = build(NetworkConfig("release", 32, "elu", roi=False)).eval()
    model = export(Checkpoint(network, replace(ModelInfo(), threshold=50.0)), "release-32", "fp32", False, False)
    path = folder / "release-32.onnx"
    path.write_bytes(model.data)
    return path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        fast = NucleusCounter().engine.precision  # BF16 if this CPU has AMX
        precisions = dict.fromkeys((fast, "fp32"))
        models = (None, FIRST, release_onnx(Path(folder)))
        settings = [Setting(None, "int8"), *(Setting(model, precision) for model in models for precision in precisions)]
        with steps("Timing") as report:
            document = measure(settings, simulated_frame(SIDE, SIDE), ROUNDS, eager_pytorch, report)
    show_bench(document["rows"])
    write_atomic(RESULT, json.dumps(document, indent=1) + "\n")
    print(RESULT)
