"""The GPU engine with CuPy and TensorRT replaced by host memory; tests/gpu runs it on a GPU."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cupy_on_cpu import ORDERS, STATE, Array, current_device, installed
from kinet_trt import NucleusCounter, Threshold
from kinet_trt.core.errors import EngineError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.cuda.driver import Driver, Gpu
from kinet_trt.engines.tensorrt.loaded_plan import LoadedPlan
from kinet_trt.engines.tensorrt.network import Network
from kinet_trt.engines.tensorrt.runtime import TensorRtEngine
from kinet_trt.models.card import ModelCard
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate
from peak_rule import as_tuples
from tensorrt_on_cpu import library

THRESHOLD = 0.4


def network(frames):
    """Return maps of pixels, [N, H, W, 3] to [N, 3, H, W]: dark is high."""
    return 1 - frames.transpose(0, 3, 1, 2) / 255


CARD = ModelCard(
    "edge", 0.5, (0, 0, 0), (1, 1, 1), THRESHOLD, precision="fp16", profile=((1, 16, 16), (1, 48, 64), (2, 96, 96))
)
DRIVER = Driver((13, 0), (Gpu("a GPU", (8, 9), 24 << 30), Gpu("another GPU", (12, 0), 32 << 30)))


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    with installed(tmp_path_factory.mktemp("kernels")):
        yield


@pytest.fixture(params=ORDERS, autouse=True)
def order(gpu, request, monkeypatch):
    """Run each test in each order of the queued work."""
    import cupy

    monkeypatch.setattr(STATE, "order", request.param)
    yield
    cupy.cuda.Device().synchronize()


@pytest.fixture(scope="module")
def engine(gpu):
    return TensorRtEngine(CARD, b"plan", library(network), DRIVER, Path("edge.engine"))


@pytest.fixture(scope="module")
def frames():
    return [simulate.field(seed, 64, 48)[0] for seed in range(3)]


def expected(frame, mpp=None, threshold=THRESHOLD):
    fitted = fit(Frame(frame, mpp), 0.5, 16)
    maps = network(fitted.pixels[None])[0].astype(np.float16)
    found = find_peaks(maps, threshold)
    found = found.where((found.x < fitted.width) & (found.y < fitted.height))
    return [*zip(*fitted.to_frame(found.x, found.y), found.cls, found.score, strict=True)]


def of(found):
    return [*zip(found.x, found.y, found.cls, found.score, strict=True)]


def test_both_slots_are_warmed_up_and_share_one_captured_network(gpu):
    engine = TensorRtEngine(CARD, b"plan", library(network), DRIVER, Path("edge.engine"))
    (slots,) = engine._slots.values()
    assert len(slots) == 2
    assert slots[0].network is slots[1].network
    assert slots[0].network.is_captured
    assert engine._plan._engine.context_count == 1


def test_runtime_cache_of_rtx_lives_as_long_as_the_engine(gpu, frames):
    rtx = TensorRtEngine(CARD, b"plan", library(network, is_rtx=True), DRIVER, Path("edge.engine"))
    assert of(rtx.submit(frames[0]).result()) == expected(frames[0])


@pytest.mark.parametrize("mpp", [None, 0.7, 0.4, 0.36])
def test_submit_equals_the_reference(engine, frames, mpp):
    found = engine.submit(Frame(frames[0], mpp)).result()
    assert of(found) == expected(frames[0], mpp)
    assert len(found)
    assert of(engine.submit(frames[0], mpp=mpp, threshold=0.6).result()) == expected(frames[0], mpp, 0.6)


def test_submit_allows_two_frames_in_flight(engine, frames):
    buffers = [frame.copy() for frame in frames]
    held = [engine.submit(buffer) for buffer in buffers[:2]]
    for buffer in buffers:
        buffer[:] = 0  # allowed as soon as submit returns
    with pytest.raises(EngineError, match="2 frames are in flight"):
        engine.submit(frames[2])
    assert [of(one.result()) for one in held] == [expected(frame) for frame in frames[:2]]
    assert of(engine.submit(frames[2]).result()) == expected(frames[2])


def test_failed_result_fails_again_instead_of_returning_another_frame(engine, frames, monkeypatch):
    pending = engine.submit(frames[0])
    slot = pending._slot
    with monkeypatch.context() as patch:
        patch.setattr(slot, "read", lambda threshold: (_ for _ in ()).throw(EngineError("expected at most 5 nuclei")))
        with pytest.raises(EngineError, match="expected at most 5 nuclei"):
            pending.result()
    later = engine.submit(frames[1])
    assert later._slot is slot
    slot.done.synchronize()
    for _ in range(2):
        with pytest.raises(EngineError, match="expected at most 5 nuclei"):
            pending.result()
    assert of(later.result()) == expected(frames[1])


def test_interrupted_result_can_be_waited_for_again(engine, frames, monkeypatch):
    pending = engine.submit(frames[0])
    with monkeypatch.context() as patch:
        patch.setattr(pending._slot, "read", lambda threshold: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pending.result()
    assert of(engine.submit(frames[1]).result()) == expected(frames[1])
    assert of(pending.result()) == expected(frames[0])


def test_results_and_failures_keep_no_cycle_alive(engine, frames, monkeypatch):
    gc.collect()
    gc.disable()
    try:
        done = engine.submit(frames[0])
        done.result()
        failed = engine.submit(frames[1])
        with monkeypatch.context() as patch:
            patch.setattr(failed._slot, "read", lambda threshold: (_ for _ in ()).throw(EngineError("no")))
            for _ in range(2):
                with pytest.raises(EngineError):
                    failed.result()
        references = [weakref.ref(done), weakref.ref(failed)]
        del done, failed
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_submit_accepts_other_orders_sizes_and_device_arrays(engine, frames):
    bgra = np.dstack([frames[1][..., ::-1], np.full((48, 64), 255, np.uint8)])
    for given in (bgra, Array(bgra)):
        assert of(engine.submit(given, order="BGRA").result()) == expected(frames[1])
    for height, width in ((33, 47), (32, 64), (48, 32), (32, 32), (32, 47), (48, 64)):  # more than are cached
        part = frames[0][:height, :width]
        assert of(engine.submit(part).result()) == expected(part)


def no_memory(*_):
    import cupy

    raise cupy.cuda.memory.OutOfMemoryError("16 GiB")


def test_sizes_without_memory_are_refused_and_the_engine_goes_on(engine, frames, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("kinet_trt.engines.tensorrt.runtime.Network", no_memory)
        with pytest.raises(EngineError, match=r"out of GPU memory, 1,024 of 4,096 MiB are free \(16 GiB\)"):
            engine.submit(np.resize(frames[0], (80, 80, 3)))
    for height, width in ((33, 47), (32, 64), (48, 32), (32, 32), (32, 47), (48, 64)):
        part = frames[0][:height, :width]
        assert of(engine.submit(part).result()) == expected(part)


def test_buffers_are_released_once_idle(engine, frames):
    waited = []
    shape = 1, 48, 64
    engine.submit(frames[0])  # result never collected
    for slot in engine._slots[shape]:
        slot.done = SimpleNamespace(synchronize=lambda: waited.append(shape), record=lambda _: 0)
    del slot
    for height, width in ((33, 47), (32, 64), (48, 32), (32, 32), (32, 47)):
        engine.submit(frames[0][:height, :width]).result()
    assert shape not in engine._slots
    assert set(waited) == {shape}


@pytest.mark.parametrize("held", [False, True])
def test_dropped_engine_is_released_at_once_contexts_first(gpu, frames, held):
    released = []
    gc.collect()
    gc.disable()
    try:
        engine = TensorRtEngine(CARD, b"plan", library(network, is_rtx=True), DRIVER, Path("edge.engine"))
        engine.submit(frames[0][:32, :32])  # result never collected
        engine.submit(frames[0]).result()
        pending = engine.submit(frames[0]) if held else None
        plan = engine._plan
        for name, one in {
            "cache": plan._runtime_cache,
            "options": plan._context_options,
            "engine": plan._engine,
            "scratch": plan._scratch,
            **{f"context {shape}": slots[0].network._context for shape, slots in engine._slots.items()},
        }.items():
            weakref.finalize(one, released.append, name)
        del one, plan
        del engine
        assert bool(released) is not held  # a frame in flight keeps the engine
        del pending
    finally:
        gc.enable()
    assert sorted(released[:2]) == ["context (1, 32, 32)", "context (1, 48, 64)"]
    assert [name for name in released[2:] if name != "scratch"] == ["cache", "options", "engine"]
    assert "scratch" in released[2:]


def test_engine_in_a_cycle_waits_for_its_work_before_it_is_released(gpu, frames):
    engine = TensorRtEngine(CARD, b"plan", library(network, is_rtx=True), DRIVER, Path("edge.engine"))
    engine.submit(frames[0])  # result never collected
    engine.cycle = engine
    del engine
    gc.collect()


def test_context_that_cannot_be_captured_leaves_no_cycle(gpu, monkeypatch, caplog):
    import cupy

    plan = LoadedPlan(CARD, b"plan", library(network), Path("edge.engine"), cupy.cuda.Stream(non_blocking=True))
    stream = cupy.cuda.Stream(non_blocking=True)

    def end_capture():
        stream.queue.recorded = None
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorStreamCaptureInvalidated")

    monkeypatch.setattr(stream, "end_capture", end_capture)
    gc.collect()
    gc.disable()
    try:
        with caplog.at_level("INFO"):
            uncaptured = Network(plan, (1, 32, 32), stream)
        assert not uncaptured.is_captured
        assert "no CUDA graph for frames (1, 32, 32): cudaErrorStreamCaptureInvalidated" in caplog.text
        context = weakref.ref(uncaptured._context)
        del uncaptured
        assert context() is None
    finally:
        gc.enable()


def test_fused_plan_finds_the_reference_and_refuses_more_than_its_capacity(gpu, frames):
    card = replace(CARD, capacity=64)
    fused = TensorRtEngine(card, b"plan", library(network, capacity=64), DRIVER, Path("edge.engine"))
    held = [fused.submit(frame) for frame in frames[:2]]
    assert [of(one.result()) for one in held] == [expected(frame) for frame in frames[:2]]
    assert of(fused.submit(frames[0], threshold=0.6).result()) == expected(frames[0], threshold=0.6)
    assert [as_tuples(one) for one in fused.detect(np.stack(frames), THRESHOLD)] == [
        as_tuples(find_peaks(network(frame[None])[0].astype(np.float16), THRESHOLD)) for frame in frames
    ]
    card = replace(CARD, capacity=5)
    fused = TensorRtEngine(card, b"plan", library(network, capacity=5), DRIVER, Path("edge.engine"))
    pending = fused.submit(frames[0])
    for _ in range(2):
        with pytest.raises(EngineError, match="expected at most 5 nuclei"):
            pending.result()
        assert len(fused.submit(frames[0], threshold=0.99).result()) <= 5


def test_grey_frames_have_no_nuclei(engine, frames, caplog):
    grey = np.repeat(frames[0][..., :1], 3, axis=2)
    assert len(engine.submit(grey).result()) == 0
    assert "no colour" in caplog.text


def test_run_and_detect_split_large_batches(engine, frames):
    batch = np.stack(frames)
    maps = engine.run(batch)
    assert np.array_equal(maps, network(batch).astype(np.float16))
    assert [as_tuples(one) for one in engine.detect(batch, THRESHOLD)] == [
        as_tuples(find_peaks(m, THRESHOLD)) for m in maps
    ]


class PyCudaArray:
    """A device array as PyCUDA's: it names no stream."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "stream": None}


class DlpackArray:
    """A device array as PyTorch's: the producer makes the consumer's stream wait for its current one."""

    def __init__(self, array):
        import cupy

        self.array, self.stream = array, cupy.cuda.get_current_stream()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, stream=None):
        import cupy

        ready = self.stream.record()
        cupy.cuda.runtime.streamWaitEvent(stream, ready.ptr)
        return self.array


def submit_between_writes(engine, first, then, writer, wrap=lambda array: array, **options):
    """Return the nuclei of a frame that a stream writes before it is submitted, and overwrites afterwards."""
    with writer:
        frame = Array(np.zeros_like(first))
        frame.set(first)
        pending = engine.submit(wrap(frame), **options)
        frame.set(then)
    return of(pending.result())


@pytest.mark.parametrize("wrap", [lambda array: array, PyCudaArray, DlpackArray])
def test_writes_of_the_default_stream_are_ordered_with_the_engine(engine, frames, wrap):
    import cupy

    writer = cupy.cuda.Stream.null
    assert submit_between_writes(engine, frames[0], frames[1], writer, wrap) == expected(frames[0])


@pytest.mark.parametrize("wrap", [lambda array: array, DlpackArray])
@pytest.mark.parametrize("non_blocking", [False, True])
def test_writes_of_the_current_stream_are_ordered_with_the_engine(engine, frames, non_blocking, wrap):
    import cupy

    writer = cupy.cuda.Stream(non_blocking=non_blocking)
    # DLPack tells when a frame is ready, but not on which stream the producer writes next.
    then = frames[0] if wrap is DlpackArray else frames[1]
    assert submit_between_writes(engine, frames[0], then, writer, wrap) == expected(frames[0])


@pytest.mark.parametrize("wrap", [lambda array: array, PyCudaArray, DlpackArray])
def test_writes_of_a_named_stream_are_ordered_with_the_engine(engine, frames, wrap):
    import cupy

    writer = cupy.cuda.Stream(non_blocking=True)
    found = submit_between_writes(engine, frames[0], frames[1], writer, wrap, stream=writer.ptr)
    assert found == expected(frames[0])


@pytest.mark.parametrize(
    ("order", "name", "wait"),
    [
        ("late", "kinet_trt.engines.tensorrt.runtime.wait_for", lambda stream, pixels: None),
        ("early", "kinet_trt.engines.tensorrt.runtime.delay_writes", lambda pixels, stream: None),
        ("late", "cupy_on_cpu.Event.synchronize", lambda event: None),
    ],
    indirect=["order"],
)
def test_missing_waits_give_other_nuclei(engine, frames, order, name, wait, monkeypatch):
    """Checks the stand-in: without one of the waits, it finds the nuclei of something else."""
    import cupy

    writer = cupy.cuda.Stream(non_blocking=True)
    monkeypatch.setattr(name, wait)
    assert submit_between_writes(engine, frames[0], frames[1], writer) != expected(frames[0])


@pytest.mark.parametrize("order", ["late"], indirect=True)
def test_missing_wait_for_the_upload_gives_other_nuclei(engine, frames, order, monkeypatch):
    monkeypatch.setattr("cupy_on_cpu.Stream.wait_event", lambda stream, event: None)
    assert of(engine.submit(frames[0]).result()) != expected(frames[0])


def test_submitted_arrays_are_kept_until_they_are_read(engine, frames):
    import cupy

    with cupy.cuda.Stream(non_blocking=True):
        pending = engine.submit(Array(frames[0]))  # nothing else refers to the array
    assert of(pending.result()) == expected(frames[0])
    array = Array(frames[1])  # released in the order of another stream than that of the frame
    with cupy.cuda.Stream(non_blocking=True):
        pending = engine.submit(array)
    del array
    assert of(pending.result()) == expected(frames[1])


def test_dropped_frames_of_other_sizes_do_not_disturb_the_next(engine, frames):
    for size in (48, 47, 46, 48):  # the same model input
        engine.submit(frames[0][:size])
    assert of(engine.submit(frames[1]).result()) == expected(frames[1])


@pytest.mark.parametrize("mpp", [None, 0.5, 0.7])
def test_counter_submits_whole_frames_from_host_and_device(engine, frames, mpp, monkeypatch):
    counter, submitted = NucleusCounter(engine, threshold=THRESHOLD), []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda *a, **k: submitted.append(1) or submit(*a, **k))
    assert of(counter(frames[0], mpp)) == expected(frames[0], mpp)
    assert of(counter(Array(frames[1]), mpp)) == expected(frames[1], mpp)
    assert len(submitted) == 2
    with pytest.raises(EngineError, match="built for frames"):
        counter(simulate.field(7, 160, 128)[0])


def test_threads_share_the_slots(engine, frames):
    counter = NucleusCounter(engine, threshold=THRESHOLD)
    alone = [expected(frame) for frame in frames]
    with ThreadPoolExecutor(6) as pool:
        assert [of(found) for found in pool.map(counter, frames * 8)] == alone * 8
    assert [of(found) for found in counter.stream(frames * 3)] == alone * 3


@pytest.mark.parametrize("device", [0, 1])
def test_engine_runs_on_its_gpu_and_restores_that_of_the_caller(gpu, frames, device, monkeypatch):
    import cupy

    with cupy.cuda.Device(device):
        on_device = Array(frames[1])
    with cupy.cuda.Device(1 - device):
        engine = TensorRtEngine(CARD, b"plan", library(network), DRIVER, Path("edge.engine"), device)
        assert current_device() == 1 - device
        assert engine.runtime.endswith(DRIVER.gpus[device].name)
        pending = engine.submit(frames[0])
        assert current_device() == 1 - device
        assert of(pending.result()) == expected(frames[0])
        assert of(engine.submit(on_device).result()) == expected(frames[1])
        assert len(engine.detect(np.stack(frames), THRESHOLD)) == len(engine.run(np.stack(frames))) == 3
        with pytest.raises(EngineError):
            engine.submit(frames[0].astype(np.float32))
        with monkeypatch.context() as patch:
            patch.setattr("kinet_trt.engines.tensorrt.runtime.Network", no_memory)
            with pytest.raises(EngineError, match=f"{1 + device},... of 4,096 MiB are free"):
                engine.submit(frames[0][:32, :32])
        assert current_device() == 1 - device
        with ThreadPoolExecutor(1) as pool:  # a thread whose current device is 0
            assert of(pool.submit(lambda: engine.submit(frames[2]).result()).result()) == expected(frames[2])
            assert pool.submit(current_device).result() == 0


@pytest.mark.parametrize(("location", "found"), [(0, "GPU 0"), (-1, "another CUDA context")])
def test_frames_elsewhere_are_refused_with_the_advice_for_pycuda(gpu, frames, location, found, monkeypatch):
    import cupy

    monkeypatch.setattr(cupy.cuda.runtime, "pointerGetAttributes", lambda _: SimpleNamespace(device=location))
    engine = TensorRtEngine(CARD, b"plan", library(network), DRIVER, Path("edge.engine"), 1)
    with pytest.raises(EngineError) as caught:
        engine.submit(Array(frames[0]))
    assert f"expected it in the primary context of GPU 1, found {found}. " in str(caught.value)
    assert "import pycuda.autoprimaryctx instead of pycuda.autoinit" in str(caught.value)


def test_relative_threshold_needs_maps_on_the_host(engine, frames):
    counter = NucleusCounter(engine, threshold=THRESHOLD).with_threshold(Threshold(0.5, relative=True))
    assert len(counter(frames[0])) > 0
    with pytest.raises(EngineError, match="Give a number"):
        counter(Array(frames[0]))
