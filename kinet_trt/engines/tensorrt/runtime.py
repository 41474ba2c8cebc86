"""The GPU engine: a TensorRT plan between prepare and peaks, all of it on the device.

A frame takes this way, and the host only starts it: a copy to pinned memory; from there to the device, on a stream of
its own, while the frame before is still being counted; then on one stream prepare, the network, the peaks, and the copy
of what was found to pinned memory. Network, peaks and that copy are captured as a CUDA graph where the runtime allows.
A frame that is on the device already is read where it lies.

One file serves TensorRT 10.3 to 11.4 and TensorRT for RTX. CuPy owns the device's primary context, which is made before
TensorRT is asked for anything; whoever brings frames of their own must share it (PyCUDA:
``pycuda.driver.Device(0).retain_primary_context()``, not ``pycuda.autoinit``).
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import EngineError
from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.cuda.driver import Driver
from kinet_trt.cuda.interop import DevicePixels, parse_interface, read_frame, wait_for
from kinet_trt.engines.base import check_frames, read_detections
from kinet_trt.engines.tensorrt.builder import Library, context_options
from kinet_trt.engines.tensorrt.engine_file import build_command
from kinet_trt.engines.tensorrt.preprocess import CudaPrepare, PreparePlan
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.cuda import CudaPeaks

log = logging.getLogger(__name__)

LANES = 2
"""Frames that may be on their way at a time."""
SHAPES_KEPT = 4
"""Shapes whose buffers and graphs are kept; a picture's tiles have no more."""


class TensorRtEngine:
    """A compiled plan on the first GPU; see :class:`kinet_trt.engines.Engine`.

    Any thread may use it, several at a time. A lock lets one of them start work; :meth:`run` and :meth:`detect` hold it
    until they have their result, :meth:`submit` only while it queues, and waiting for a submitted result needs no lock.
    At most two frames are on their way; a third is refused. A process that was forked after opening is refused too:
    CUDA does not survive that.

    Parameters
    ----------
    card, plan
        From :func:`kinet_trt.engines.tensorrt.engine_file.read_plan`.
    library, driver
        From :func:`kinet_trt.engines.tensorrt.builder.check_machine`.
    path
        Where the plan lies, for messages.

    Raises
    ------
    EngineError
        If TensorRT cannot load or run the plan, or the GPU's memory does not suffice.
    """

    def __init__(self, card: ModelCard, plan: bytes, library: Library, driver: Driver, path: Path) -> None:
        import cupy

        self.card, self.precision = card, card.precision
        self.detects = True
        self.lanes = LANES
        self.runtime = f"{library.name} {library.version} on {driver.gpus[0].name}"
        self._path, self._library, self._process = path, library, os.getpid()
        self._lock = threading.Lock()
        self._lanes: dict[tuple[int, int, int], list[_Lane]] = {}
        with _in_words(path):
            cupy.cuda.Device(0).use()
            cupy.cuda.runtime.free(0)  # makes the primary context
            self.stream, self.uploads = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
            library.messages.clear()
            self._runtime = library.module.Runtime(library.logger)
            self.plan = self._runtime.deserialize_cuda_engine(plan)
            if self.plan is None:
                raise self.refused("cannot load it")
            self.kinds = self._tensors()
            self._how_to_run = context_options(library, self.plan)
            self._scratch_bytes = int(self.plan.device_memory_size_v2)
            with self.stream:
                self._scratch = cupy.cuda.alloc(max(1, self._scratch_bytes))
            self._prepare = CudaPrepare(card.mpp, card.multiple)
            self._warm_up()

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the proximity maps of a batch; see :meth:`kinet_trt.engines.Engine.run`."""
        check_frames(frames, self.card)
        parts = []
        for part, lane in self._run(frames, self.card.threshold):
            parts.append(lane.outputs["maps"][: len(part)].get(stream=self.stream).astype(np.float32))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def tumor_map(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raise: a GPU engine leaves the tumour map where it is (:meth:`kinet_trt.engines.Engine.tumor_map`)."""
        raise EngineError(
            f"{self.card.name}: a GPU engine has no tumour map for {list(frames.shape)}: take the .onnx model it "
            "was made from"
        )

    def detect(self, frames: NDArray[np.uint8], threshold: float) -> list[Detections]:
        """Return the nuclei of a batch, fused or not; see :meth:`kinet_trt.engines.Engine.detect`."""
        check_frames(frames, self.card, fused=bool(self.card.capacity))
        found = []
        for _, lane in self._run(frames, threshold):
            found += lane.read(threshold)
        return found

    def submit(
        self,
        frame: object,
        *,
        mpp: float | None = None,
        threshold: float | None = None,
        order: str | None = None,
        stream: int | None = None,
    ) -> Submitted:
        """Send a whole frame on its way and return at once; :meth:`Submitted.result` waits for its nuclei.

        Parameters
        ----------
        frame
            A :class:`kinet_trt.Frame`, or pixels on the host or the device, see
            :func:`kinet_trt.cuda.interop.read_frame`. Pixels on the host may be changed when this returns; those on
            the device on the stream that they came with, or else when the result is there.
        mpp
            um/px of the pixels; None: what the frame says, or the model's.
        threshold
            Least height of a peak; None: the model card's.
        order
            Of the channels, ``"RGB"``, ``"BGR"``, ``"RGBA"`` or ``"BGRA"``.
        stream
            CUDA stream on which pixels on the device are written; None: what they say themselves.

        Raises
        ------
        KinetError
            If the frame does not fit the engine, or two frames are on their way already.
        """
        given: object = frame
        if isinstance(frame, Frame):
            given, mpp, order = frame.pixels, frame.mpp if mpp is None else mpp, "RGB"
        threshold = self.card.threshold if threshold is None else threshold
        if not np.isfinite(threshold):
            raise EngineError(f"threshold: expected a finite number, found {threshold}")
        with self._lock, _in_words(self._path):
            self._enter()
            pixels = read_frame(given, order, self.stream)
            height, width = pixels.shape[:2] if isinstance(pixels, np.ndarray) else (pixels.height, pixels.width)
            plan = self._prepare.plan(height, width, mpp)
            check_profile(self.card, (1, plan.height, plan.width), self._path)
            lane = self._free_lane((1, plan.height, plan.width))
            on_device = lane.upload(pixels, order) if isinstance(pixels, np.ndarray) else self._ours(pixels, stream)
            self._prepare.enqueue(self.stream, plan, on_device, lane.frames.data.ptr, lane.coloured.data.ptr)
            if on_device.stream is not None:
                _let_wait(on_device.stream, self.stream)
            lane.start(threshold, plan.own_height, plan.own_width)
            submitted = Submitted(self, lane, plan, threshold, (given, on_device))
            lane.user = weakref.ref(submitted)
            return submitted

    def _collect(self, lane: _Lane, threshold: float) -> tuple[Detections, bool]:
        """Return the nuclei of a lane, in model px, and whether its frame has colour; the lane is then free."""
        with _in_words(self._path):
            lane.end.synchronize()
            with self._lock:
                try:
                    (found,) = lane.read(threshold)
                    return found, bool(lane.coloured_here[0])
                finally:
                    lane.user = None

    def _run(self, frames: NDArray[np.uint8], threshold: float) -> Iterator[tuple[NDArray[np.uint8], _Lane]]:
        """Run a batch, in parts that the engine takes; each is done when it is yielded."""
        most = (self.card.profile or ((1,),))[-1][0]
        for start in range(0, len(frames), most):
            part = frames[start : start + most]
            shape = (part.shape[0], part.shape[1], part.shape[2])
            check_profile(self.card, shape, self._path)
            with self._lock, _in_words(self._path):
                self._enter()
                lane = self._free_lane(shape)
                lane.frames.set(np.ascontiguousarray(part), stream=self.stream)
                lane.start(threshold, *shape[1:])
                lane.end.synchronize()
                yield part, lane

    def _enter(self) -> None:
        if os.getpid() != self._process:
            raise EngineError(
                f"{self._path}: this process was forked after the engine was opened, which CUDA does not survive: "
                "open the engine in each process, or start them with the method 'spawn'"
            )
        import cupy

        cupy.cuda.Device(0).use()  # holds for one thread

    def context(self) -> Any:
        """Return a new execution context; all of them work in the same memory, one after the other on one stream.

        A captured graph belongs to its context: one context for every shape would do for launches, not for graphs.
        """
        context = self.plan.create_execution_context(self._how_to_run)
        if context is None:
            raise self.refused("cannot create an execution context")
        context.set_device_memory(self._scratch.ptr, self._scratch_bytes)
        return context

    def _free_lane(self, shape: tuple[int, int, int]) -> _Lane:
        lanes = self._lanes.setdefault(shape, [])
        # What was submitted and then forgotten is waited for, by the stream's order, and its lane taken over.
        on_their_way = [lane for kept in self._lanes.values() for lane in kept if lane.is_taken]
        if len(on_their_way) >= LANES:
            raise EngineError(f"{LANES} frames are in flight: call result() before submitting the next")
        for lane in lanes:
            if not lane.is_taken:
                return lane
        for other in list(self._lanes):
            if len(self._lanes) > SHAPES_KEPT and other != shape and not any(o.is_taken for o in self._lanes[other]):
                # A frame that was forgotten may still be running in their memory, and be copied to the host's.
                for lane in self._lanes.pop(other):
                    lane.end.synchronize()
        lanes.append(_Lane(self, shape))
        return lanes[-1]

    def _ours(self, pixels: DevicePixels, stream: int | None) -> DevicePixels:
        """Return pixels that the engine's stream may read, or say why it cannot."""
        from cupy.cuda import runtime

        try:
            device = runtime.pointerGetAttributes(pixels.address).device
        except runtime.CUDARuntimeError:
            device = None
        if device != 0:
            where = "another CUDA context" if device is None or device < 0 else f"GPU {device}"
            raise EngineError(
                f"frame: expected it in the primary context of GPU 0, found {where}. PyCUDA: "
                "pycuda.driver.Device(0).retain_primary_context(), not pycuda.autoinit"
            )
        pixels = pixels if stream is None else replace(pixels, stream=stream)
        wait_for(self.stream, pixels)
        return pixels

    def _tensors(self) -> dict[str, tuple[bool, np.dtype[Any]]]:
        """Return whether a tensor is an output, and its type, by name; they must be those that the card promises."""
        trt, plan = self._library.module, self.plan
        names = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
        kinds = {
            name: (
                plan.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT,
                np.dtype(trt.nptype(plan.get_tensor_dtype(name))),
            )
            for name in names
        }
        outputs = ("count", "detections") if self.card.capacity else ("maps",)
        if kinds.get("frame") != (False, np.dtype(np.uint8)) or not all(name in kinds for name in outputs):
            raise EngineError(
                f"{self._path}: expected a plan with the input frame, uint8, and the outputs {', '.join(outputs)}, "
                f"found {', '.join(names)}: {build_command(self.card, self._path)}"
            )
        return kinds

    def _warm_up(self) -> None:
        """Run the size that the plan is best at: the first run loads kernels, and would be a hundred times slower."""
        shape = self.card.profile[1] if self.card.profile else (1, self.card.multiple, self.card.multiple)
        self._lanes[shape] = [_Lane(self, shape) for _ in range(LANES)]
        for lane in self._lanes[shape]:
            with self.stream:
                lane.frames.fill(0)
            lane.start(self.card.threshold, *shape[1:])
            lane.end.synchronize()

    def refused(self, what: str) -> EngineError:
        """Return the error that says what TensorRT does not do, and why."""
        said = "; ".join(dict.fromkeys(" ".join(m.split()) for m in self._library.messages[:2])) or "no reason given"
        self._library.messages.clear()
        return EngineError(
            f"{self._path}: {self._library.name} {self._library.version} {what}: {said[:600]}. Build it here: "
            f"{build_command(self.card, self._path)}"
        )


class Submitted:
    """A frame on its way; :meth:`TensorRtEngine.submit` makes it."""

    def __init__(self, engine: TensorRtEngine, lane: _Lane, plan: PreparePlan, threshold: float, held: object) -> None:
        self._engine, self._lane, self._plan, self._threshold = engine, lane, plan, threshold
        self._held = held
        self._lock = threading.Lock()
        self._found: Detections | None = None

    def result(self) -> Detections:
        """Wait for the frame, and return its nuclei in raster order, px of the frame that came in.

        Raises
        ------
        EngineError
            If it holds more nuclei than a fused model has room for, or the GPU failed.
        """
        with self._lock:
            if self._found is None:
                found, coloured = self._engine._collect(self._lane, self._threshold)
                self._held = None
                self._found = self._in_frame(found, coloured)
            return self._found

    def _in_frame(self, found: Detections, coloured: bool) -> Detections:
        plan = self._plan
        if not coloured:
            log.warning("the picture has no colour: the stains cannot be told apart, and no nuclei are counted")
            return Detections.empty(found.classes)
        # A fused model does not know of the padding.
        found = found.where((found.x < plan.own_width) & (found.y < plan.own_height))
        x = rescale(found.x, plan.source_width / plan.own_width)
        y = rescale(found.y, plan.source_height / plan.own_height)
        return Detections(x, y, found.cls, found.score, found.classes)


class _Lane:
    """What one batch of a shape needs on its way: buffers, the work that is queued for it, and its end."""

    def __init__(self, engine: TensorRtEngine, shape: tuple[int, int, int]) -> None:
        import cupy

        self._engine, self._shape, card = engine, shape, engine.card
        self._peaks: CudaPeaks | None = None
        self.user: weakref.ref[Submitted] | None = None
        self.end = cupy.cuda.Event(block=True, disable_timing=True)
        self._uploaded = cupy.cuda.Event(disable_timing=True)
        self._pinned: NDArray[np.uint8] | None = None
        self._staged: Any = None
        with engine.stream:
            self.frames = cupy.empty((*shape, 3), np.uint8)
            self.coloured = cupy.zeros(1, np.int32)
            self._threshold = cupy.empty(1, np.float32)
            self._context = engine.context()
            if not self._context.set_input_shape("frame", (*shape, 3)):
                raise engine.refused(f"does not accept frames {[*shape, 3]}")
            self.outputs = {
                name: cupy.empty(tuple(self._context.get_tensor_shape(name)), kind)
                for name, (is_output, kind) in engine.kinds.items()
                if is_output
            }
            if not card.capacity:
                maps = self.outputs["maps"]
                self._peaks = CudaPeaks(maps.shape, maps.dtype, card.nms_radius, card.classes)
        buffers = {"frame": self.frames, "threshold": self._threshold, **self.outputs}
        for name in engine.kinds:
            self._context.set_tensor_address(name, buffers[name].data.ptr)
        self.coloured_here = _pinned((1,), np.int32)
        self._here = {
            name: _pinned(self.outputs[name].shape, self.outputs[name].dtype)
            for name in (("count", "detections") if card.capacity else ())
        }
        self._graph = self._capture()

    @property
    def is_taken(self) -> bool:
        """Whether somebody still wants the result."""
        return self.user is not None and self.user() is not None

    def upload(self, pixels: NDArray[np.uint8], order: str | None) -> DevicePixels:
        """Copy pixels on the host to the device beside the work of other frames; the engine's stream waits for it."""
        import cupy
        from cupy.cuda import runtime

        engine = self._engine
        self.end.synchronize()  # of a frame that was submitted and forgotten
        if self._pinned is None or self._pinned.shape != pixels.shape:
            self._pinned = _pinned(pixels.shape, np.uint8)
            # Of the memory that CuPy keeps for this stream: another's may still be read by work that is queued there.
            with engine.uploads:
                self._staged = cupy.empty(pixels.shape, np.uint8)
        np.copyto(self._pinned, pixels)
        target, from_, size = self._staged.data.ptr, self._pinned.ctypes.data, self._pinned.nbytes
        runtime.memcpyAsync(target, from_, size, runtime.memcpyHostToDevice, engine.uploads.ptr)
        self._uploaded.record(engine.uploads)
        engine.stream.wait_event(self._uploaded)
        return parse_interface({**self._staged.__cuda_array_interface__, "stream": None}, order, self._staged)

    def start(self, threshold: float, height: int, width: int) -> None:
        """Queue network, peaks and the copy of what they find, for the frames that lie in :attr:`frames`."""
        engine = self._engine
        if self._peaks is not None:
            self._peaks.begin(engine.stream, threshold, height, width)
        else:
            with engine.stream:
                self._threshold.fill(np.float32(threshold))
        if self._graph is not None:
            self._graph.launch(engine.stream)
        else:
            self._queue()
        self.end.record(engine.stream)

    def read(self, threshold: float) -> list[Detections]:
        """Return what was found, in model px; the stream must have come past :attr:`end`."""
        if self._peaks is not None:
            return self._peaks.read(self._engine.stream)
        return read_detections(self._here["count"], self._here["detections"], self._engine.card, threshold)

    def _queue(self) -> None:
        from cupy.cuda import runtime

        engine, stream = self._engine, self._engine.stream
        if not self._context.execute_async_v3(stream.ptr):
            raise engine.refused(f"cannot run frames {[*self._shape, 3]}")
        if self._peaks is not None:
            self._peaks.enqueue(stream, self.outputs["maps"].data.ptr)
        for here, there in [
            (self.coloured_here, self.coloured),
            *((h, self.outputs[n]) for n, h in self._here.items()),
        ]:
            runtime.memcpyAsync(here.ctypes.data, there.data.ptr, here.nbytes, runtime.memcpyDeviceToHost, stream.ptr)

    def _capture(self) -> Any:
        """Return the work as a CUDA graph; None where the runtime does not allow it."""
        engine = self._engine
        # TensorRT finishes what a new shape needs in a run of its own, which must not be captured.
        if self._peaks is not None:
            self._peaks.begin(engine.stream, engine.card.threshold)
        self._queue()
        engine.stream.synchronize()
        if not getattr(self._context, "is_stream_capturable", lambda _: True)(engine.stream.ptr):
            return None
        problem: Exception | None = None
        engine.stream.begin_capture()
        try:
            self._queue()
        except Exception as error:  # TensorRT's, CuPy's or ours
            problem = error
        try:
            graph = engine.stream.end_capture()  # always: until then the stream is of no use
        except Exception as error:
            problem = problem or error
        if problem is None:
            return graph
        log.info("no CUDA graph for frames %s: %s", self._shape, problem)
        return None


def check_profile(card: ModelCard, shape: tuple[int, int, int], path: Path) -> None:
    """Raise an EngineError unless an engine takes frames of this shape [N, H, W]."""
    if card.profile is None:
        return
    least, _, largest = card.profile
    if all(low <= side <= high for low, side, high in zip(least, shape, largest, strict=True)):
        return
    like_these = replace(card, profile=(shape, shape, shape))
    takes = " to ".join(dict.fromkeys(f"{n} x {h} x {w}" for n, h, w in (least, largest)))
    raise EngineError(
        f"{path}: built for frames [N, H, W] of {takes} px, found {' x '.join(map(str, shape))} px (at the model's "
        f"{card.mpp:g} um/px, with padding). Build it for these: {build_command(like_these, path)}"
    )


def _pinned(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    import cupy

    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    memory = cupy.cuda.alloc_pinned_memory(max(1, size))
    return np.frombuffer(memory, np.dtype(kind), int(np.prod(shape))).reshape(shape)


def _let_wait(other: int, stream: Any) -> None:
    """Make a stream of somebody else's wait for ours: they may write to the pixels again once these are read."""
    from cupy.cuda import Event, runtime

    event = Event(disable_timing=True)
    event.record(stream)
    runtime.streamWaitEvent(other, event.ptr, 0)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Turn what CuPy raises into messages that say what to do."""
    import cupy

    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        free, total = cupy.cuda.runtime.memGetInfo()
        raise EngineError(
            f"{path}: the GPU's memory does not suffice: {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free "
            f"({error}). Close other programs that use it, or build the engine for smaller frames or a smaller batch"
        ) from error
    except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:  # copies; kernels
        raise EngineError(
            f"{path}: the GPU failed: {error}. After such an error the process must be started again"
        ) from error
    except cupy.cuda.compiler.CompileException as error:
        raise EngineError(f"{path}: CuPy cannot compile the kernels for this GPU: {error}") from error
