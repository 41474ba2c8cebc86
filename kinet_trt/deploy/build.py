"""``kinet-trt build``: compile an ONNX model to a TensorRT engine, or convert its precision for the CPU runtimes.

The steps run in this order: numeric precision, for all runtimes; the peak search, if the model is to be fused;
then TensorRT, which keeps the types of the graph.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kinet_trt.calibration.int8 import MAX_LOSS
from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import Frame
from kinet_trt.core.user_folders import user_cache
from kinet_trt.cuda.driver import query_driver
from kinet_trt.engines.open import open_model
from kinet_trt.engines.tensorrt import builder as trt
from kinet_trt.engines.tensorrt.engine_file import AMPERE, TURING, card_path, gpu_label, rtx_target, write_plan
from kinet_trt.inference.counter import NucleusCounter, find_nuclei
from kinet_trt.models.card import ModelCard, Profile
from kinet_trt.models.model import DEFAULT_MODEL, Model
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

if TYPE_CHECKING:
    from kinet_trt.calibration.int8 import Quantised
    from kinet_trt.evaluation.agreement import Agreement

log = logging.getLogger(__name__)

BUILD_PRECISIONS = ("fp32", "fp16", "int8")
SUFFIXES = (".engine", ".onnx")
FIELD_SIDE = 320
"""Side, px, of the simulated field on which FP16 is compared with FP32."""
MIN_NUCLEI = 20
"""Minimum number of nuclei that FP32 must find in this field for a meaningful comparison."""
TIMED_SIDE, TIMED_SECONDS = 512, 2.0
"""Side, px, of the simulated field on which the result is timed, and approximate duration, s."""
MIN_SIDE = 32
"""Minimum side, px, of frames for an engine built for any size: smaller images are not counted."""
Size = tuple[int, int]
"""Height and width, px."""


@dataclass(frozen=True)
class Built:
    """A compiled model.

    Attributes
    ----------
    path, card
        The file and its model card.
    seconds
        Duration of the build.
    quantised
        Quantization and its F1 loss; None if nothing was quantized.
    fp16_agreement
        Agreement of FP16 and FP32 on a simulated field; None if nothing was converted to FP16.
    speed
        Speed on this machine; None if not requested.
    """

    path: Path
    card: ModelCard
    seconds: float
    quantised: Quantised | None = None
    fp16_agreement: Agreement | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class Speed:
    """Time to count a simulated field on this machine, with the built model and with its FP32 source."""

    before_ms: float = 0.0  # median with the source, measured alternately with the other; 0 if not measured
    after_ms: float = 0.0  # median with the built model
    size: Size = (0, 0)  # height and width of the field, px
    skipped: str = ""  # why the speed was not measured, as a message; empty if it was

    @property
    def ratio(self) -> float:
        """Speed-up of the built model; below 1 if it is slower than the source."""
        return self.before_ms / self.after_ms


def build(
    model: Path | None,
    out: Path,
    precision: str | None = None,
    *,
    calibration: Path | None = None,
    sizes: Sequence[Size] = (),
    batch: int = 1,
    fused: bool = False,
    runtime: str = "auto",
    max_loss: float = MAX_LOSS,
    force: bool = False,
    timed: bool = False,
    report: trt.Report = trt.silent,
) -> Built:
    """Compile a model.

    Parameters
    ----------
    model
        An ONNX file with a model card; None for the built-in model.
    out
        Output file: ``.engine`` for a TensorRT engine, ``.onnx`` for the CPU runtimes.
    precision
        ``"fp32"``, ``"fp16"`` or ``"int8"``; defaults to the precision of a converted or fused model, else to FP16.
    calibration
        Folder of images (labelled or not) for INT8; required unless the model is already INT8.
    sizes
        Frame sizes (height, width), px, rounded up to the model's alignment; defaults to all tile sizes of ``count``.
        An engine for several sizes accepts all in between and is optimised for the first; one size is fastest.
    batch
        Maximum number of frames per run.
    fused
        Whether to include the peak search: the model then outputs nuclei instead of maps.
    runtime
        ``"tensorrt"``, ``"tensorrt-rtx"``, or ``"auto"``: TensorRT if it is installed, else TensorRT for RTX.
    max_loss
        Maximum F1 loss in INT8, percentage points.
    force
        Replace a ``NAME.engine.json`` that is not a model card.
    timed
        Also time the built model against its FP32 source, for about 3 s.
    report
        Called with the current step, its progress and its total.

    Raises
    ------
    KinetError
        If the model cannot be read or converted, its F1 loss in INT8 is too large, or TensorRT is missing or fails.
        An existing file at ``out`` is then unchanged.
    """
    started = time.monotonic()
    _check(model, out, precision, calibration, sizes, batch, fused, force)
    library = trt.load_library(trt.find_runtime(runtime)) if _is_engine(out) else None
    gpu = _target(library) if library else ""
    source = Model.read(model or DEFAULT_MODEL)
    sizes = align_sizes(sizes, source.card.multiple)
    # Precision comes first: it cannot be changed in a fused model.
    if precision is None:
        precision = "fp16" if source.card.precision == "fp32" and not source.card.capacity else source.card.precision
    model_out, quantised, agreement = source, None, None
    if precision == "int8":
        if source.card.precision != "int8":
            quantised = _quantize(source, calibration, max_loss, report)
            model_out = quantised.model
        if library and model_out.card.capacity:
            log.warning(
                "the unquantized layers of this fused INT8 model stay in FP32. To convert them, build from the unfused "
                "INT8 model with fused=True"
            )
        elif library:
            from kinet_trt.onnx_graph.precision import float_layers_to_fp16

            model_out = float_layers_to_fp16(model_out)
    else:
        model_out = _convert(source, precision)
        agreement = _agreement(source, model_out) if model_out.card.precision != source.card.precision else None
    profile = make_profile(model_out.card, _sizes(model_out, sizes), batch) if library else None
    if fused:
        from kinet_trt.onnx_graph.fuse_peaks import fuse

        # The size of an engine is fixed when it is compiled.
        model_out = fuse(model_out, size=sizes[0] if sizes and not library else None)
    card = model_out.card
    if library is None or profile is None:
        write_atomic(out, model_out.data)
    else:
        card = _compile(library, model_out, replace(card, gpu=gpu, profile=profile), out, report)
    seconds = time.monotonic() - started
    return Built(out, card, seconds, quantised, agreement, measure_speed(source, out) if timed else None)


def measure_speed(source: Model, out: Path) -> Speed:
    """Time counting with a built model, the file ``out``, and with its source, alternately, on this machine."""
    if source.card.precision != "fp32" or source.card.capacity:
        return Speed(skipped="not measured: the source must be FP32 and unfused")
    try:
        after = NucleusCounter(out)
    except EngineError as error:
        return Speed(skipped="not measured: no GPU can run it" if _is_engine(out) else f"not measured: {error}")
    before = NucleusCounter(open_model(source, precision="fp32"))
    size = after.card.profile[1][1:] if after.card.profile else Model.read(out).frame_size
    height, width = size or (TIMED_SIDE, TIMED_SIDE)
    field = Frame(simulate.field(1, width, height)[0], after.card.mpp)
    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    # The first round, which compiles and allocates, is not timed.
    while len(times[0]) < 4 or (time.perf_counter() - begin < TIMED_SECONDS and len(times[0]) < 50):
        for counter, durations in zip((before, after), times, strict=True):
            start = time.perf_counter()
            counter(field)
            durations.append(time.perf_counter() - start)
    first, second = (1000 * float(np.median(durations[1:])) for durations in times)
    return Speed(first, second, (height, width))


def make_profile(card: ModelCard, sizes: Sequence[Size], batch: int) -> Profile:
    """Return the minimum, optimum and maximum shape [N, H, W] that an engine accepts.

    ``sizes`` are as in :func:`build`, aligned; the largest tile with its halo is the default maximum. The engine
    accepts any number of frames per run up to ``batch``.
    """
    if not sizes:
        side = card.tile + 2 * card.halo
        sizes = [(side, side), (MIN_SIDE, MIN_SIDE)]
    heights, widths = zip(*sizes, strict=True)
    return (1, min(heights), min(widths)), (batch, *sizes[0]), (batch, max(heights), max(widths))


def align_sizes(sizes: Sequence[Size], multiple: int) -> list[Size]:
    """Round sizes up to a model's alignment, with a warning: frames are padded to it."""
    aligned = []
    for h, w in sizes:
        height, width = -(-h // multiple) * multiple, -(-w // multiple) * multiple
        if (height, width) != (h, w):
            log.warning("%d x %d px: built for %d x %d, multiples of %d", w, h, width, height, multiple)
        aligned.append((height, width))
    return aligned


def _sizes(model: Model, sizes: Sequence[Size]) -> Sequence[Size]:
    """Return the sizes to build for: the model's own if it accepts only one."""
    fixed = model.frame_size
    if fixed is None:
        return sizes
    if any(size != fixed for size in sizes):
        raise KinetError(
            f"{model.card.name} accepts only frames of {fixed[1]} x {fixed[0]} px (width x height). Omit the sizes, or "
            "start from a model that accepts frames of any size"
        )
    return [fixed]


def _is_engine(out: Path) -> bool:
    return out.suffix.lower() == ".engine"


def _check(
    model: Path | None,
    out: Path,
    precision: str | None,
    calibration: Path | None,
    sizes: Sequence[Size],
    batch: int,
    fused: bool,
    force: bool,
) -> None:
    """Raise a KinetError for invalid arguments, before any work."""
    if out.suffix.lower() not in SUFFIXES:
        raise KinetError(
            f"{out}: expected a name ending in .engine (TensorRT) or .onnx (CPU), found {out.suffix or 'no suffix'}"
        )
    if model is not None and os.path.abspath(model) == os.path.abspath(out):
        raise KinetError(f"{out}: the output must not replace the input model. Choose another name")
    if out.is_dir():
        raise KinetError(f"{out}: expected a file name, found a folder")
    if precision not in (None, *BUILD_PRECISIONS):
        raise KinetError(f"precision: expected {', '.join(BUILD_PRECISIONS)}, found {precision!r}")
    if batch < 1 or any(min(size) < 1 for size in sizes):
        found = ", ".join(f"{width} x {height} px" for height, width in sizes)
        raise KinetError(f"sizes and batch: expected positive numbers, found {found or 'no size'} and {batch}")
    if not _is_engine(out) and (batch > 1 or len(sizes) > fused):
        raise KinetError(
            "sizes and batch apply to an .engine only. An .onnx accepts frames of any size and number (a fused one may "
            "have one fixed size)"
        )
    card_file = card_path(out)
    if _is_engine(out) and card_file.exists() and not force and not _is_card(card_file):
        raise KinetError(f"{card_file}: expected an engine's model card, found another file. Rename it, or use force")
    if calibration is not None and precision != "int8":
        raise KinetError("calibration: calibration images are used for the precision int8 only")


def _is_card(path: Path) -> bool:
    """Return whether a file looks like the card of an engine, damaged or not."""
    try:
        with path.open("rb") as file:
            return b'"model_sha256"' in file.read(1 << 20)
    except OSError:
        return False


def _convert(model: Model, precision: str) -> Model:
    from kinet_trt.onnx_graph.precision import convert  # needs onnx

    return convert(model, precision)


def _agreement(full: Model, half: Model) -> Agreement | None:
    """Compare FP16 with FP32 on a simulated field: sums may overflow half precision even if the weights do not."""
    if find_spec("onnxruntime") is None:
        log.warning('FP16 was not compared with FP32, which needs ONNX Runtime: pip install "kinet-trt[build]"')
        return None
    from kinet_trt.evaluation.agreement import Agreement

    card = full.card
    side = -(-FIELD_SIDE // card.multiple) * card.multiple
    pixels, _ = simulate.field(1, side, side)
    expected = find_nuclei(open_model(full, runtime="onnxruntime"), pixels, card.threshold)
    maps = open_model(half, runtime="onnxruntime").run(pixels[None])[0]
    # ONNX Runtime computes an FP16 graph partly in FP32 and hides an overflow: look at the sums in FP32 as well.
    if not np.isfinite(maps).all() or _largest_sum(full, pixels) > float(np.finfo(np.float16).max):
        raise KinetError(f"{card.name} overflows half precision. Use the precision fp32")
    if len(expected) < MIN_NUCLEI:
        log.warning(
            "FP16 could not be compared with FP32: %s finds %d nuclei in the simulated field, expected at least %d. "
            "Compare both on some of your fields",
            card.name, len(expected), MIN_NUCLEI,
        )  # fmt: skip
        return None
    return Agreement.between(expected, find_peaks(maps, card.threshold, card.nms_radius, card.classes))


def _largest_sum(model: Model, pixels: NDArray[np.uint8]) -> float:
    """Return the largest magnitude of the results of convolutions and additions on a field, in FP32; 0 if unknown."""
    if find_spec("openvino") is None:
        return 0.0
    from kinet_trt.calibration.ranges import observe

    sums = [node.output[0] for node in model.graph.graph.node if node.op_type in ("Conv", "ConvTranspose", "Add")]
    return max((histogram.largest for histogram in observe(model.graph, sums, [pixels]).values()), default=0.0)


def _quantize(model: Model, calibration: Path | None, max_loss: float, report: trt.Report) -> Quantised:
    from kinet_trt.onnx_graph.precision import check_convertible

    check_convertible(model.card, "int8")
    if calibration is None:
        raise KinetError(
            "precision int8: expected a calibration folder with dozens of fields like those to count, ideally with "
            "labels (images and .csv files of the same name)"
        )
    from kinet_trt.calibration.int8 import to_int8

    return to_int8(_convert(model, "fp32"), calibration, max_loss=max_loss, cache=user_cache(), report=report)


def _target(library: trt.Library) -> str:
    """Return the GPU to build for, as the model card states it."""
    try:
        gpu = query_driver().gpus[0]
    except EngineError as error:
        if library.is_rtx:
            return AMPERE
        raise EngineError(
            f"{library.name} needs the GPU that will run the engine ({error}). To build without a GPU, use the "
            "runtime tensorrt-rtx"
        ) from None
    return rtx_target(gpu.capability) if library.is_rtx else gpu_label(gpu.name, gpu.capability)


def _compile(library: trt.Library, model: Model, card: ModelCard, out: Path, report: trt.Report) -> ModelCard:
    """Build the engine that a card describes, write the engine and its card, and return the completed card."""
    from kinet_trt.onnx_graph.precision import for_tensorrt

    assert card.profile
    smallest, _, largest = card.profile
    fixed = smallest == largest
    timing = _timing_file(library, card.gpu)
    plan, timings = trt.build_plan(
        library,
        for_tensorrt(model, largest if fixed else None).data,
        None if fixed else card.profile,
        # TF32 would change the results of FP32.
        tf32=card.precision != "fp32",
        turing=card.gpu == TURING,
        timing=_read_timing(timing),
        report=report,
    )
    digest = hashlib.sha256(plan).hexdigest()
    card = replace(card, runtime=library.name, runtime_version=library.version, model_sha256=digest)
    write_plan(out, plan, card)
    _write_timing(timing, timings)
    return card


# --- the timing cache -------------------------------------------------------------------------------------------------
# TensorRT times the implementations of each layer on the GPU, which takes minutes; the next build reuses the timings.
# The file begins with the sha256 of its content, which is checked before TensorRT parses it.


def _timing_file(library: trt.Library, gpu: str) -> Path | None:
    """Return the timing cache of this TensorRT on this GPU; None if timings are not cached."""
    folder = user_cache()
    if library.is_rtx or folder is None:
        return None
    return folder / (re.sub(r"[^a-z0-9.]+", "-", f"{library.name} {library.version} {gpu}".lower()) + ".timing")


def _read_timing(path: Path | None) -> bytes:
    try:
        content = path.read_bytes() if path else b""
    except OSError:
        return b""
    digest, timing = content[:32], content[32:]
    return timing if hashlib.sha256(timing).digest() == digest else b""


def _write_timing(path: Path | None, timing: bytes) -> None:
    if path is None or not timing:
        return
    try:
        write_atomic(path, hashlib.sha256(timing).digest() + timing)
    except KinetError as error:
        log.info("the timing cache was not saved, so the next build will not be faster: %s", error)
