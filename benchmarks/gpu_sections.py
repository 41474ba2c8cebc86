"""GPU sections of benchmarks/gpu.py, each of which runs in its own process.

`python benchmarks/gpu_sections.py SECTION FILE.json MODELS [--tensorrt]`
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_clock import Record, Run, in_turn, summary
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.cuda.driver import query_driver
from kinet_trt.models.card import read_card
from kinet_trt.models.model import DEFAULT_MODEL
from kinet_trt.peaks.reference import find_peaks
from kinet_trt.simulation import simulate

WIDTH, HEIGHT = 1920, 1080
MPP, RADIUS, MULTIPLE = 0.5, 5, 16
PEAKS_BAR_US = 100
RELEASE_FLOP = 2 * 486.3e3 * WIDTH * 1088
"""Operations of the release's nucleus branch at width 32, per frame."""
ROUNDS = 60
SMALL = 256
"""Side of the frame for the test of TensorRT, px."""
PLANS = (("release-32", "fp16"), ("release-32", "int8"), ("kinet-edge", "fp16"), ("kinet-edge", "int8"))


def tensorrt(record: Record, models: Path, _: bool) -> None:
    """Test whether TensorRT builds and runs here; ``step`` records the progress in case of a crash."""
    from kinet_trt.engines.tensorrt import builder as trt

    record.put(runs=False, step="import")
    library = trt.load_library(trt.find_runtime())
    record.put(library=library.name, version=library.version)
    for precision in ("fp16", "int8"):
        found: dict[str, Any] = {}
        record.put(step=f"{precision}: build", **{precision: found})
        try:
            _small(record, library, models, precision, found)
        except KinetError as error:
            found["why"] = str(error)
        record.put()
    record.put(runs="why" not in record.figures["fp16"], step="done")


def _small(record: Record, library: Any, models: Path, precision: str, found: dict[str, Any]) -> None:
    """Build, inspect, load, run and compare a small engine of kinet-edge."""
    from kinet_trt.deploy.build import build
    from kinet_trt.engines.onnxruntime import OnnxRuntimeEngine
    from kinet_trt.engines.tensorrt.builder import check_machine
    from kinet_trt.engines.tensorrt.engine_file import read_plan
    from kinet_trt.engines.tensorrt.runtime import TensorRtEngine

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"edge-{precision}.engine"
        with _seconds(found, "build_s"):
            build(_source(models, "kinet-edge", precision), path, precision, sizes=[(SMALL, SMALL)])
        card, plan = read_plan(path)
        found["plan_bytes"] = len(plan)
        record.put(step=f"{precision}: validity")
        library.messages.clear()
        runtime = library.module.Runtime(library.logger)
        if hasattr(runtime, "get_engine_validity"):
            validity, bits = runtime.get_engine_validity(plan)
            kinds = library.module.EngineInvalidityDiagnostics.__members__
            found["validity"] = validity.name
            found["diagnostics"] = [name for name, bit in kinds.items() if int(bits) & int(bit)]
            found["logged"] = list(library.messages)
        record.put(step=f"{precision}: open and capture")
        checked, driver = check_machine(card, plan, path)
        with _seconds(found, "open_s"):
            engine = TensorRtEngine(card, plan, checked, driver, path)
        found["cuda_graph"] = _slot(engine).network.is_captured
        record.put(step=f"{precision}: run")
        pixels, _truth = simulate.field(1, SMALL, SMALL)
        maps = engine.run(pixels[None])[0]
        expected = OnnxRuntimeEngine(*read_card(DEFAULT_MODEL)).run(pixels[None])[0]
        found["largest_difference_to_cpu_fp32"] = round(float(np.abs(maps - expected).max()), 5)
        of_cpu, of_gpu = (find_peaks(m, card.threshold, card.nms_radius, card.classes) for m in (expected, maps))
        found["nuclei_cpu_fp32"], found["nuclei"] = len(of_cpu), len(of_gpu)
        found["nuclei_are_reference"] = same(engine.detect(pixels[None], card.threshold)[0], of_gpu)


def peaks(record: Record, _: Path, __: bool) -> None:
    """Time the kernels of the peaks on full frames, and compare them with the reference."""
    import cupy

    from kinet_trt.peaks.cuda import CudaPeaks

    stream = cupy.cuda.Stream(non_blocking=True)
    for dtype in (np.float16, np.float32):
        fields = [cones(dtype, seed) for seed in range(4)]
        maps = [cupy.asarray(one[None]) for one in fields]
        cupy.cuda.Device().synchronize()
        found = CudaPeaks((1, 3, HEIGHT, WIDTH), dtype, RADIUS)

        def launch(given: Any, found: Any = found) -> None:
            found.begin(stream, 0.3)
            found.enqueue(stream, given.data.ptr)

        agree, nuclei = [], []
        for field, given in zip(fields, maps, strict=True):
            launch(given)
            stream.synchronize()
            (mine,) = found.read(stream)
            agree.append(same(mine, find_peaks(field, 0.3, RADIUS)))
            nuclei.append(len(mine))
        figures = {**on_device(launch, maps, stream), "nuclei": nuclei, "are_reference": all(agree)}
        figures["bar_us"], figures["within_bar"] = PEAKS_BAR_US, figures["in_a_graph"]["p50_ms"] <= PEAKS_BAR_US / 1000

        def whole(given: Any = maps[0], found: Any = found) -> None:
            launch(given, found)
            stream.synchronize()
            found.read(stream)

        figures["host_clock"] = in_turn({"one": whole}, ROUNDS)["one"]
        record.put(**{np.dtype(dtype).name: figures})


def frames(record: Record, _: Path, __: bool) -> None:
    """Time the steps before the network: copy to pinned memory, transfer and preparation."""
    import cupy

    from kinet_trt.cuda.interop import read_frame
    from kinet_trt.engines.tensorrt.preprocess import CudaPrepare
    from kinet_trt.engines.tensorrt.slot import pinned_array

    stream = cupy.cuda.Stream(non_blocking=True)
    frame = simulate.field(7, WIDTH, HEIGHT)[0]
    pinned = pinned_array(frame.shape, np.uint8)
    staged = cupy.empty(frame.shape, np.uint8)
    kind = cupy.cuda.runtime.memcpyHostToDevice

    def transfer(_: Any) -> None:
        cupy.cuda.runtime.memcpyAsync(staged.data.ptr, pinned.ctypes.data, pinned.nbytes, kind, stream.ptr)

    record.put(
        frame_bytes=frame.nbytes, copy_to_pinned=in_turn({"one": lambda: np.copyto(pinned, frame)}, ROUNDS)["one"]
    )
    record.put(transfer=on_device(transfer, [None], stream))
    bgra = np.dstack([frame[..., ::-1], np.full(frame.shape[:2], 255, np.uint8)])
    for name, pixels, order, mpp in (
        ("copy rgb", frame, "RGB", None),
        ("copy bgra", bgra, "BGRA", None),
        ("enlarged 1.3", frame, "RGB", MPP * 1.3),
        ("shrunk 0.66", frame, "RGB", MPP * 0.66),
        ("shrunk 0.5", frame, "RGB", MPP * 0.5),
    ):
        prepared = CudaPrepare(MPP, MULTIPLE)
        plan = prepared.plan(HEIGHT, WIDTH, mpp)
        with stream:
            target, flag = cupy.empty((plan.height, plan.width, 3), np.uint8), cupy.empty(1, np.int32)
            given = [read_frame(cupy.asarray(pixels), order) for _ in range(4)]
        stream.synchronize()

        def launch(one: Any, prepared: Any = prepared, plan: Any = plan, at: Any = target, flag: Any = flag) -> None:
            prepared.enqueue(stream, plan, one, at.data.ptr, flag.data.ptr)

        figures = on_device(launch, given, stream)
        expected = fit(Frame(frame, mpp), MPP, MULTIPLE).pixels.astype(int)
        figures["largest_difference_to_host"] = int(np.abs(expected - target.get()).max())
        record.put(**{name: figures})


def counting(record: Record, models: Path, with_tensorrt: bool) -> None:
    """Time host frame to host detections: TensorRT, our kernels around PyTorch's network, and PyTorch alone."""
    import torch
    from gpu_torch import CapturedPath, Network, compiled, count, tflops

    torch.backends.cudnn.benchmark = True  # for the best speed of PyTorch
    reached = tflops()
    record.put(
        pytorch_fp32_convolutions_in_tf32=torch.backends.cudnn.allow_tf32,
        release_tflop=round(RELEASE_FLOP / 1e12, 3),
        fp16_tflops_measured=reached,
        floor_ms={
            "at 800 TFLOP/s": round(RELEASE_FLOP / 800e9, 3),
            "measured": round(RELEASE_FLOP / (reached * 1e9), 3),
        },
    )
    frame = simulate.field(7, WIDTH, HEIGHT)[0]
    padded = fit(Frame(frame), MPP, MULTIPLE).pixels
    half, full = Network().cuda(), Network(dtype=torch.float32).cuda()
    with torch.inference_mode():
        maps = half(torch.from_numpy(padded[None]).cuda())[0].float().cpu().numpy()
    threshold = likely_threshold(maps)

    captured = CapturedPath(half, HEIGHT, WIDTH)
    found, maps = captured.collect(captured.submit(frame, threshold)), captured.lanes[0].maps[0].cpu().numpy()
    record.put(captured_pytorch={"nuclei": len(found), "are_reference": same(found, inside(maps, threshold))})
    whole: dict[str, Run] = {
        "PyTorch FP32, eager": lambda: ignored(count(full, padded, threshold)),
        "PyTorch FP16, eager": lambda: ignored(count(half, padded, threshold)),
        "kernels and PyTorch FP16, CUDA graph": lambda: ignored(captured.collect(captured.submit(frame, threshold))),
    }
    alone: dict[str, Run] = {"kernels and PyTorch FP16, CUDA graph": lambda: captured_ms(captured, threshold)}
    rows: dict[str, Callable[[], Any]] = {
        "kernels and PyTorch FP16, CUDA graph": lambda: captured.submit(frame, threshold)
    }
    ends: dict[str, Callable[[Any], Any]] = {"kernels and PyTorch FP16, CUDA graph": captured.collect}
    if with_tensorrt:
        for name, engine, least in opened(record, models, frame):
            whole[name] = lambda e=engine, t=least: ignored(e.submit(frame, threshold=t).result())
            alone[name] = lambda e=engine, t=least: engine_ms(e, t)
            rows[name] = lambda e=engine, t=least: e.submit(frame, threshold=t)
            ends[name] = lambda one: one.result()
    else:
        record.put(tensorrt={"why": "it does not run here, or was left out"})
    record.put(host_to_host=in_turn(whole, ROUNDS, limit_s=60))
    record.put(network_and_peaks_on_device=in_turn(alone, ROUNDS, limit_s=30))
    record.put(frames_per_second={name: throughput(rows[name], ends[name]) for name in rows})

    # Last, since it may compile for minutes.
    took: dict[str, Any] = {}
    try:
        with _seconds(took, "compile_s"):
            fast = compiled(half)
            count(fast, padded, threshold)
        both = CapturedPath(fast, HEIGHT, WIDTH)
    except Exception as error:
        record.put(torch_compile={**took, "why": f"{type(error).__name__}: {error}"[:1000]})
        return
    whole["PyTorch FP16, torch.compile"] = lambda: ignored(count(fast, padded, threshold))
    name = "kernels and PyTorch FP16, torch.compile, CUDA graph"
    whole[name] = lambda: ignored(both.collect(both.submit(frame, threshold)))
    record.put(torch_compile=took, host_to_host_with_compile=in_turn(whole, ROUNDS, limit_s=60))
    record.put(compiled_on_device=in_turn({name: lambda: captured_ms(both, threshold)}, ROUNDS)[name])


def opened(record: Record, models: Path, frame: NDArray[np.uint8]) -> Iterator[tuple[str, Any, float]]:
    """Build and open an engine of each model and precision, verify its nuclei, and yield it with a threshold."""
    from kinet_trt.deploy.build import build
    from kinet_trt.engines.open import open_engine

    told: dict[str, Any] = {}
    for model, precision in PLANS:
        name, figures = f"{model} {precision}, TensorRT", dict[str, Any]()
        told[name] = figures
        record.put(tensorrt=told)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / f"{model}.engine"
                with _seconds(figures, "build_s"):
                    build(_source(models, model, precision), path, precision, sizes=[(1088, WIDTH)])
                figures["plan_bytes"] = path.stat().st_size
                with _seconds(figures, "open_s"):
                    engine: Any = open_engine(path)
            card = engine.card
            fitted = fit(Frame(frame), card.mpp, card.multiple)
            maps = engine.run(fitted.pixels[None])[0]
            least = card.threshold if model == "kinet-edge" else likely_threshold(maps)
            found = engine.submit(frame, threshold=least).result()
            figures["cuda_graph"], figures["nuclei"] = _slot(engine).network.is_captured, len(found)
            figures["are_reference"] = same(found, inside(maps, least))
        except KinetError as error:
            figures["why"] = str(error)
            continue
        finally:
            record.put(tensorrt=told)
        yield name, engine, least


def engine_ms(engine: Any, threshold: float) -> float:
    """Return the time of network, peaks and copy of the results on the device, ms."""
    import cupy

    before, after, slot = cupy.cuda.Event(), cupy.cuda.Event(), _slot(engine)
    before.record(engine.stream)
    slot.start(threshold, HEIGHT, WIDTH)
    after.record(engine.stream)
    after.synchronize()
    return float(cupy.cuda.get_elapsed_time(before, after))


def captured_ms(path: Any, threshold: float) -> float:
    """Return the same for PyTorch's network between our kernels."""
    import torch

    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record(path.stream)
    path.start(path.lanes[0], threshold)
    after.record(path.stream)
    after.synchronize()
    return float(before.elapsed_time(after))


def throughput(submit: Callable[[], Any], collect: Callable[[Any], Any], count: int = 100) -> dict[str, float]:
    """Return frames per second, one at a time and with the next in progress while one is collected."""
    for _ in range(3):
        collect(submit())
    start = time.perf_counter()
    for _ in range(count):
        collect(submit())
    middle = time.perf_counter()
    before = submit()
    for _ in range(count - 1):
        now = submit()
        collect(before)
        before = now
    collect(before)
    end = time.perf_counter()
    return {"one_at_a_time": round(count / (middle - start), 1), "two_on_their_way": round(count / (end - middle), 1)}


def on_device(launch: Callable[[Any], None], inputs: list[Any], stream: Any) -> dict[str, Any]:
    """Time launches between events, singly and in captured graphs; inputs alternate to defeat caches."""
    import cupy

    for one in inputs:
        launch(one)
    stream.synchronize()
    graphs = []
    for one in inputs:
        stream.begin_capture()
        launch(one)
        graphs.append(stream.end_capture())

    def between(work: Callable[[], None]) -> float:
        before, after = cupy.cuda.Event(), cupy.cuda.Event()
        before.record(stream)
        work()
        after.record(stream)
        after.synchronize()
        return float(cupy.cuda.get_elapsed_time(before, after))

    times: dict[str, list[float]] = {"in_a_graph": [], "launched": []}
    for number in range(2 * ROUNDS):
        graph, one = graphs[number % len(inputs)], inputs[number % len(inputs)]
        times["in_a_graph"].append(between(lambda graph=graph: graph.launch(stream)))
        times["launched"].append(between(lambda one=one: launch(one)))
    return {name: summary(own[10:]) for name, own in times.items()}


def cones(dtype: Any, seed: int, nuclei: int = 5000) -> NDArray[Any]:
    """Return maps like those of a network: cones of 12 px around nuclei, and noise."""
    generator = np.random.default_rng(seed)
    maps = generator.normal(0, 0.02, (3, HEIGHT, WIDTH)).astype(np.float32)
    y, x = np.mgrid[-12:13, -12:13]
    cone = np.clip(1 - np.hypot(y, x) / 12, 0, None).astype(np.float32)
    for _ in range(nuclei):
        c, v, u = generator.integers(3), generator.integers(12, HEIGHT - 12), generator.integers(12, WIDTH - 12)
        window = maps[c, v - 12 : v + 13, u - 12 : u + 13]
        np.maximum(window, cone * generator.uniform(0.5, 1), out=window)
    return maps.astype(dtype)


def likely_threshold(maps: NDArray[np.floating]) -> float:
    """Return a threshold with which random maps have about as many nuclei as a field: thousands at most."""
    return float(np.quantile(maps.max(axis=0).astype(np.float32), 0.99))


def inside(maps: NDArray[Any], threshold: float) -> Detections:
    """Return the reference's nuclei of padded maps, without those in the padding."""
    found = find_peaks(maps, threshold, RADIUS)
    return found.where((found.x < WIDTH) & (found.y < HEIGHT))


def same(first: Detections, second: Detections) -> bool:
    """Return whether two lists of nuclei are equal."""
    return all(np.array_equal(getattr(first, n), getattr(second, n)) for n in ("x", "y", "cls", "score"))


def ignored(_: object) -> None:
    """Run a function and return None, so that the host's clock is used."""


def _slot(engine: Any) -> Any:
    return next(iter(engine._slots.values()))[0]


def _source(models: Path, model: str, precision: str) -> Path | None:
    """Return the model of an engine; None: the shipped model."""
    if (model, precision) == ("kinet-edge", "fp16"):
        return None
    path = models / f"{model}-{precision}.onnx"
    if not path.is_file():
        raise KinetError(f"no {path}: benchmarks/gpu_check.sh --pack makes it, on any machine")
    return path


class _seconds:  # noqa: N801
    """Record the duration of a block, even if it fails."""

    def __init__(self, figures: dict[str, Any], name: str) -> None:
        self.figures, self.name = figures, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.figures[self.name] = round(time.perf_counter() - self.start, 2)


SECTIONS: dict[str, Callable[[Record, Path, bool], None]] = {
    "tensorrt": tensorrt,
    "peaks": peaks,
    "counting": counting,
    "frames": frames,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("json", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--tensorrt", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)  # what TensorRT says; kept if the section fails
    try:
        query_driver()  # before any other use of CUDA
        SECTIONS[given.section](Record(given.json), given.models, given.tensorrt)
    except KinetError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
