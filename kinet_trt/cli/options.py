"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinet_trt.core.errors import KinetError, MissingExtraError
from kinet_trt.core.ki67 import NET
from kinet_trt.core.units import MAX_MPP, MIN_MPP, is_mpp

if TYPE_CHECKING:
    from kinet_trt.core.stain_scoring import StainRules
    from kinet_trt.inference.counter import Threshold

GRADE_RANGES = {"net": NET, "none": None}
"""Grade ranges by the value of ``--bands``."""


def parse_mpp(text: str) -> float:
    """Return a pixel size in um/px; a decimal comma is read as a point."""
    try:
        mpp = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        mpp = float("nan")
    if not is_mpp(mpp):
        raise typer.BadParameter(f"expected µm/px from {MIN_MPP:g} to {MAX_MPP:g}, like 0.34, found {text!r}")
    return mpp


def parse_size(text: str) -> tuple[int, int]:
    """Return the width and height of a value of ``--size``, px."""
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if min(width, height) < 1:
        raise typer.BadParameter(f"--size: expected WxH (width x height) like 1920x1200, found {text!r}")
    return width, height


def parse_threshold(text: str | None) -> Threshold | None:
    """Return the threshold of ``--threshold``; a decimal comma is read as a point."""
    from kinet_trt.inference.counter import Threshold

    try:
        return Threshold.parse(text.replace(",", ".")) if text else None
    except KinetError as error:
        raise typer.BadParameter(str(error)) from None


def parse_density(text: str) -> float:
    """Return an optical density; a decimal comma is read as a point."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise typer.BadParameter(f"expected an optical density like 0.25, found {text!r}") from None


def parse_stain(positive_above: float | None, h_score: bool, h_score_cuts: str | None) -> StainRules:
    """Return the rules of ``--positive-above``, ``--h-score`` and ``--h-score-cuts``."""
    from kinet_trt.core.stain_scoring import H_CUTS, StainRules

    cuts = H_CUTS if h_score else None
    if h_score_cuts is not None:
        try:
            weak, moderate, strong = (float(cut) for cut in h_score_cuts.split(","))
        except ValueError:
            raise typer.BadParameter(
                f"--h-score-cuts: expected three optical densities like 0.2,0.4,0.6, found {h_score_cuts!r}"
            ) from None
        cuts = (weak, moderate, strong)
    try:
        return StainRules(positive_above, cuts)
    except KinetError as error:
        raise typer.BadParameter(str(error)) from None


def parse_pattern(text: str | None) -> re.Pattern[str] | None:
    """Return the regular expression of ``--pattern``, which has one group."""
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise typer.BadParameter(f"--pattern: expected a regular expression, found {text!r}: {error}") from None
    if pattern.groups != 1:
        raise typer.BadParameter(
            f"--pattern: expected a regular expression with one group for the case, like '^([^_]+)_', found {text!r}"
        )
    return pattern


def require(command: str, extra: str, *modules: str) -> None:
    """Raise a MissingExtraError unless the packages of an extra can be imported."""
    from importlib.util import find_spec

    for module in modules:
        missing = sys.modules[module] is None if module in sys.modules else find_spec(module) is None
        if missing:
            raise MissingExtraError(f"kinet-trt {command}", extra, module)


ModelOption = Annotated[
    Path | None, typer.Option("--model", "-m", help="Model file, .onnx or .engine. Default: the built-in model.")
]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Numeric precision.")]
RuntimeOption = Annotated[
    Literal["auto", "openvino", "onnxruntime"], typer.Option("--runtime", help="Inference runtime.")
]
MppOption = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        parser=parse_mpp,
        metavar="UM/PX",
        help="Pixel size, like 0.34. Default: from the file, else the model's.",
    ),
]
FieldsMppOption = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        parser=parse_mpp,
        metavar="UM/PX",
        help="Pixel size of the fields. Default: from the file, else 0.34.",
    ),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option("--threshold", metavar="T", help="Minimum peak height; relative:T is relative to the highest peak."),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Number of CPU threads. Default: all.")]
HotSpotOption = Annotated[int, typer.Option("--hot-spot", min=10, help="Hot-spot size in tumour nuclei.")]
HotSpotsOption = Annotated[
    int | None,
    typer.Option("--hot-spots", min=1, max=100, metavar="N", help="Find N hot spots that do not overlap, best first."),
]
ProtocolOption = Annotated[
    Literal["net", "breast-global", "breast-hot-spot"] | None,
    typer.Option("--protocol", help="Counting protocol: hot spot of NET, or IKWG's for breast; sets its ranges."),
]
BandsOption = Annotated[Literal["net", "none"], typer.Option("--bands", help="Grade ranges: those of NET, or none.")]
PatternOption = Annotated[
    str | None,
    typer.Option(
        "--pattern", metavar="REGEX", help="Pool the files of a case: it is the group of this pattern in their names."
    ),
]
CaseOption = Annotated[
    str | None, typer.Option("--case", metavar="COLUMN", help="Pool the rows of a case, named in this column.")
]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write JSON; - writes to standard output.")
]
CsvOption = Annotated[
    str | None,
    typer.Option("--csv", metavar="FILE", help="Write CSV, one row per nucleus; - writes to standard output."),
]
FormatOption = Annotated[
    Literal["table", "plain", "json"],
    typer.Option("--format", help="Standard output: a table, tab-separated rows, or JSON."),
]
