"""Open a model with the engine for its suffix."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from kinet_trt.core.errors import EngineError, MissingExtraError
from kinet_trt.core.runtimes import CPU_RUNTIMES
from kinet_trt.engines.base import Engine
from kinet_trt.models.model import Model


def open_engine(
    path: Path,
    precision: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    runtime: str = "auto",
    gpu: int = 0,
) -> Engine:
    """Open a model with the engine for its suffix.

    Parameters
    ----------
    path
        A ``.onnx`` file for the CPU, or an ``.engine`` file with its card beside it for the GPU.
    precision
        ``"auto"``, or the precision to compute in.
    threads
        CPU threads; None for one per core.
    cache
        Folder in which OpenVINO caches compiled models; None for no cache.
    runtime
        ``"openvino"``, ``"onnxruntime"``, or ``"auto"``: OpenVINO if it is installed, else ONNX Runtime. An engine
        file needs the TensorRT that built it.
    gpu
        Index of the GPU for an engine file, in the order of the driver.

    Raises
    ------
    KinetError
        If the file is not a kinet-trt model, is damaged, or cannot run here.
    """
    if path.suffix.lower() == ".engine":
        return _open_engine_file(path, precision, runtime, gpu)
    if path.suffix.lower() != ".onnx":
        raise EngineError(
            f"{path}: expected a model file ending in .onnx or .engine, found {path.suffix or 'no suffix'}"
        )
    return open_model(Model.read(path), precision, threads, cache, runtime)


def open_model(
    model: Model,
    precision: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    runtime: str = "auto",
) -> Engine:
    """Open an ONNX model on the CPU; parameters and errors as for :func:`open_engine`."""
    if runtime not in ("auto", *CPU_RUNTIMES):
        raise EngineError(f"runtime: expected auto, {' or '.join(CPU_RUNTIMES)}, found {runtime!r}")
    # Lazily imported: both imports are slow, and only one is needed.
    if runtime == "openvino" or (runtime == "auto" and find_spec("openvino")):
        from kinet_trt.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model.card, model.data, precision, threads, cache)
    if not find_spec("onnxruntime"):
        raise MissingExtraError("This engine", "onnxruntime", "onnxruntime")
    from kinet_trt.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model.card, model.data, precision, threads)


def _open_engine_file(path: Path, precision: str, runtime: str, gpu: int) -> Engine:
    # Check the files and the driver before loading any GPU library.
    from kinet_trt.engines.tensorrt.builder import check_machine
    from kinet_trt.engines.tensorrt.engine_file import read_plan

    card, plan = read_plan(path)
    if runtime != "auto":
        raise EngineError(f"{path}: needs {card.runtime}, {runtime} was requested. Use the .onnx model")
    if precision not in ("auto", card.precision):
        raise EngineError(
            f"{path}: built in {card.precision}, {precision} was requested. Rebuild the engine in {precision}"
        )
    library, driver = check_machine(card, plan, path, gpu)
    from kinet_trt.engines.tensorrt.runtime import TensorRtEngine

    return TensorRtEngine(card, plan, library, driver, path, gpu)
