"""The GPU engine on a GPU: every way to pass a frame gives the nuclei of its maps."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kinet_trt.core.errors import EngineError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.deploy.build import build
from kinet_trt.engines.open import open_engine
from kinet_trt.engines.tensorrt.builder import check_machine
from kinet_trt.engines.tensorrt.engine_file import read_plan
from kinet_trt.engines.tensorrt.runtime import TensorRtEngine
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate
from peak_rule import as_tuples

pytestmark = pytest.mark.gpu


def opened(folder, **options):
    """Build the shipped model in FP16 and open it; skip if TensorRT does not run here."""
    path = folder / "edge.engine"
    build(None, path, "fp16", **options)
    card, plan = read_plan(path)
    try:
        library, driver = check_machine(card, plan, path)
    except EngineError as error:
        pytest.skip(str(error))
    return TensorRtEngine(card, plan, library, driver, path)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("engine"), sizes=[(480, 640), (128, 128), (1088, 1920)], batch=4)


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("fused"), sizes=[(480, 640)], fused=True)


@pytest.fixture(scope="module")
def frames():
    return [simulate.field(seed, 640, 480)[0] for seed in range(4)]


def on_the_host(engine, frame, threshold=None):
    """Return the nuclei in the engine's maps of a frame, found on the host."""
    card = engine.card
    fitted = fit(frame, card.mpp, card.multiple)
    maps = engine.run(fitted.pixels[None])[0]
    found = find_peaks(maps, card.threshold if threshold is None else threshold, card.nms_radius, card.classes)
    found = found.where((found.x < fitted.width) & (found.y < fitted.height))
    x, y = fitted.to_frame(found.x, found.y)
    return [(*xy, *rest[2:]) for xy, rest in zip(zip(x, y, strict=True), as_tuples(found), strict=True)]


def exact(found):
    return [(x, y, int(c), float(s)) for x, y, c, s in zip(found.x, found.y, found.cls, found.score, strict=True)]


def test_engine_equals_the_cpu(engine, frames, tmp_path):
    cpu = open_engine(build(None, tmp_path / "edge.onnx", "fp32").path, runtime="onnxruntime")
    for frame in frames:
        card = cpu.card
        expected = find_peaks(cpu.run(frame[None])[0], card.threshold, card.nms_radius, card.classes)
        assert abs(len(engine.detect(frame[None], card.threshold)[0]) - len(expected)) <= max(2, 0.02 * len(expected))


def test_detect_equals_the_peaks_of_the_maps(engine, frames):
    batch = np.stack(frames + frames[:2])  # more than the engine's batch size
    maps = engine.run(batch)
    assert maps.shape == (6, 3, 480, 640)
    for threshold in (0.2, 0.5):
        expected = [as_tuples(find_peaks(one, threshold, engine.card.nms_radius)) for one in maps]
        assert [as_tuples(one) for one in engine.detect(batch, threshold)] == expected


@pytest.mark.parametrize("scale", [None, 1.0, 1.3, 0.6])
def test_submit_equals_the_host(engine, frames, scale):
    frame = Frame(frames[0], None if scale is None else engine.card.mpp * scale)
    assert exact(engine.submit(frame).result()) == on_the_host(engine, frame)
    assert exact(engine.submit(frame, threshold=0.2).result()) == on_the_host(engine, frame, 0.2)


def test_submit_accepts_device_frames_in_another_order(engine, frames):
    import cupy

    expected = exact(engine.submit(frames[1]).result())
    bgra = np.dstack([frames[1][..., ::-1], np.full(frames[1].shape[:2], 255, np.uint8)])
    for given in (bgra, cupy.asarray(bgra)):
        assert exact(engine.submit(given, order="BGRA").result()) == expected


def test_submit_runs_two_frames_in_flight(engine, frames):
    expected = [exact(engine.submit(frame).result()) for frame in frames]
    assert len({len(one) for one in expected}) > 1
    found, before = [], None
    for frame in frames * 3:
        buffer = frame.copy()
        now = engine.submit(buffer)
        buffer[:] = 0  # allowed as soon as submit returns
        if before:
            found.append(exact(before.result()))
        before = now
    found.append(exact(before.result()))
    assert found == expected * 3


def test_submit_rejects_a_third_frame_but_ignores_dropped_ones(engine, frames):
    held = [engine.submit(frames[0]), engine.submit(frames[1])]
    with pytest.raises(EngineError, match="2 frames are in flight"):
        engine.submit(frames[2])
    expected = exact(held[0].result())
    assert exact(held[0].result()) == expected
    del held
    for _ in range(5):
        engine.submit(frames[2])
    assert exact(engine.submit(frames[0]).result()) == expected


def test_threads_share_an_engine(engine, frames):
    expected = [exact(engine.submit(frame).result()) for frame in frames]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda frame: exact(engine.submit(frame).result()), frames * 10))
    assert found == expected * 10
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda frame: len(engine.detect(frame[None], engine.card.threshold)[0]), frames * 10))
    assert counts == [len(one) for one in expected] * 10


def test_fused_model_finds_the_same_nuclei(engine, fused, frames):
    for frame in frames:
        expected = len(engine.submit(frame).result())
        assert abs(len(fused.submit(frame).result()) - expected) <= max(2, 0.02 * expected)
    with pytest.raises(EngineError, match="fused"):
        fused.run(frames[0][None])


def test_engine_rejects_frames_that_do_not_fit(engine, frames):
    with pytest.raises(EngineError, match="built for frames"):
        engine.submit(frames[0][:100, :100])
    with pytest.raises(EngineError, match="expected uint8"):
        engine.submit(frames[0].astype(np.float32))
    with pytest.raises(EngineError, match="threshold: expected"):
        engine.submit(frames[0], threshold=float("nan"))


def _submit_in_fork(engine, frame, messages):
    try:
        engine.submit(frame)
    except EngineError as error:
        messages.put(str(error))


def test_forked_process_is_rejected(engine, frames):
    context = multiprocessing.get_context("fork")
    messages = context.Queue()
    process = context.Process(target=_submit_in_fork, args=(engine, frames[0], messages))
    process.start()
    assert "forked after the engine was opened" in messages.get(timeout=60)
    process.join(60)


def test_submit_time_from_host_frame_to_host_detections(engine, record_property):
    frame = simulate.field(7, 1920, 1080)[0]
    for _ in range(5):
        engine.submit(frame).result()
    alone = []
    for _ in range(50):
        start = time.perf_counter()
        engine.submit(frame).result()
        alone.append(time.perf_counter() - start)
    start, before = time.perf_counter(), engine.submit(frame)
    for _ in range(100):
        now = engine.submit(frame)
        before.result()
        before = now
    before.result()
    record_property("milliseconds_alone", 1000 * float(np.median(alone)))
    record_property("milliseconds_in_a_row", 1000 * (time.perf_counter() - start) / 101)
    assert np.median(alone) < 1
