"""``kinet-trt build``: compile a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinet_trt.cli.options import parse_size, require
from kinet_trt.cli.progress import stages
from kinet_trt.cli.terminal import print_lines, stdout_console
from kinet_trt.core.errors import printable
from kinet_trt.core.notice import NOTICE

if TYPE_CHECKING:
    from kinet_trt.calibration.int8 import Quantised
    from kinet_trt.deploy.build import Built, Speed


def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: NAME.engine (TensorRT) or NAME.onnx (CPU).")],
    model: Annotated[Path | None, typer.Argument(help="Model file, a .onnx. Default: the built-in model.")] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Default: fp16, or the model's own."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fields to calibrate int8 on, preferably labelled.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WxH", help="Width and height of frames, px. Repeated: a range, fastest at the first. Default: any."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Maximum number of frames at a time.")] = 1,
    fused: Annotated[bool, typer.Option("--fused", help="Find the nuclei inside the model: no code after it.")] = False,
    runtime: Annotated[
        Literal["auto", "tensorrt", "tensorrt-rtx"], typer.Option(help="Builder of an engine.")
    ] = "auto",
    max_loss: Annotated[float, typer.Option(min=0, max=100, help="Maximum loss of F1 by int8, in points.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace a NAME.engine.json that is no model card.")] = False,
) -> None:
    """Compile a model. The result is a TensorRT engine, or an ONNX model in another precision for the CPU."""
    require("build", "build", "onnx", *(["lap"] if precision == "int8" else []))
    from kinet_trt.deploy import build as builder

    with stages("Building") as report:
        built = builder.build(
            model,
            out,
            precision,
            calibration=calibration,
            sizes=[(height, width) for width, height in map(parse_size, size or [])],
            batch=batch,
            fused=fused,
            runtime=runtime,
            max_loss=max_loss,
            force=force,
            timed=True,
            report=report,
        )
    print_lines(stdout_console(), list(_summary(built)))


def _summary(built: Built) -> Iterator[str]:
    """Yield lines on a build: file, frame sizes, loss of accuracy."""
    from kinet_trt.engines.tensorrt.engine_file import card_path

    card, path = built.card, built.path
    yield f"{path}: {card.name} in {card.precision}, {path.stat().st_size / 1e6:.1f} MB, {built.seconds:.1f} s"
    if built.quantised:
        yield from (f"  INT8     {line}" for line in _int8(built.quantised))
    if same := built.fp16_agreement:
        yield (
            f"  FP16     on a simulated field: {same.same} nuclei found in FP16 and FP32, {same.only_second} only in "
            f"FP16, {same.only_first} only in FP32"
        )
    if built.speed:
        yield f"  speed    {_speed(built.speed)}"
    if card.capacity:
        yield f"  fused    finds up to {card.capacity:,} nuclei per frame"
    if card.profile:
        (_, *smallest), (_, *fastest), (batch, *largest) = card.profile
        low, best, high = (f"{width}x{height}" for height, width in (smallest, fastest, largest))
        size = low if low == high else f"{low} to {high}, fastest at {best}"
        number = f"up to {batch} at a time" if batch > 1 else "one at a time"
        yield f"  frames   {size} px (width x height), {number}"
        yield f"  runtime  {card.runtime} {card.runtime_version}"
        yield f"  GPU      {card.gpu}"
        yield f"  card     {card_path(path)}: keep it beside the engine"
    yield NOTICE


def _speed(speed: Speed) -> str:
    """Return the speed of a built model on this machine."""
    if speed.skipped:
        return speed.skipped
    ratio = speed.ratio
    compared = f"{ratio:.1f} times faster than FP32" if ratio > 1.05 else "as fast as FP32"
    if ratio < 0.95:
        compared = f"{1 / ratio:.1f} times slower than FP32"
    height, width = speed.size
    return (
        f"{compared} on this machine: {speed.after_ms:.0f} ms instead of {speed.before_ms:.0f} ms for a field of "
        f"{width}x{height} px"
    )


def _int8(done: Quantised) -> Iterator[str]:
    """Yield lines on the calibration of INT8 and its cost."""
    choice, floating, cost = done.choice, done.layers.floating, done.cost
    left = {
        "glass": choice.glass,
        "without colour": choice.grey,
        "duplicate": choice.duplicates,
        "unreadable": choice.unreadable,
    }
    out = ", ".join(f"{len(paths)} {why}" for why, paths in left.items() if paths)
    yield f"calibrated on {len(choice.calibration)} images{f' (skipped: {out})' if out else ''}: " + ", ".join(
        printable(picture.path.name) for picture in choice.calibration
    )
    if floating:
        yield f"{len(floating)} layers stay in floating point: {', '.join(floating)}"
    detection, classification = cost.against_fp32
    yield (
        f"on {cost.images} other images, with the FP32 result as ground truth: detection F1 {detection:.3f}, "
        f"classification F1 {classification:.3f}"
    )
    if cost.before and cost.after:
        yield (
            f"on {cost.labelled} labelled nuclei, FP32 -> INT8: detection F1 {cost.before[0]:.3f} -> "
            f"{cost.after[0]:.3f}, classification F1 {cost.before[1]:.3f} -> {cost.after[1]:.3f}"
        )
    how = "" if cost.from_labels else ", estimated from the nuclei that changed"
    yield f"loss: {max(0.0, cost.loss):.2f} points of F1{how}"
