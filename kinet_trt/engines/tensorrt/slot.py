"""Everything one batch in flight needs: buffers, an execution context and a captured CUDA graph."""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.cuda.interop import DevicePixels, parse_interface
from kinet_trt.engines.base import read_detections
from kinet_trt.engines.tensorrt.loaded_plan import LoadedPlan
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.cuda import CudaPeaks

log = logging.getLogger(__name__)


def pinned_array(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an uninitialised array in pinned host memory."""
    import cupy

    length = int(np.prod(shape))
    memory = cupy.cuda.alloc_pinned_memory(max(1, length * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, np.dtype(dtype), length).reshape(shape)


class Slot:
    """Runs batches of one shape, one at a time.

    ``shape`` is N, H, W of the batch; ``upload_stream`` is the CuPy stream of copies to the device.
    """

    def __init__(
        self, plan: LoadedPlan, card: ModelCard, shape: tuple[int, int, int], stream: Any, upload_stream: Any
    ) -> None:
        import cupy

        self._plan, self._card, self._shape = plan, card, shape
        self._stream, self._upload_stream = stream, upload_stream
        self._peaks: CudaPeaks | None = None
        self.user: weakref.ref[object] | None = None  # handle of the result; None if the slot is free
        self.done = cupy.cuda.Event(block=True, disable_timing=True)  # end of the queued work
        self._uploaded = cupy.cuda.Event(disable_timing=True)
        self._pinned: NDArray[np.uint8] | None = None
        self._staged: Any = None
        with stream:
            self.frames = cupy.empty((*shape, 3), np.uint8)  # input of the network
            self.has_color = cupy.zeros(1, np.int32)  # 1 if the frame has colour; on the host after `done`
            self._threshold = cupy.empty(1, np.float32)
            self._context = plan.create_context()
            if not self._context.set_input_shape("frame", (*shape, 3)):
                raise plan.error(f"does not accept frames {[*shape, 3]}")
            self.outputs = {
                name: cupy.empty(tuple(self._context.get_tensor_shape(name)), dtype)
                for name, (is_output, dtype) in plan.tensors.items()
                if is_output
            }
            if not card.capacity:
                maps = self.outputs["maps"]
                self._peaks = CudaPeaks(maps.shape, maps.dtype, card.nms_radius, card.classes)
        buffers = {"frame": self.frames, "threshold": self._threshold, **self.outputs}
        for name in plan.tensors:
            self._context.set_tensor_address(name, buffers[name].data.ptr)
        self.host_has_color = pinned_array((1,), np.int32)
        self._host_outputs = {
            name: pinned_array(self.outputs[name].shape, self.outputs[name].dtype)
            for name in (("count", "detections") if card.capacity else ())
        }
        self._graph = self._capture()

    @property
    def in_use(self) -> bool:
        """Whether the handle of the result still exists."""
        return self.user is not None and self.user() is not None

    def upload(self, pixels: NDArray[np.uint8], order: str | None) -> DevicePixels:
        """Copy pixels on the host to the device while other frames are computed; the work stream waits for the copy."""
        import cupy
        from cupy.cuda import runtime

        self.done.synchronize()  # the slot's previous frame, if its result was never collected
        if self._pinned is None or self._pinned.shape != pixels.shape:
            self._pinned = pinned_array(pixels.shape, np.uint8)
            # Allocate from this stream's pool: work queued on another stream may still read that stream's memory.
            with self._upload_stream:
                self._staged = cupy.empty(pixels.shape, np.uint8)
        np.copyto(self._pinned, pixels)
        target, source, size = self._staged.data.ptr, self._pinned.ctypes.data, self._pinned.nbytes
        runtime.memcpyAsync(target, source, size, runtime.memcpyHostToDevice, self._upload_stream.ptr)
        self._uploaded.record(self._upload_stream)
        self._stream.wait_event(self._uploaded)
        return replace(parse_interface(self._staged.__cuda_array_interface__, order, self._staged), stream=None)

    def start(self, threshold: float, height: int, width: int) -> None:
        """Queue the network, the peaks and the copy of the results for the batch in :attr:`frames`.

        ``height`` and ``width`` are without padding, px.
        """
        if self._peaks is not None:
            self._peaks.begin(self._stream, threshold, height, width)
        else:
            with self._stream:
                self._threshold.fill(np.float32(threshold))
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._queue()
        self.done.record(self._stream)

    def read(self, threshold: float) -> list[Detections]:
        """Return the nuclei in model px; valid after :attr:`done`."""
        if self._peaks is not None:
            return self._peaks.read(self._stream)
        return read_detections(self._host_outputs["count"], self._host_outputs["detections"], self._card, threshold)

    def _queue(self) -> None:
        from cupy.cuda import runtime

        stream = self._stream
        if not self._context.execute_async_v3(stream.ptr):
            raise self._plan.error(f"cannot run frames {[*self._shape, 3]}")
        if self._peaks is not None:
            self._peaks.enqueue(stream, self.outputs["maps"].data.ptr)
        copies = [(self.host_has_color, self.has_color)]
        copies += [(host, self.outputs[name]) for name, host in self._host_outputs.items()]
        for host, device in copies:
            runtime.memcpyAsync(host.ctypes.data, device.data.ptr, host.nbytes, runtime.memcpyDeviceToHost, stream.ptr)

    def _capture(self) -> Any:
        """Return the work as a CUDA graph; None if the runtime does not support capture."""
        stream = self._stream
        # The first run of a shape allocates and compiles in TensorRT, which a capture does not allow.
        if self._peaks is not None:
            self._peaks.begin(stream, self._card.threshold)
        self._queue()
        stream.synchronize()
        if not getattr(self._context, "is_stream_capturable", lambda _: True)(stream.ptr):
            return None
        problem: Exception | None = None
        stream.begin_capture()
        try:
            self._queue()
        except Exception as error:  # from TensorRT, CuPy or us
            problem = error
        try:
            graph = stream.end_capture()  # always: the stream is unusable until then
        except Exception as error:
            problem = problem or error
        if problem is None:
            return graph
        log.info("no CUDA graph for frames %s: %s", self._shape, problem)
        return None
