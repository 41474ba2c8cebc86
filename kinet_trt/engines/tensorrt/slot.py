"""Everything one batch in flight needs beside the network: the upload, the peak search and the results on the host."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.cuda.interop import DevicePixels, parse_interface
from kinet_trt.engines.base import read_detections
from kinet_trt.engines.tensorrt.network import Network
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.cuda import CudaPeaks


def pinned_array(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an uninitialised array in pinned host memory."""
    import cupy

    length = int(np.prod(shape))
    memory = cupy.cuda.alloc_pinned_memory(max(1, length * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, np.dtype(dtype), length).reshape(shape)


class Slot:
    """Runs batches of the network's shape, one at a time.

    ``upload_stream`` is the CuPy stream of copies to the device; all other work runs on the network's.
    """

    def __init__(self, network: Network, card: ModelCard, upload_stream: Any) -> None:
        import cupy

        self.network, self._card, self._upload_stream = network, card, upload_stream
        self._stream = network.stream
        self._peaks: CudaPeaks | None = None
        self.user: weakref.ref[object] | None = None  # handle of the result; None if the slot is free
        self.done = cupy.cuda.Event(block=True, disable_timing=True)  # end of the queued work
        self._uploaded = cupy.cuda.Event(disable_timing=True)
        self._pinned: NDArray[np.uint8] | None = None
        self._staged: Any = None
        with self._stream:
            self.has_color = cupy.zeros(1, np.int32)  # 1 if the frame has colour; on the host after `done`
            if not card.capacity:
                maps = network.outputs["maps"]
                self._peaks = CudaPeaks(maps.shape, maps.dtype, card.nms_radius, card.classes)
        self.host_has_color = pinned_array((1,), np.int32)
        self._host_outputs = {
            name: pinned_array(network.outputs[name].shape, network.outputs[name].dtype)
            for name in (("count", "detections") if card.capacity else ())
        }

    @property
    def in_use(self) -> bool:
        """Whether the handle of the result still exists."""
        user = self.user  # read once: another thread may clear it
        return user is not None and user() is not None

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
        """Queue the network, the peaks and the copy of the results for the batch in the network's frames.

        ``height`` and ``width`` are without padding, px.
        """
        if self._peaks is None:
            with self._stream:
                self.network.threshold.fill(np.float32(threshold))
        self.network.enqueue()
        if self._peaks is not None:
            self._peaks.begin(self._stream, threshold, height, width)
            self._peaks.enqueue(self._stream, self.network.outputs["maps"].data.ptr)
        self._copy_to_host(self.host_has_color, self.has_color)
        for name, host in self._host_outputs.items():
            self._copy_to_host(host, self.network.outputs[name])
        self.done.record(self._stream)

    def read(self, threshold: float) -> list[Detections]:
        """Return the nuclei in model px; valid after :attr:`done`."""
        if self._peaks is not None:
            return self._peaks.read(self._stream)
        return read_detections(self._host_outputs["count"], self._host_outputs["detections"], self._card, threshold)

    def _copy_to_host(self, host: NDArray[Any], device: Any) -> None:
        from cupy.cuda import runtime

        target, source = host.ctypes.data, device.data.ptr
        runtime.memcpyAsync(target, source, host.nbytes, runtime.memcpyDeviceToHost, self._stream.ptr)
