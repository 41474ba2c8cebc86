"""Names of runtimes and numeric precisions, as options, model cards and tables use them."""

from __future__ import annotations

from collections.abc import Mapping

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""Numeric precisions of a computation."""
CPU_RUNTIMES: Mapping[str, str] = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
"""Runtimes of ``.onnx`` files: option to name. The first one that is installed is the default."""
GPU_RUNTIMES: Mapping[str, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
"""Runtimes that build and run engines: option to name; the model card states the name."""
