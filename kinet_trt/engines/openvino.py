"""The CPU engine: OpenVINO, always with an explicit numeric precision."""

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

MAX_CACHED_LAYERS = 200
"""Prepared layers that OpenVINO caches for recurring frame sizes: enough for a few sizes of one model. Its default of
5,000 takes 2 GB after images of 250 different sizes; 200 takes 0.4 GB and is no slower."""
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
PROBE_SIDE = 256
"""Side, px, of the simulated field on which a lower precision is compared with FP32."""
MAX_ERROR = 0.05
"""Maximum mean error of the maps, in units of their standard deviation. Correct BF16 has about 0.01; the faulty
transposed convolution of OpenVINO 2026.4 on AMX has eight times as much."""
MAX_COUNT_CHANGE = 0.05
"""Maximum relative change of the number of nuclei in the probe field; a change of two is always allowed."""


@cache
def core() -> ov.Core:
    """Return this process's only OpenVINO core.

    On CPUs with AMX each core installs a signal stack in the thread that creates it, and restores the previous one when
    it is destroyed. If two are destroyed in the order of creation, the second restores the stack of the first, which is
    freed: the next Ctrl-C is a segmentation fault. Hence one core, never destroyed.
    """
    return ov.Core()


MIN_INT8_SIDE = 128
"""Side, px, to which the input of an INT8 model of dynamic size is padded: on CPUs with AMX OpenVINO crashes on 32 and
64 px, but not on 96 px and more (OpenVINO issue 37577). The padding repeats the last row and column."""


def read_network(model: bytes) -> ov.Model:
    """Read a serialised ONNX model so that its INT8 layers are correct on this CPU; raise a RuntimeError if that fails.

    Without AMX, OpenVINO 2026.4 stores int8 activations as uint8 with an offset of 128. When it concatenates tensors
    quantized by QuantizeLinear and DequantizeLinear, it then rounds to integers instead of to the quantization step:
    the maps are off by a quarter of their standard deviation, without an error. With one FakeQuantize operation each,
    OpenVINO's native form, they are correct and as fast.
    """
    network = core().read_model(io.BytesIO(model))
    if not _has_amx():
        for operation in network.get_ordered_ops():
            if operation.get_type_name() == "FakeQuantize":
                _merge_dequantization(operation)
    return network


def _merge_dequantization(quantize: Any) -> None:
    """Replace a FakeQuantize to int8 and its dequantization by one FakeQuantize; leave others unchanged."""
    last = quantize
    for kind in ("Convert", "Convert", "Subtract", "Multiply"):
        readers = [reader.get_node() for reader in last.output(0).get_target_inputs()]
        if [reader.get_type_name() for reader in readers] != [kind]:
            return
        last = readers[0]
    values, low, high = quantize.input_values()[:3]
    levels = quantize.get_attributes()["levels"]
    merged = opset8.fake_quantize(values, low, high, low, high, levels)
    merged.set_friendly_name(last.get_friendly_name())
    last.output(0).replace(merged.output(0))


class OpenVinoEngine:
    """An ONNX model on the CPU; see :class:`kinet_trt.engines.Engine`.

    OpenVINO defaults to BF16 on CPUs that support it. Here ``precision="auto"`` chooses BF16 only on CPUs with AMX,
    where it is several times faster, and only if it agrees with FP32 on a probe field; otherwise FP32. For an INT8
    model, ``precision`` is that of its other layers, and ``"int8"`` means ``"auto"``.

    ``threads`` defaults to OpenVINO's choice. ``cache`` is a folder for compiled models, or None: compiling kinet-edge
    takes a tenth of a second.
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
                f"precision int8: this model computes in {card.precision}. Build an int8 model with kinet-trt build"
            )
        if threads is not None and threads < 1:
            raise EngineError(f"threads: expected 1 or more, found {threads}")
        self._threads, self._cache = threads, cache
        self._core = core()
        self._local = threading.local()
        try:
            self._network = read_network(model)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot read the model: {_reason(error)}") from error
        check_outputs([name for output in self._network.outputs for name in output.get_names()], card)
        height, width = self._network.input(0).partial_shape[1], self._network.input(0).partial_shape[2]
        dynamic = height.is_dynamic or width.is_dynamic
        self._size = None if dynamic else (height.get_length(), width.get_length())
        self.precision = self._compile_in("auto" if precision == "int8" else precision)
        self.runtime = f"OpenVINO {ov.__version__.split('-')[0]} on CPU"
        if card.precision == "int8":
            self._describe_int8()

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the proximity maps of a batch; see :meth:`kinet_trt.engines.Engine.run`."""
        check_frames(frames, self.card, size=self._size)
        padded = self._pad(frames)
        maps = check_maps(self._infer(padded)[0], padded, self.card)
        return maps if padded is frames else maps[..., : frames.shape[1], : frames.shape[2]]

    def tumor_map(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the tumour map; see :meth:`kinet_trt.engines.Engine.tumor_map`."""
        check_has_tumor_map(self.card)
        check_frames(frames, self.card, size=self._size)
        padded = self._pad(frames)
        tumor = check_tumor_maps(self._infer(padded)["roi"], padded, self.card)
        return tumor if padded is frames else tumor[..., : frames.shape[1], : frames.shape[2]]

    def detect(self, frames: NDArray[np.uint8], threshold: float) -> list[Detections]:
        """Return the nuclei of a batch; see :meth:`kinet_trt.engines.Engine.detect`."""
        check_frames(frames, self.card, fused=True, size=self._size)
        padded = self._pad(frames)
        results = self._infer(padded, np.array([threshold], np.float32))
        found = read_detections(results["count"], results["detections"], self.card, threshold)
        if padded is frames:
            return found
        return [nuclei.where((nuclei.x < frames.shape[2]) & (nuclei.y < frames.shape[1])) for nuclei in found]

    def _pad(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pad frames to `MIN_INT8_SIDE` px a side if the model is INT8 and of dynamic size."""
        if self._size or self.card.precision != "int8":
            return frames
        side = -(-MIN_INT8_SIDE // self.card.multiple) * self.card.multiple
        bottom, right = (max(0, side - length) for length in frames.shape[1:3])
        return np.pad(frames, ((0, 0), (0, bottom), (0, right), (0, 0)), "edge") if bottom or right else frames

    def _infer(self, frames: NDArray[np.uint8], *inputs: NDArray[np.float32]) -> Any:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return _infer(self._local.request, frames, *inputs)

    def _describe_int8(self) -> None:
        """Set the precision and description of a quantized model; its float layers run in the compiled precision."""
        if "INT8" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            self.runtime += f" (int8, the rest in {self.precision})"
            self.precision = "int8"
        else:
            self.runtime += f" (an int8 model, computed in {self.precision}: this CPU has no int8 instructions)"

    def _compile_in(self, requested: str) -> str:
        """Compile the model and return the numeric precision chosen."""
        if requested == "auto":
            precision = "bf16" if _has_amx() else "fp32"
        else:
            precision = requested
            needed = {"bf16": "BF16", "fp16": "FP16"}.get(requested)
            supported = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if needed and needed not in supported:
                raise EngineError(f"precision {requested}: this CPU supports {', '.join(supported)}. Use fp32")
        self._compiled = self._compile(precision)
        if precision == "fp32":
            return precision
        if problem := self._compare_with_fp32(precision):
            if requested != "auto":
                raise EngineError(f"precision {requested} gives wrong results on this CPU ({problem}). Use fp32")
            log.warning("BF16 gives wrong results on this CPU (%s): using FP32", problem)
            self._compiled = self._compile("fp32")
            return "fp32"
        return precision

    def _compile(self, precision: str, network: Any = None) -> Any:
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "CPU_RUNTIME_CACHE_CAPACITY": MAX_CACHED_LAYERS,
        }
        if self._threads:
            config["INFERENCE_NUM_THREADS"] = self._threads
            # Each process would pin its threads from the first core on: two with one thread would share a core.
            config["ENABLE_CPU_PINNING"] = False
        if self._cache:
            config["CACHE_DIR"] = str(self._cache)
        try:
            return self._core.compile_model(network or self._network, "CPU", config)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile the model: {_reason(error)}") from error

    def _compare_with_fp32(self, precision: str) -> str:
        """Return how the compiled precision differs from FP32 on a simulated field; empty if it agrees."""
        card = self.card
        side = -(-PROBE_SIDE // card.multiple) * card.multiple
        height, width = self._size or (side, side)
        pixels = simulate.field(1, width, height)[0][None]
        # Compare the maps of a fused model too, from the part of it that computes them.
        network = _map_network(self._network) if card.capacity else self._network
        compiled = self._compile(precision, network) if card.capacity else self._compiled
        expected, found = (
            np.array(_infer(model.create_infer_request(), pixels)[0][0], np.float32)
            for model in (self._compile("fp32", network), compiled)
        )
        error = float(np.abs(found - expected).mean() / max(float(expected.std()), 1e-6))
        if not error <= MAX_ERROR:
            return f"maps off by {error:.2f} of their standard deviation"
        n, m = (len(find_peaks(maps, card.threshold, card.nms_radius, card.classes)) for maps in (expected, found))
        if card.capacity:
            m = int(self._infer(pixels, np.array([card.threshold], np.float32))["count"][0])
        if abs(n - m) > max(2, MAX_COUNT_CHANGE * n):
            return f"{m} nuclei instead of {n} in a simulated field"
        return ""


def _infer(request: Any, frames: NDArray[np.uint8], *inputs: NDArray[np.float32]) -> Any:
    """Return the outputs by index and by name, as views of the request's buffers."""
    tensors = dict(enumerate((np.ascontiguousarray(frames), *inputs)))
    try:
        return request.infer(tensors, share_inputs=True, share_outputs=True)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO failed on a frame {list(frames.shape)}: {_reason(error)}") from error


def _map_network(network: Any) -> Any:
    """Return the part of a fused model that computes the maps."""
    outputs = (output for node in network.get_ordered_ops() for output in node.outputs())
    maps = next(output for output in outputs if "maps" in output.get_names())
    return ov.Model([maps], network.get_parameters()[:1], "maps")


def _has_amx() -> bool:
    """Whether OpenVINO can use AMX for BF16 and INT8; False (hence FP32) on systems other than Linux."""
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    if "AMX" not in limit and limit not in ("ALL", "DEFAULT"):
        return False
    if not sys.platform.startswith("linux") or not os.access("/proc/cpuinfo", os.R_OK):
        return False
    return " amx_bf16" in Path("/proc/cpuinfo").read_text()


def _reason(error: Exception) -> str:
    """Return the last line of an OpenVINO error, the reason; the lines before it are a C++ traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
