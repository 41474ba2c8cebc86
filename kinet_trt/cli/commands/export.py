"""``kinet-trt export``: convert a checkpoint to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kinet_trt.cli.options import require
from kinet_trt.cli.outputs import check_names


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of kinet-trt train.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write, a .onnx.")],
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Precision of weights and computation.")] = "fp32",
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Store FP16, compute in FP32: half the file size.")
    ] = False,
    roi: Annotated[bool, typer.Option("--roi", help="Output the tumour-region map, too.")] = False,
    images: Annotated[Path | None, typer.Option(help="Images to compare on. Default: simulated fields.")] = None,
) -> None:
    """Convert a checkpoint to an ONNX model. It gets a model card and is compared with PyTorch."""
    require("export", "train", "torch", "onnx", "onnxscript", "onnxsim")
    from kinet_trt.export.parity import export_file

    check_names({"--out": str(out)}, out=(".onnx",))
    card, parity = export_file(checkpoint, out, precision, half_weights, roi, images)
    same = parity.agreement
    typer.echo(f"{out}: {card.network}, {card.precision}, {out.stat().st_size / 1e6:.1f} MB")
    typer.echo(
        f"Compared with PyTorch on {parity.images} fields: max error {parity.max_error:.2g}; "
        f"{same.same} detections the same, {same.only_first} only in PyTorch, {same.only_second} only in ONNX."
    )
