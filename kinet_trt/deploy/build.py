"""``kinet-trt build``: an ONNX model becomes a TensorRT engine, or an ONNX model of another precision for the CPU.

Precision is settled in the ONNX first, for every runtime alike; then come the peaks, where they are wanted inside; then
TensorRT, which builds what the types say.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import Frame
from kinet_trt.core.user_folders import user_cache
from kinet_trt.cuda.driver import ask_driver
from kinet_trt.engines.tensorrt import builder as trt
from kinet_trt.engines.tensorrt.engine_file import AMPERE, TURING, card_path, gpu_in_words, target_of_rtx, write_plan
from kinet_trt.inference.counter import DEFAULT_MODEL, NucleusCounter
from kinet_trt.models.card import ModelCard, Profile, read_card
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

if TYPE_CHECKING:
    from kinet_trt.calibration.int8 import Quantised
    from kinet_trt.evaluation.agreement import Agreement

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
SUFFIXES = (".engine", ".onnx")
MAX_LOSS = 0.5
"""Points of F1 that INT8 may cost."""
FIELD_SIDE = 320
"""Side, px, of the simulated field on which FP16 is held to FP32."""
LEAST_NUCLEI = 20
"""Nuclei that FP32 must find in it; of fewer, equality says nothing."""
TIMED_SIDE, TIMED_SECONDS = 512, 2.0
"""Side, px, of the simulated field on which the result is timed, and for how long about."""
SMALLEST_SIDE = 32
"""Least side, px, of an engine built for any size: smaller pictures are not counted."""
Size = tuple[int, int]
"""Height and width, px."""


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes
    ----------
    path, card
        The file and its card.
    seconds
        How long it took.
    quantised
        What INT8 cost; None where nothing was quantised.
    halved
        How the nuclei of a simulated field in FP16 differ from those in FP32; None where nothing became FP16.
    speed
        How fast it is on this machine; None where that was not asked for.
    """

    path: Path
    card: ModelCard
    seconds: float
    quantised: Quantised | None = None
    halved: Agreement | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class Speed:
    """How long counting a simulated field takes on this machine, beside the FP32 model that was the source.

    Attributes
    ----------
    before_ms, after_ms
        Median time of a count with the source and with the result, taken in turn, ms; 0 where not measured.
    side
        Height and width of the field, px.
    why_not
        Why it was not measured; empty when it was.
    """

    before_ms: float = 0.0
    after_ms: float = 0.0
    side: Size = (0, 0)
    why_not: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster the result is; below 1 it is slower."""
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
        An ONNX file with a card; None: the small one that comes with the package.
    out
        What to write: ``.engine`` is a TensorRT plan, ``.onnx`` a model for the CPU engines.
    precision
        ``"fp32"``, ``"fp16"`` or ``"int8"``; None: what the model was converted to already, else FP16.
    calibration
        Folder of images (labelled or not) for INT8; needed unless the model is INT8 already.
    sizes
        Of the frames, px, rounded up to the model's alignment. One is the fast path; of several the engine takes
        anything between and is fastest at the first; none: every tile that ``count`` cuts.
    batch
        Most frames at a time.
    fused
        Whether finding the peaks is a part of the model: it then gives nuclei instead of maps.
    runtime
        ``"tensorrt"``, ``"tensorrt-rtx"``, or ``"auto"``: TensorRT where it is installed, else TensorRT for RTX.
    max_loss
        Points of F1 that INT8 may cost before it is refused.
    force
        Replace a ``NAME.engine.json`` that is no card of an engine.
    timed
        Also time the result beside the FP32 model that it was made from, for about 3 s.
    report
        Called with what is being done and how far it is.

    Raises
    ------
    KinetError
        If the model cannot be read or converted, loses too much in INT8, or TensorRT is missing or refuses it. What
        was at ``out`` is then as it was.
    """
    started = time.monotonic()
    _check(model, out, precision, calibration, sizes, batch, fused, force)
    library = trt.load(trt.find(runtime)) if _is_engine(out) else None
    gpu = _target(library) if library else ""
    card, onnx_model = _read(model)
    sizes = aligned(sizes, card.multiple)
    # What is fused stays as it is: precision comes first.
    precision = precision or ("fp16" if card.precision == "fp32" and not card.capacity else card.precision)
    quantised, halved = None, None
    if precision == "int8" and card.precision != "int8":
        onnx_model, card, quantised = _quantise(onnx_model, card, calibration, max_loss, report)
    elif precision != "int8":
        before = onnx_model, card
        onnx_model, card = _converted(onnx_model, card, precision)
        halved = _agreement(*before, onnx_model) if card.precision != before[1].precision else None
    if library and precision == "int8" and card.capacity:
        log.warning(
            "a fused INT8 model keeps FP32 where it is not INT8: begin with what it was made from, and fused=True"
        )
    elif library and precision == "int8":
        from kinet_trt.onnx_graph.precision import rest_in_half

        onnx_model = rest_in_half(onnx_model)
    profile = profile_of(card, _sizes(onnx_model, card, sizes), batch) if library else None
    if fused:
        onnx_model, card = _fuse(onnx_model, card, None if library else sizes)
    if library is None or profile is None:
        write_atomic(out, onnx_model)
    else:
        card = _compile(library, onnx_model, replace(card, gpu=gpu, profile=profile), out, report)
    seconds = time.monotonic() - started
    return Built(out, card, seconds, quantised, halved, speed_of(model, out) if timed else None)


def speed_of(model: Path | None, out: Path) -> Speed:
    """Time counting with a model and with what was built of it, in turn, on this machine.

    Parameters
    ----------
    model
        The source, as in :func:`build`.
    out
        What was built.
    """
    from kinet_trt.onnx_graph.precision import frame_size

    source, data = _read(model)
    if source.precision != "fp32" or source.capacity:
        return Speed(why_not=f"not measured: the source is no FP32 model that gives maps ({source.precision})")
    try:
        after = NucleusCounter(out)
    except EngineError as error:
        return Speed(why_not="not measured: no GPU that runs it" if _is_engine(out) else f"not measured: {error}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.onnx"
        path.write_bytes(data)
        before = NucleusCounter(path, precision="fp32")
    size = None if _is_engine(out) else frame_size(out.read_bytes())
    if after.card.profile:
        size = after.card.profile[1][1:]
    height, width = size or (TIMED_SIDE, TIMED_SIDE)
    field = Frame(simulate.field(1, width, height)[0], after.card.mpp)
    times: tuple[list[float], list[float]] = ([], [])
    begun = time.perf_counter()
    # The first round, which compiles and allocates, does not count.
    while len(times[0]) < 4 or (time.perf_counter() - begun < TIMED_SECONDS and len(times[0]) < 50):
        for counter, taken in zip((before, after), times, strict=True):
            start = time.perf_counter()
            counter(field)
            taken.append(time.perf_counter() - start)
    first, second = (1000 * float(np.median(taken[1:])) for taken in times)
    return Speed(first, second, (height, width))


def profile_of(card: ModelCard, sizes: Sequence[Size], batch: int) -> Profile:
    """Return the shapes [N, H, W] that an engine is to take: least, best, largest.

    Parameters
    ----------
    card
        For the largest tile, which with its halo is the largest size of the default.
    sizes
        As in :func:`build`, aligned.
    batch
        Most frames at a time; where it is more than one, the engine takes any number up to it.
    """
    if not sizes:
        side = card.tile + 2 * card.halo
        sizes = [(side, side), (SMALLEST_SIDE, SMALLEST_SIDE)]
    heights, widths = zip(*sizes, strict=True)
    return (1, min(heights), min(widths)), (batch, *sizes[0]), (batch, max(heights), max(widths))


def aligned(sizes: Sequence[Size], multiple: int) -> list[Size]:
    """Round sizes up to a model's alignment, and say so: frames are padded to it."""
    built = []
    for h, w in sizes:
        height, width = -(-h // multiple) * multiple, -(-w // multiple) * multiple
        if (height, width) != (h, w):
            log.warning("%dx%d px: built for %dx%d, multiples of %d", h, w, height, width, multiple)
        built.append((height, width))
    return built


def _sizes(model: bytes, card: ModelCard, sizes: Sequence[Size]) -> Sequence[Size]:
    """Return the sizes to build for: of a model that takes one size only, that one."""
    from kinet_trt.onnx_graph.precision import frame_size

    fixed = frame_size(model)
    if fixed is None:
        return sizes
    if any(size != fixed for size in sizes):
        raise KinetError(
            f"{card.name} takes frames of {fixed[1]}x{fixed[0]} px (width x height) only: leave sizes out, or begin "
            "with a model that takes any"
        )
    return [fixed]


def _read(model: Path | None) -> tuple[ModelCard, bytes]:
    if model is not None:
        return read_card(model)
    with resources.as_file(resources.files("kinet_trt.models") / DEFAULT_MODEL) as path:
        return read_card(path)


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
    """Raise for what can be told before any work."""
    if out.suffix.lower() not in SUFFIXES:
        raise KinetError(
            f"{out}: expected a name ending in .engine (TensorRT) or .onnx (CPU), found {out.suffix or 'no suffix'}"
        )
    if model is not None and os.path.abspath(model) == os.path.abspath(out):
        raise KinetError(f"{out}: that is the model itself: give -o another name")
    if out.is_dir():
        raise KinetError(f"{out}: cannot be written: it is a folder, expected a file name")
    if precision not in (None, *PRECISIONS):
        raise KinetError(f"precision: expected {', '.join(PRECISIONS)}, found {precision!r}")
    if batch < 1 or any(min(size) < 1 for size in sizes):
        raise KinetError(f"sizes and batch: expected positive numbers, found {list(sizes)} and {batch}")
    if not _is_engine(out) and (batch > 1 or len(sizes) > fused):
        raise KinetError(
            "sizes and batch are for an .engine: an .onnx takes frames of any size and number (a fused one may have "
            "one fixed size)"
        )
    beside = card_path(out)
    if _is_engine(out) and beside.exists() and not force and not _is_card(beside):
        raise KinetError(f"{beside}: the engine's card belongs there, and it is something else: force replaces it")
    if calibration is not None and precision != "int8":
        raise KinetError("calibration: expected none, except with the precision int8")


def _is_card(path: Path) -> bool:
    """Whether a file looks like the card of an engine, damaged or not."""
    try:
        with path.open("rb") as file:
            return b'"model_sha256"' in file.read(1 << 20)
    except OSError:
        return False


def _converted(model: bytes, card: ModelCard, precision: str) -> tuple[bytes, ModelCard]:
    from kinet_trt.onnx_graph.precision import convert  # needs onnx

    return convert(model, card, precision)


def _agreement(full: bytes, card: ModelCard, half: bytes) -> Agreement | None:
    """Count a simulated field in FP32 and in FP16: weights may fit into half precision where their sums do not."""
    if find_spec("onnxruntime") is None:
        log.warning('FP16 is not compared with FP32: that needs ONNX Runtime: pip install "kinet-trt[build]"')
        return None
    from kinet_trt.engines.onnxruntime import OnnxRuntimeEngine
    from kinet_trt.evaluation.agreement import compare

    side = -(-FIELD_SIDE // card.multiple) * card.multiple
    pixels, _ = simulate.field(1, side, side)
    expected, maps = (OnnxRuntimeEngine(card, model).run(pixels[None])[0] for model in (full, half))
    if not np.isfinite(maps).all():
        raise KinetError(f"{card.name} overflows half precision: its maps are not finite. Choose the precision fp32")
    first, second = (find_peaks(m, card.threshold, card.nms_radius, card.classes) for m in (expected, maps))
    if len(first) < LEAST_NUCLEI:
        log.warning(
            "FP16 could not be compared with FP32: %s finds %d nuclei in the simulated field, expected at least %d: "
            "count fields of yours with both",
            card.name, len(first), LEAST_NUCLEI,
        )  # fmt: skip
        return None
    return compare(first, second)


def _quantise(
    model: bytes, card: ModelCard, calibration: Path | None, max_loss: float, report: trt.Report
) -> tuple[bytes, ModelCard, Quantised]:
    from kinet_trt.onnx_graph.precision import check_convertible

    check_convertible(card, "int8")
    if calibration is None:
        raise KinetError(
            "precision int8: expected calibration, a folder with fields like those to be counted, some dozens of them, "
            "better with labels (images and same-named .csv files)"
        )
    model, card = _converted(model, card, "fp32")
    from kinet_trt.calibration.int8 import to_int8

    done = to_int8(model, card, calibration, max_loss=max_loss, cache=user_cache(), report=report)
    return done.model, done.card, done


def _fuse(model: bytes, card: ModelCard, sizes: Sequence[Size] | None) -> tuple[bytes, ModelCard]:
    from kinet_trt.onnx_graph.fuse_peaks import fuse

    # Of an engine the size is fixed when it is compiled.
    return fuse(model, card, size=sizes[0] if sizes else None)


def _target(library: trt.Library) -> str:
    """Return the GPU to build for, in words."""
    try:
        gpu = ask_driver().gpus[0]
    except EngineError as error:
        if library.is_rtx:
            return AMPERE
        raise EngineError(
            f"{library.name} builds on the GPU that the engine is to run on: {error}. TensorRT for RTX builds without "
            "one: choose the runtime tensorrt-rtx"
        ) from None
    return target_of_rtx(gpu.capability) if library.is_rtx else gpu_in_words(gpu.name, gpu.capability)


def _compile(library: trt.Library, model: bytes, card: ModelCard, out: Path, report: trt.Report) -> ModelCard:
    """Build the engine that a card describes, write the pair, and return its whole card."""
    from kinet_trt.onnx_graph.precision import for_tensorrt

    assert card.profile
    least, _, largest = card.profile
    fixed = least == largest
    timing = _timing_file(library, card.gpu)
    plan, kept = trt.build_plan(
        library,
        for_tensorrt(model, largest if fixed else None),
        None if fixed else card.profile,
        # TF32 is no FP32: who asks for FP32 wants its numbers.
        tf32=card.precision != "fp32",
        turing=card.gpu == TURING,
        timing=_read_timing(timing),
        report=report,
    )
    digest = hashlib.sha256(plan).hexdigest()
    card = replace(card, runtime=library.name, runtime_version=library.version, model_sha256=digest)
    write_plan(out, plan, card)
    _write_timing(timing, kept)
    return card


# --- the timing cache -------------------------------------------------------------------------------------------------
# TensorRT times every way to compute a layer on the GPU, for minutes; what it found is kept for the next build. The
# file begins with the sha256 of the rest, which is checked before TensorRT parses it.


def _timing_file(library: trt.Library, gpu: str) -> Path | None:
    """Return where the timings of this TensorRT on this GPU are kept; None: nowhere."""
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
        log.info("the next build will take as long: %s", error)
