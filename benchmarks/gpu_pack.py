"""Prepare the files that benchmarks/gpu_check.sh takes to a GPU machine without network access.

`python benchmarks/gpu_pack.py [FOLDER] [--packer pack_tensorrt.py]`, FOLDER defaults to .gpu. It gets

- models/release-32-fp16.onnx, models/release-32-int8.onnx: the release's network at width 32, random weights,
  only for timing;
- models/kinet-edge-int8.onnx: the shipped model from `kinet-trt build --precision int8` on simulated fields;
- tensorrt/part-00, part-01, ...: TensorRT for RTX in parts for a size-limited upload, if its packer is available
  (beside the repository, in ../shared/tensorrt, or --packer). Each part has a copy of the packer.

Existing files are kept. The parts contain NVIDIA's binaries: never commit FOLDER.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.simulation import simulate

ROOT = Path(__file__).resolve().parent.parent
PACKER = ROOT.parent / "shared" / "tensorrt" / "pack_tensorrt.py"
FIELDS, SIDE = 32, 320
RELEASE_THRESHOLD = 50.0
"""Threshold above nearly all values with random weights."""


def release(folder: Path, width: int = 32) -> None:
    """Write the release's network in FP16 and INT8 (without the first and last layer; ranges from two small crops)."""
    import torch
    from kinet_trt.calibration import ranges, sensitivity
    from kinet_trt.export.checkpoint import Checkpoint, ModelInfo
    from kinet_trt.export.networks.base import NetworkConfig
    from kinet_trt.export.networks.registry import build
    from kinet_trt.export.to_onnx import export

    from kinet_trt.models.model import Model
    from kinet_trt.onnx_graph import qdq
    from kinet_trt.onnx_graph.precision import weights_to_fp32

    half, quantised = folder / "release-32-fp16.onnx", folder / "release-32-int8.onnx"
    if half.is_file() and quantised.is_file():
        return
    torch.manual_seed(0)
    network = build(NetworkConfig("release", width, "elu", roi=False)).eval()
    checkpoint = Checkpoint(network, replace(ModelInfo(), threshold=RELEASE_THRESHOLD))
    write_atomic(half, export(checkpoint, "release-32", "fp16", False, False).data)

    model = export(checkpoint, "release-32", "fp32", False, False)
    graph = weights_to_fp32(model.graph)
    tensors = [name for group in qdq.groups(graph, ()) for name in group]
    crops = [simulate.field(seed, 128, 128)[0] for seed in (1, 2)]
    histograms = ranges.cached(None, graph, tensors, crops, lambda *_: None)
    names = [layer.name for layer in qdq.layers(graph)]
    floating = (names[0], names[-1])
    made = qdq.insert(graph, sensitivity.steps(graph, histograms, floating), floating)
    card = replace(model.card, precision="int8", weights_precision="int8")
    write_atomic(quantised, Model.from_graph(made, card).data)


def edge(folder: Path) -> None:
    """Write the shipped model in INT8, calibrated on simulated fields."""
    from kinet_trt.deploy.build import build
    from kinet_trt.io.overlay import to_png

    path = folder / "kinet-edge-int8.onnx"
    if path.is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(FIELDS):
            pixels, truth = simulate.field(seed, SIDE, SIDE)
            write_atomic(Path(scratch) / f"{seed}.png", to_png(pixels))
            with (Path(scratch) / f"{seed}.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("x", "y", "class"))
                rows.writerows((x, y, CLASSES[c]) for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True))
        # For timing only: simulated fields do not show the accuracy of INT8 on real ones.
        built = build(None, path, "int8", calibration=Path(scratch), max_loss=5)
    print(f"{path.name}: {built.card.quantisation}")


def tensorrt(folder: Path, packer: Path) -> None:
    """Pack TensorRT for RTX for Python 3.12, with the packer in each part."""
    if not packer.is_file():
        print(f"no packer at {packer}: everything except TensorRT for RTX can still be measured")
        return
    if not folder.is_dir():
        command = [sys.executable, packer, "pack", folder, "--flavour", "rtx", "--python", "3.12"]
        if subprocess.run(command, check=False).returncode:
            sys.exit("gpu_pack: TensorRT for RTX could not be packed; the models are there")
    for part in folder.glob("part-*"):
        shutil.copyfile(packer, part / "pack_tensorrt.py")


def main() -> None:
    """Prepare all files and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / ".gpu")
    parser.add_argument("--packer", type=Path, default=PACKER)
    given = parser.parse_args()
    models = given.folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    try:
        release(models)
        edge(models)
    except KinetError as error:
        sys.exit(f"gpu_pack: {error}")
    tensorrt(given.folder / "tensorrt", given.packer)
    for path in [models, *sorted((given.folder / "tensorrt").glob("part-*"))]:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{size / 2**20:6.1f} MiB  {path}")


if __name__ == "__main__":
    main()
