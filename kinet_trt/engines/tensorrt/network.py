"""The network for batches of one shape: its buffers, an execution context and a captured CUDA graph."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from kinet_trt.engines.tensorrt.loaded_plan import LoadedPlan

log = logging.getLogger(__name__)


class Network:
    """Runs a plan on batches of one shape [N, H, W], on the CuPy stream of the plan's contexts.

    A graph contains the addresses of its buffers and the state of its context, so TensorRT recommends one context per
    graph (its best practices, CUDA Graphs). Frames in flight share one of each: their work runs in order on the stream.
    """

    def __init__(self, plan: LoadedPlan, shape: tuple[int, int, int], stream: Any) -> None:
        import cupy

        self._plan, self._shape, self.stream = plan, shape, stream
        self._context: Any = plan.create_context()
        if not self._context.set_input_shape("frame", (*shape, 3)):
            raise plan.error(f"does not accept frames {[*shape, 3]}")
        with stream:
            self.frames = cupy.empty((*shape, 3), np.uint8)  # input
            self.threshold = cupy.empty(1, np.float32)  # input of fused plans
            self.outputs = {
                name: cupy.empty(tuple(self._context.get_tensor_shape(name)), dtype)
                for name, (is_output, dtype) in plan.tensors.items()
                if is_output
            }
        buffers = {"frame": self.frames, "threshold": self.threshold, **self.outputs}
        for name in plan.tensors:
            self._context.set_tensor_address(name, buffers[name].data.ptr)
        self._graph: Any = self._capture()

    def close(self) -> None:
        """Release the graph and its context, before the memory and the plan that they use; no work may be pending."""
        self._graph = self._context = None

    @property
    def is_captured(self) -> bool:
        """Whether the network runs as a CUDA graph."""
        return self._graph is not None

    def enqueue(self) -> None:
        """Queue a run from :attr:`frames` to :attr:`outputs`."""
        if self._graph is not None:
            self._graph.launch(self.stream)
        else:
            self._execute()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self.stream.ptr):
            raise self._plan.error(f"cannot run frames {[*self._shape, 3]}")

    def _capture(self) -> Any:
        """Return a run as a CUDA graph; None if the runtime does not support capture."""
        # The first run of a shape allocates and compiles in TensorRT, which a capture does not allow.
        self._execute()
        self.stream.synchronize()
        if not getattr(self._context, "is_stream_capturable", lambda _: True)(self.stream.ptr):
            return None
        problem = ""  # the message: an exception would refer to this frame, which would refer to it
        self.stream.begin_capture()
        try:
            self._execute()
        except Exception as error:  # from TensorRT or us
            problem = str(error) or type(error).__name__
        try:
            graph = self.stream.end_capture()  # always: the stream is unusable until then
        except Exception as error:
            problem = problem or str(error) or type(error).__name__
        if not problem:
            return graph
        log.info("no CUDA graph for frames %s: %s", self._shape, problem)
        return None
