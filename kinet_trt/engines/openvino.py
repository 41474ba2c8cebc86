"""The CPU engine: OpenVINO, with its precision always set by us."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import EngineError
from kinet_trt.core.telemetry import no_telemetry
from kinet_trt.engines.base import (
    check_frames,
    check_has_tumor_map,
    check_maps,
    check_outputs,
    check_tumor_maps,
    read_detections,
)
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

with no_telemetry():
    import openvino as ov
    from openvino import opset8

log = logging.getLogger(__name__)

SHAPES_KEPT = 200
"""Prepared layers that OpenVINO keeps for frame sizes it may see again: a few sizes of one model. Its own limit is
5,000, which is 2 GB after images of 250 different sizes; with 200 it stays at 0.4 GB and is no slower."""
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
PROBE_SIDE = 256
"""Side, px, of the simulated field on which a smaller precision is held to FP32."""
MAX_ERROR = 0.05
"""Mean error of the maps, in units of their deviation, above which a smaller precision counts as wrong. Honest BF16
has about 0.01; the wrong transposed convolution of OpenVINO 2026.4 on AMX eight times as much."""
MAX_DRIFT = 0.05
"""Change of the probe's number of nuclei above which a smaller precision counts as wrong; two are always allowed."""


@cache
def core() -> ov.Core:
    """Return OpenVINO's one core of this process.

    On CPUs with AMX every core gives the thread that makes it a stack for signals, and takes it away again. Of two that
    end in the order in which they began the second puts back the first one's, which is gone: the next Ctrl-C is a
    segmentation fault. So there is one, and it stays.
    """
    return ov.Core()


SAFE_SIDE = 128
"""Least side, px, of what an INT8 model of free size is given: on CPUs with AMX OpenVINO crashes on 32 and 64 px, and
does not on 96 and more (its issue 37577). The padding repeats the last row and column, as other
padding does."""


def read_network(model: bytes) -> ov.Model:
    """Read a serialised ONNX model so that its INT8 layers are right on this CPU.

    Without AMX, OpenVINO 2026.4 stores int8 activations as uint8 with an offset of 128. Where tensors are concatenated
    that are quantised by QuantizeLinear and DequantizeLinear, it then rounds to whole numbers instead of to the
    quantisation step: the maps are off by a quarter of their deviation, without an error. Written as one FakeQuantize
    operation each, OpenVINO's own form, they are right and as fast.

    Raises
    ------
    RuntimeError
        If OpenVINO cannot read the model.
    """
    network = core().read_model(io.BytesIO(model))
    if not _has_amx():
        for operation in network.get_ordered_ops():
            if operation.get_type_name() == "FakeQuantize":
                _include_dequantisation(operation)
    return network


def _include_dequantisation(quantise: Any) -> None:
    """Replace a FakeQuantize to int8 and the dequantisation after it by one FakeQuantize; others stay as they are."""
    last = quantise
    for kind in ("Convert", "Convert", "Subtract", "Multiply"):
        readers = [reader.get_node() for reader in last.output(0).get_target_inputs()]
        if [reader.get_type_name() for reader in readers] != [kind]:
            return
        last = readers[0]
    values, low, high = quantise.input_values()[:3]
    levels = quantise.get_attributes()["levels"]
    joined = opset8.fake_quantize(values, low, high, low, high, levels)
    joined.set_friendly_name(last.get_friendly_name())
    last.output(0).replace(joined.output(0))


class OpenVinoEngine:
    """An ONNX model on the CPU; see :class:`kinet_trt.engines.Engine`.

    OpenVINO computes in BF16 by default where it can. Here ``"auto"`` takes BF16 only on CPUs with AMX, where it is
    several times faster, and only after a probe field gave the same picture as FP32; everywhere else FP32.

    Parameters
    ----------
    card, model
        The card and the bytes of an ONNX file, checked against each other (:func:`kinet_trt.models.card.read_card`).
    precision
        ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``; for an INT8 model that is what its other layers compute in,
        and ``"int8"`` is another word for ``"auto"``.
    threads
        CPU threads; None: OpenVINO decides.
    cache
        Folder in which compiled models are kept; None: compile anew, which takes a tenth of a second for kinet-edge.

    Raises
    ------
    EngineError
        If OpenVINO cannot read the model, or the precision is not to be had on this CPU.
    """

    def __init__(
        self,
        card: ModelCard,
        model: bytes,
        precision: str = "auto",
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self.card = card
        self.detects = bool(card.capacity)
        if precision not in ("auto", "int8", *HINTS):
            raise EngineError(f"precision: expected auto, int8, {', '.join(HINTS)}, found {precision!r}")
        if precision == "int8" and card.precision != "int8":
            raise EngineError(
                f"precision int8: this model computes in {card.precision}: build an int8 model with kinet-trt build"
            )
        if threads is not None and threads < 1:
            raise EngineError(f"threads: expected 1 or more, found {threads}")
        self._threads, self._cache = threads, cache
        self._core = core()
        self._local = threading.local()
        try:
            self._network = read_network(model)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot read the model: {_first_line(error)}") from error
        check_outputs([name for output in self._network.outputs for name in output.get_names()], card)
        height, width = self._network.input(0).partial_shape[1], self._network.input(0).partial_shape[2]
        free = height.is_dynamic or width.is_dynamic
        self._size = None if free else (height.get_length(), width.get_length())
        self.precision = self._choose("auto" if precision == "int8" else precision)
        self.runtime = f"OpenVINO {ov.__version__.split('-')[0]} on CPU"
        if card.precision == "int8":
            self._say_int8()

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the proximity maps of a batch; see :meth:`kinet_trt.engines.Engine.run`."""
        check_frames(frames, self.card, size=self._size)
        padded = self._padded(frames)
        maps = check_maps(self._infer(padded)[0], padded, self.card)
        return maps if padded is frames else maps[..., : frames.shape[1], : frames.shape[2]]

    def tumor_map(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return where there is tumour; see :meth:`kinet_trt.engines.Engine.tumor_map`."""
        check_has_tumor_map(self.card)
        check_frames(frames, self.card, size=self._size)
        padded = self._padded(frames)
        tumor = check_tumor_maps(self._infer(padded)["roi"], padded, self.card)
        return tumor if padded is frames else tumor[..., : frames.shape[1], : frames.shape[2]]

    def detect(self, frames: NDArray[np.uint8], threshold: float) -> list[Detections]:
        """Return the nuclei of a batch; see :meth:`kinet_trt.engines.Engine.detect`."""
        check_frames(frames, self.card, fused=True, size=self._size)
        padded = self._padded(frames)
        results = self._infer(padded, np.array([threshold], np.float32))
        found = read_detections(results["count"], results["detections"], self.card, threshold)
        if padded is frames:
            return found
        return [one.where((one.x < frames.shape[2]) & (one.y < frames.shape[1])) for one in found]

    def _padded(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return frames of at least `SAFE_SIDE` px a side, where the model is INT8 and takes any size."""
        if self._size or self.card.precision != "int8":
            return frames
        side = -(-SAFE_SIDE // self.card.multiple) * self.card.multiple
        below, right = (max(0, side - length) for length in frames.shape[1:3])
        return np.pad(frames, ((0, 0), (0, below), (0, right), (0, 0)), "edge") if below or right else frames

    def _infer(self, frames: NDArray[np.uint8], *more: NDArray[np.float32]) -> Any:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return _infer(self._local.request, frames, *more)

    def _say_int8(self) -> None:
        """Say what a quantised model computes in. Its layers in float are in what was compiled for."""
        if "INT8" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            self.runtime += f" (int8, the rest in {self.precision})"
            self.precision = "int8"
        else:
            self.runtime += f" (an int8 model; this CPU has no int8 instructions and computes it in {self.precision})"

    def _choose(self, asked: str) -> str:
        """Compile, and return what it is compiled for."""
        if asked == "auto":
            precision = "bf16" if _has_amx() else "fp32"
        else:
            precision = asked
            needed = {"bf16": "BF16", "fp16": "FP16"}.get(asked)
            offered = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if needed and needed not in offered:
                raise EngineError(f"precision {asked}: this CPU supports {', '.join(offered)}: choose fp32")
        self._compiled = self._compile(precision)
        if precision == "fp32":
            return precision
        if problem := self._problem(precision):
            if asked != "auto":
                raise EngineError(f"precision {asked} gives wrong results on this CPU ({problem}): choose fp32")
            log.warning("BF16 gives wrong results on this CPU (%s): counting in FP32", problem)
            self._compiled = self._compile("fp32")
            return "fp32"
        return precision

    def _compile(self, precision: str, network: Any = None) -> Any:
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "CPU_RUNTIME_CACHE_CAPACITY": SHAPES_KEPT,
        }
        if self._threads:
            config["INFERENCE_NUM_THREADS"] = self._threads
            # Each process would pin its threads from the first core on: two with one thread would share one core.
            config["ENABLE_CPU_PINNING"] = False
        if self._cache:
            config["CACHE_DIR"] = str(self._cache)
        try:
            return self._core.compile_model(network or self._network, "CPU", config)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile the model: {_first_line(error)}") from error

    def _problem(self, precision: str) -> str:
        """Return in words how the compiled precision differs from FP32 on a simulated field; empty if it is right."""
        card = self.card
        side = -(-PROBE_SIDE // card.multiple) * card.multiple
        height, width = self._size or (side, side)
        pixels = simulate.field(1, width, height)[0][None]
        # A fused model's maps are judged like any other's: by the part of it that gives them.
        network = _maps_of(self._network) if card.capacity else self._network
        compiled = self._compile(precision, network) if card.capacity else self._compiled
        expected, found = (
            np.array(_infer(one.create_infer_request(), pixels)[0][0], np.float32)
            for one in (self._compile("fp32", network), compiled)
        )
        error = float(np.abs(found - expected).mean() / max(float(expected.std()), 1e-6))
        if not error <= MAX_ERROR:
            return f"maps off by {error:.2f} of their deviation"
        n, m = (len(find_peaks(maps, card.threshold, card.nms_radius, card.classes)) for maps in (expected, found))
        if card.capacity:
            m = int(self._infer(pixels, np.array([card.threshold], np.float32))["count"][0])
        if abs(n - m) > max(2, MAX_DRIFT * n):
            return f"{m} nuclei instead of {n} in a simulated field"
        return ""


def _infer(request: Any, frames: NDArray[np.uint8], *more: NDArray[np.float32]) -> Any:
    """Return the outputs, by number and by name: the request's own buffers."""
    inputs = dict(enumerate((np.ascontiguousarray(frames), *more)))
    try:
        return request.infer(inputs, share_inputs=True, share_outputs=True)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO failed on a frame {list(frames.shape)}: {_first_line(error)}") from error


def _maps_of(network: Any) -> Any:
    """Return the part of a fused model that gives the maps."""
    outputs = (output for node in network.get_ordered_ops() for output in node.outputs())
    maps = next(output for output in outputs if "maps" in output.get_names())
    return ov.Model([maps], network.get_parameters()[:1], "maps")


def _has_amx() -> bool:
    """Whether OpenVINO can use AMX for BF16 and INT8. Only Linux tells; elsewhere FP32 is the safe answer."""
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    if "AMX" not in limit and limit not in ("ALL", "DEFAULT"):
        return False
    if not sys.platform.startswith("linux") or not os.access("/proc/cpuinfo", os.R_OK):
        return False
    return " amx_bf16" in Path("/proc/cpuinfo").read_text()


def _first_line(error: Exception) -> str:
    """OpenVINO's messages hold a traceback of its own; the last line says what is wrong."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
