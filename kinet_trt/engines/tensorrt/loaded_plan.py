"""A TensorRT plan loaded on the GPU, with its tensors, scratch memory and execution contexts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kinet_trt.core.errors import EngineError
from kinet_trt.engines.tensorrt.builder import Library, context_options, format_error
from kinet_trt.engines.tensorrt.engine_file import build_command
from kinet_trt.models.card import ModelCard


class LoadedPlan:
    """A deserialized plan. The current CUDA context must be the primary one. Execution contexts run on ``stream``.

    ``tensors`` is the name of each tensor -> whether it is an output, and its dtype. Raise an EngineError if TensorRT
    cannot load the plan, or its tensors do not match the card.
    """

    def __init__(self, card: ModelCard, data: bytes, library: Library, path: Path, stream: Any) -> None:
        import cupy

        self._card, self._library, self._path = card, library, path
        library.messages.clear()
        self._runtime = library.module.Runtime(library.logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self.error("cannot load the plan")
        self.tensors = self._read_tensors()
        self._context_options, self._runtime_cache = context_options(library, self._engine)
        self._scratch_bytes = int(self._engine.device_memory_size_v2)
        with stream:
            self._scratch = cupy.cuda.alloc(max(1, self._scratch_bytes))

    def close(self) -> None:
        """Release the plan, after its contexts: TensorRT asks for it in the reverse order of creation."""
        self._runtime_cache = self._context_options = self._engine = self._runtime = None

    def create_context(self) -> Any:
        """Return a new execution context. All contexts share one scratch buffer, so they must run on the same stream.

        TensorRT stores the address of the buffer: keep the plan longer than the context.
        """
        context = self._engine.create_execution_context(self._context_options)
        if context is None:
            raise self.error("cannot create an execution context")
        context.set_device_memory(self._scratch.ptr, self._scratch_bytes)
        return context

    def error(self, problem: str) -> EngineError:
        """Return an error with TensorRT's reason for a problem and the command that rebuilds the engine."""
        message = format_error(self._library, problem, self._library.messages)
        self._library.messages.clear()
        return EngineError(
            f"{self._path}: {message}. Rebuild the engine on this machine: {build_command(self._card, self._path)}"
        )

    def _read_tensors(self) -> dict[str, tuple[bool, np.dtype[Any]]]:
        trt, engine = self._library.module, self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        tensors = {
            name: (
                engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT,
                np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
            )
            for name in names
        }
        outputs = ("count", "detections") if self._card.capacity else ("maps",)
        if tensors.get("frame") != (False, np.dtype(np.uint8)) or not all(name in tensors for name in outputs):
            raise EngineError(
                f"{self._path}: expected a plan with the input frame, uint8, and the outputs {', '.join(outputs)}, "
                f"found {', '.join(names)}. Rebuild the engine: {build_command(self._card, self._path)}"
            )
        return tensors
