"""The GPU engine: preparation, a TensorRT plan and peak finding, all on the device.

The host only queues the work for a frame: a copy to pinned memory and from there to the device, on an upload stream,
while the previous frame is still being computed; then, on one work stream, the preparation, the network, the peaks and
the copy of the results to pinned memory. The network is captured as a CUDA graph where the runtime supports it. A frame
that is already on the device is read in place.

The engine runs on TensorRT 10.3 to 11.4 and TensorRT for RTX. CuPy uses the device's primary context and creates it
before the first call into TensorRT. Callers that pass device memory must use the same context (PyCUDA: import
``pycuda.autoprimaryctx``, not ``pycuda.autoinit``).
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import EngineError
from kinet_trt.core.frame import NO_COLOUR, Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.cuda.device import on_device
from kinet_trt.cuda.driver import Driver
from kinet_trt.cuda.interop import DevicePixels, delay_writes, read_frame, wait_for
from kinet_trt.engines.base import check_frames
from kinet_trt.engines.tensorrt.builder import Library
from kinet_trt.engines.tensorrt.engine_file import check_profile
from kinet_trt.engines.tensorrt.loaded_plan import LoadedPlan
from kinet_trt.engines.tensorrt.network import Network
from kinet_trt.engines.tensorrt.preprocess import CudaPrepare, PreparePlan
from kinet_trt.engines.tensorrt.slot import Slot
from kinet_trt.models.card import ModelCard

log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_IN_FLIGHT = 2
"""Frames that may be in flight."""
MAX_SHAPES = 4
"""Shapes whose buffers and graphs are cached: enough for the tiles of one image."""


class TensorRtEngine:
    """A compiled plan on the GPU with index ``device``; see :class:`kinet_trt.engines.Engine`.

    Thread-safe. :meth:`run` and :meth:`detect` hold a lock until they have their result; :meth:`submit` holds it only
    while it queues the work, and waiting for a submitted result needs no lock. At most two frames may be in flight; a
    third raises. Not fork-safe: a forked process must open its own engine. The current device of the calling thread is
    restored.
    """

    def __init__(
        self, card: ModelCard, plan: bytes, library: Library, driver: Driver, path: Path, device: int = 0
    ) -> None:
        import cupy

        self.card, self.precision = card, card.precision
        self.detects = True
        self.max_in_flight = MAX_IN_FLIGHT
        self.runtime = f"{library.name} {library.version} on {driver.gpus[device].name}"
        self._path, self._device, self._process = path, device, os.getpid()
        self._lock = threading.Lock()
        self._slots: dict[tuple[int, int, int], list[Slot]] = {}
        with self._on_device():
            cupy.cuda.runtime.free(0)  # creates the primary context
            self.stream, self._upload_stream = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
            self._plan = LoadedPlan(card, plan, library, path, self.stream)
            self._prepare = CudaPrepare(card.mpp, card.multiple)
            self._warm_up()

    def __del__(self) -> None:
        # In a defined order, also if the engine is part of a reference cycle. Dropped frames may still be running.
        with suppress(Exception), self._on_device():  # the GPU may have failed, or the interpreter be ending
            import cupy

            cupy.cuda.Device().synchronize()
            for slots in self._slots.values():
                slots[0].network.close()
            self._plan.close()

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the proximity maps of a batch; see :meth:`kinet_trt.engines.Engine.run`."""
        check_frames(frames, self.card)

        def read(slot: Slot) -> NDArray[np.float32]:
            maps: NDArray[np.float32] = slot.network.outputs["maps"].get(stream=self.stream).astype(np.float32)
            return maps

        parts = self._run(frames, self.card.threshold, read)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def tumor_map(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raise: GPU engines do not output the tumour map (:meth:`kinet_trt.engines.Engine.tumor_map`)."""
        raise EngineError(
            f"{self.card.name}: a GPU engine outputs no tumour map for {list(frames.shape)}. Use the .onnx model that "
            "it was built from"
        )

    def detect(self, frames: NDArray[np.uint8], threshold: float) -> list[Detections]:
        """Return the nuclei of a batch, fused or not; see :meth:`kinet_trt.engines.Engine.detect`."""
        check_frames(frames, self.card, fused=bool(self.card.capacity))
        parts = self._run(frames, threshold, lambda slot: slot.read(threshold))
        return [found for part in parts for found in part]

    def submit(
        self,
        frame: object,
        *,
        mpp: float | None = None,
        threshold: float | None = None,
        order: str | None = None,
        stream: int | None = None,
    ) -> PendingFrame:
        """Queue a whole frame and return at once; :meth:`PendingFrame.result` waits for its nuclei.

        Parameters
        ----------
        frame
            A :class:`kinet_trt.Frame`, or pixels on the host or the device, see
            :func:`kinet_trt.cuda.interop.read_frame`. Pixels on the host may be overwritten once this returns; those
            on the device by work on the stream they came with, or once the result is available.
        mpp
            um/px of the pixels; defaults to that of the frame, or else of the model.
        threshold
            Minimum height of a peak; defaults to that of the model card.
        order
            Channel order, ``"RGB"``, ``"BGR"``, ``"RGBA"`` or ``"BGRA"``.
        stream
            CUDA stream on which pixels on the device are written; defaults to that of their array interface, or else
            to the legacy default stream.

        Raises
        ------
        KinetError
            If the frame does not fit the engine, or two frames are already in flight.
        """
        source: object = frame
        if isinstance(frame, Frame):
            source, mpp, order = frame.pixels, frame.mpp if mpp is None else mpp, "RGB"
        threshold = self.card.threshold if threshold is None else threshold
        if not np.isfinite(threshold):
            raise EngineError(f"threshold: expected a finite number, found {threshold}")
        with self._lock, self._on_device():
            pixels = read_frame(source, order, self.stream)
            height, width = pixels.shape[:2] if isinstance(pixels, np.ndarray) else (pixels.height, pixels.width)
            plan = self._prepare.plan(height, width, mpp)
            check_profile(self.card, (1, plan.height, plan.width), self._path)
            slot = self._free_slot((1, plan.height, plan.width))
            on_device = slot.upload(pixels, order) if isinstance(pixels, np.ndarray) else self._share(pixels, stream)
            self._prepare.enqueue(self.stream, plan, on_device, slot.network.frames.data.ptr, slot.has_color.data.ptr)
            delay_writes(on_device, self.stream)
            slot.start(threshold, plan.scaled_height, plan.scaled_width)
            pending = PendingFrame(self, slot, plan, threshold, (source, on_device))
            slot.user = weakref.ref(pending)
            return pending

    def _collect(self, slot: Slot, threshold: float) -> tuple[Detections, bool]:
        """Wait for a slot, and return its nuclei in model px and whether its frame has colour."""
        with self._on_device():
            slot.done.synchronize()
            with self._lock:
                (found,) = slot.read(threshold)
                return found, bool(slot.host_has_color[0])

    def _run(self, frames: NDArray[np.uint8], threshold: float, read: Callable[[Slot], Result]) -> list[Result]:
        """Run a batch in parts of at most the engine's batch size; return what ``read`` returns for each part."""
        max_batch = (self.card.profile or ((1,),))[-1][0]
        results = []
        for start in range(0, len(frames), max_batch):
            part = frames[start : start + max_batch]
            shape = (part.shape[0], part.shape[1], part.shape[2])
            check_profile(self.card, shape, self._path)
            with self._lock, self._on_device():
                slot = self._free_slot(shape)
                slot.network.frames.set(np.ascontiguousarray(part), stream=self.stream)
                slot.start(threshold, *shape[1:])
                slot.done.synchronize()
                results.append(read(slot))
        return results

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Make the engine's GPU current in this thread until the end of the block, and convert CuPy's exceptions."""
        if os.getpid() != self._process:
            raise EngineError(
                f"{self._path}: this process was forked after the engine was opened, which CUDA does not support. "
                "Open the engine in each process, or start them with the method 'spawn'"
            )
        with on_device(self._path, self._device):
            yield

    def _free_slot(self, shape: tuple[int, int, int]) -> Slot:
        # The slot of a dropped PendingFrame is free: its work ends first, because the stream runs in order.
        in_flight = [slot for cached in self._slots.values() for slot in cached if slot.in_use]
        if len(in_flight) >= MAX_IN_FLIGHT:
            raise EngineError(f"{MAX_IN_FLIGHT} frames are in flight. Call result() before submitting the next")
        for slot in self._slots.get(shape, []):
            if not slot.in_use:
                return slot
        if shape not in self._slots:
            idle = [other for other, slots in self._slots.items() if not any(slot.in_use for slot in slots)]
            for other in idle[: max(0, len(self._slots) + 1 - MAX_SHAPES)]:
                slots = self._slots.pop(other)
                # A dropped frame may still be running in this memory, and copying to the host's.
                for slot in slots:
                    slot.done.synchronize()
                slots[0].network.close()
        return self._add_slot(shape)

    def _add_slot(self, shape: tuple[int, int, int]) -> Slot:
        slots = self._slots.get(shape, [])
        network = slots[0].network if slots else Network(self._plan, shape, self.stream)
        slot = Slot(network, self.card, self._upload_stream)
        self._slots[shape] = [*slots, slot]
        return slot

    def _share(self, pixels: DevicePixels, stream: int | None) -> DevicePixels:
        """Return pixels that the work stream may read; raise an EngineError if another context owns them."""
        from cupy.cuda import runtime

        try:
            device = runtime.pointerGetAttributes(pixels.address).device
        except runtime.CUDARuntimeError:
            device = None
        if device != self._device:
            location = "another CUDA context" if device is None or device < 0 else f"GPU {device}"
            raise EngineError(
                f"frame: expected it in the primary context of GPU {self._device}, found {location}. With PyCUDA, "
                "import pycuda.autoprimaryctx instead of pycuda.autoinit"
            )
        pixels = pixels if stream is None else replace(pixels, stream=stream)
        wait_for(self.stream, pixels)
        return pixels

    def _warm_up(self) -> None:
        """Run the optimal shape once per slot: the first run loads kernels and takes a hundred times as long."""
        shape = self.card.profile[1] if self.card.profile else (1, self.card.multiple, self.card.multiple)
        for _ in range(MAX_IN_FLIGHT):
            slot = self._add_slot(shape)
            with self.stream:
                slot.network.frames.fill(0)
            slot.start(self.card.threshold, *shape[1:])
            slot.done.synchronize()


class PendingFrame:
    """A frame in flight, returned by :meth:`TensorRtEngine.submit`. Thread-safe."""

    def __init__(self, engine: TensorRtEngine, slot: Slot, plan: PreparePlan, threshold: float, owners: object) -> None:
        self._engine, self._plan, self._threshold = engine, plan, threshold
        self._slot: Slot | None = slot  # None once there is a result or a failure: the next frame may use the slot
        self._owners = owners
        self._lock = threading.Lock()
        self._found: Detections | None = None
        self._failure = ""

    def result(self) -> Detections:
        """Wait for the frame and return its nuclei in raster order, px of the input frame.

        Raise an EngineError, at every call, if the frame contains more nuclei than a fused model's capacity, or the GPU
        failed.
        """
        with self._lock:
            if self._slot is not None:
                try:
                    self._found = self._to_frame(*self._engine._collect(self._slot, self._threshold))
                except Exception as error:
                    # The message: a stored exception would refer to this object through its traceback, and it to that.
                    self._failure = str(error) or type(error).__name__
                    self._release(self._slot)
                    raise
                self._release(self._slot)
            if self._found is None:
                raise EngineError(self._failure)
            return self._found

    def _release(self, slot: Slot) -> None:
        slot.user = self._slot = self._owners = None

    def _to_frame(self, found: Detections, has_color: bool) -> Detections:
        plan = self._plan
        if not has_color:
            log.warning(NO_COLOUR)
            return Detections.empty(found.classes)
        # A fused model also finds nuclei in the padding.
        found = found.where((found.x < plan.scaled_width) & (found.y < plan.scaled_height))
        x = rescale(found.x, plan.source_width / plan.scaled_width)
        y = rescale(found.y, plan.source_height / plan.scaled_height)
        return Detections(x, y, found.cls, found.score, found.classes)
