"""The portable CPU engine: ONNX Runtime in FP32, for machines without OpenVINO."""

from __future__ import annotations

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

with no_telemetry():
    import onnxruntime as ort

_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """An ONNX model on the CPU; see :class:`kinet_trt.engines.Engine`.

    ``precision`` is ``"auto"`` or ``"fp32"``: it computes in FP32, or in FP16 if the model contains FP16 layers.
    ``threads`` defaults to ONNX Runtime's choice.
    """

    def __init__(self, card: ModelCard, model: bytes, precision: str = "auto", threads: int | None = None) -> None:
        if precision not in ("auto", "fp32"):
            raise EngineError(
                f"precision: expected fp32 with ONNX Runtime, found {precision}. Use OpenVINO, or omit the precision"
            )
        if threads is not None and threads < 1:
            raise EngineError(f"threads: expected 1 or more, found {threads}")
        self.card = card
        self.detects = bool(card.capacity)
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads or 0
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # Its exceptions derive from Exception only, and their module differs between versions.
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot read the model: {error}") from error
        check_outputs([output.name for output in self._session.get_outputs()], card)
        frame = self._session.get_inputs()[0]
        self._input = frame.name
        height, width = frame.shape[1:3]
        self._size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self._maps = self._session.get_outputs()[0].name
        self.precision = "fp32"
        self.runtime = f"ONNX Runtime {ort.__version__} on CPU"
        if card.precision == "int8":
            # It has no int8 convolution with a float activation: it rounds to int8 and computes in FP32.
            self.runtime += " (an int8 model, computed in fp32 with int8 rounding)"

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the proximity maps of a batch; see :meth:`kinet_trt.engines.Engine.run`."""
        check_frames(frames, self.card, size=self._size)
        (maps,) = self._infer([self._maps], frames, {})
        return check_maps(maps, frames, self.card)

    def tumor_map(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the tumour map; see :meth:`kinet_trt.engines.Engine.tumor_map`."""
        check_has_tumor_map(self.card)
        check_frames(frames, self.card, size=self._size)
        (maps,) = self._infer(["roi"], frames, {})
        return check_tumor_maps(maps, frames, self.card)

    def detect(self, frames: NDArray[np.uint8], threshold: float) -> list[Detections]:
        """Return the nuclei of a batch; see :meth:`kinet_trt.engines.Engine.detect`."""
        check_frames(frames, self.card, fused=True, size=self._size)
        count, rows = self._infer(["count", "detections"], frames, {"threshold": np.array([threshold], np.float32)})
        return read_detections(count, rows, self.card, threshold)

    def _infer(self, outputs: list[str], frames: NDArray[np.uint8], inputs: dict[str, NDArray[np.float32]]) -> Any:
        try:
            return self._session.run(outputs, {self._input: np.ascontiguousarray(frames), **inputs})
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on a frame {list(frames.shape)}: {error}") from error
