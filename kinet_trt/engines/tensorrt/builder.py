"""What is common to TensorRT 10.3 to 11.4 and TensorRT for RTX: finding it, its one logger, and building a plan.

Both have one Python interface but for what is asked here with ``hasattr``. TensorRT builds for the GPU at hand;
TensorRT for RTX builds anywhere, and finishes on the GPU it meets.
"""

from __future__ import annotations

import importlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kinet_trt.core.errors import EngineError, KinetError, MissingExtraError
from kinet_trt.core.runtimes import GPU_RUNTIMES
from kinet_trt.cuda.driver import Driver, query_driver
from kinet_trt.engines.tensorrt.engine_file import build_command, check_gpu, check_runtime
from kinet_trt.models.card import ModelCard, Profile

log = logging.getLogger(__name__)

_OLDEST = (10, 3)
_REASONS = {
    "VERSION_MISMATCH": "another version built it",
    "UNSUPPORTED_CC": "it was not built for this compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old: update it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory",
    "MALFORMED_ENGINE": "it is not an engine",
    "CUDA_ERROR": "CUDA does not work on this machine",
}
Report = Callable[[str, int, int], None]
"""Is told what is being done, and how many steps of how many of it are done."""


def silent(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Library:
    """TensorRT, or TensorRT for RTX.

    Attributes
    ----------
    module
        ``tensorrt`` or ``tensorrt_rtx``.
    name, version
        In words, as in a model card: ``"TensorRT for RTX"``, ``"1.7.1.116"``.
    logger
        The one of this process: TensorRT ignores a second one.
    messages
        Errors that the logger was given since somebody emptied the list.
    """

    module: Any
    name: str
    version: str
    logger: Any
    messages: list[str]

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, which needs no GPU to build and keeps no timing cache."""
        return self.name == GPU_RUNTIMES["tensorrt-rtx"]


def find_runtime(runtime: str = "auto") -> str:
    """Return which of :data:`GPU_RUNTIMES` is to be used: TensorRT where it is installed, else TensorRT for RTX.

    Nothing is imported.

    Parameters
    ----------
    runtime
        ``"auto"``, or the one that it must be.

    Raises
    ------
    EngineError
        If it is unknown or not installed.
    """
    if runtime not in ("auto", *GPU_RUNTIMES):
        raise EngineError(f"runtime: expected auto, {' or '.join(GPU_RUNTIMES)}, found {runtime!r}")
    for name in GPU_RUNTIMES if runtime == "auto" else [runtime]:
        if find_spec(name.replace("-", "_")) is not None:
            return name
    if runtime == "tensorrt":
        raise EngineError(
            "TensorRT is not installed: it comes with JetPack or from NVIDIA (pip install tensorrt), 10.3 or newer"
        )
    raise MissingExtraError("A TensorRT engine", "tensorrt-rtx", "tensorrt_rtx")


@cache
def load_library(runtime: str) -> Library:
    """Import one of :data:`GPU_RUNTIMES`.

    Raises
    ------
    EngineError
        If it cannot be loaded or is too old.
    """
    try:
        module = importlib.import_module(runtime.replace("-", "_"))
        version = str(module.__version__)
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except Exception as error:  # what a half-installed TensorRT raises differs with how it was installed
        raise EngineError(
            f"{GPU_RUNTIMES[runtime]} is installed but cannot be loaded ({error}): install it again"
        ) from error
    if runtime == "tensorrt" and numbers < _OLDEST:
        raise EngineError(f"TensorRT: expected 10.3 or newer, found {version}: upgrade it")
    messages: list[str] = []
    return Library(module, GPU_RUNTIMES[runtime], version, _logger(module, messages), messages)


def build_plan(
    library: Library,
    model: bytes,
    profile: Profile | None,
    *,
    tf32: bool,
    turing: bool = False,
    timing: bytes = b"",
    report: Report = silent,
) -> tuple[bytes, bytes]:
    """Build an ONNX model as its types say, and return the plan and the timing cache.

    Parameters
    ----------
    library
        What builds it.
    model
        A serialised ONNX model that TensorRT can read.
    profile
        Least, best and largest shape [N, H, W] of the input ``frame``; None: its shape is fixed in the model.
    tf32
        Whether FP32 arithmetic may round its factors to 10 bits.
    turing
        Whether TensorRT for RTX is to build for compute capability 7.5 instead of for 8.0 and newer.
    timing
        The timing cache of an earlier build; empty: there is none.
    report
        Is told how far it is, in percent.

    Raises
    ------
    EngineError
        If TensorRT cannot build it; the message holds its reasons.
    KeyboardInterrupt
        When the user interrupts it.
    """
    trt = library.module
    library.messages.clear()
    builder = trt.Builder(library.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(model):
        reasons = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(_sentence(library, "cannot read the model", reasons))
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if turing:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM75, 0)
    if library.is_rtx:
        # Memory is ours then, also for large tensors: what allocates while it runs cannot be captured in a graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if profile:
        shapes = builder.create_optimization_profile()
        shapes.set_shape("frame", *((n, h, w, 3) for n, h, w in profile))
        if config.add_optimization_profile(shapes) < 0:
            raise EngineError(_sentence(library, f"refuses the sizes {profile}", library.messages))
    if not library.is_rtx:
        config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False)
    stop, failures = threading.Event(), list[Exception]()
    config.progress_monitor = _monitor(trt, report, stop, failures)
    with _interruptible(stop):
        plan = builder.build_serialized_network(network, config)
    if failures:
        raise failures[0]
    if plan is None:
        raise EngineError(_sentence(library, "cannot build the model", library.messages))
    report("Building engine", 100, 100)
    if library.is_rtx:
        return bytes(plan), b""
    kept = config.get_timing_cache()
    return bytes(plan), bytes(kept.serialize()) if kept else b""


def context_options(library: Library, engine: Any) -> Any:
    """Return what an engine's execution contexts are made with: memory comes from the caller.

    TensorRT for RTX compiles kernels for a shape in the background and runs slower ones until they are ready, which a
    captured graph would then keep: here it compiles them at a shape's first run, once for all contexts.
    """
    trt = library.module
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not library.is_rtx:
        return strategy
    running = engine.create_runtime_config()
    running.set_execution_context_allocation_strategy(strategy)
    running.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    running.set_runtime_cache(running.create_runtime_cache())
    return running


def check_machine(card: ModelCard, plan: bytes, path: Path) -> tuple[Library, Driver]:
    """Return what can run an engine on this machine, or say why nothing can.

    The driver is asked before TensorRT is touched, and TensorRT before it parses the plan.

    Parameters
    ----------
    card, plan
        The engine, from :func:`kinet_trt.engines.tensorrt.engine_file.read_plan`.
    path
        Where it lies.

    Raises
    ------
    EngineError
        If there is no driver or no GPU, TensorRT or CuPy is missing, or the engine was built by another TensorRT or
        for another GPU. The message names both sides and the command that helps.
    """
    try:
        driver = query_driver()
    except EngineError as error:
        raise EngineError(f"{path}: {error}") from None
    runtime = next((name for name, words in GPU_RUNTIMES.items() if words == card.runtime), "")
    if not runtime:
        raise EngineError(
            f"{path}: built by {card.runtime}, expected one of {', '.join(GPU_RUNTIMES.values())}: build it again: "
            f"{build_command(card, path)}"
        )
    library = load_library(_installed_runtime(runtime))
    check_runtime(card, path, library.name, library.version)
    gpu = driver.gpus[0]
    check_gpu(card, path, gpu.name, gpu.capability)
    if find_spec("cupy") is None:
        package = '"kinet-trt[gpu]"' if driver.cuda >= (13, 0) else "cupy-cuda12x"
        raise EngineError(f"{path}: an engine runs with CuPy, which is not installed: pip install {package}")
    if reasons := refusal(library, plan):
        raise EngineError(
            f"{path}: {library.name} {library.version} does not run it on {gpu.name}: {reasons}. Build it here: "
            f"{build_command(card, path)}"
        )
    return library, driver


def refusal(library: Library, plan: bytes) -> str:
    """Return in words why this TensorRT will not run a plan here; empty where it will, or cannot tell beforehand.

    Only for a plan whose card fits, and only where there is a driver.
    """
    trt = library.module
    runtime = trt.Runtime(library.logger)
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, bits = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return ""
    names = [name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bits) & int(bit)]
    return ", ".join(_REASONS.get(name, name.lower().replace("_", " ")) for name in names) or "unknown reason"


def _installed_runtime(runtime: str) -> str:
    """Return the runtime if it is installed, else the other one if that is: its name then stands in the message."""
    try:
        return find_runtime(runtime)
    except KinetError:
        other = next(name for name in GPU_RUNTIMES if name != runtime)
        if find_spec(other.replace("-", "_")) is None:
            raise
        return other


def _logger(trt: Any, messages: list[str]) -> Any:
    """Return a logger that passes on to Python's, and keeps errors for the message that ends a failed build."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.INFO,
        trt.ILogger.Severity.ERROR: logging.INFO,
        trt.ILogger.Severity.WARNING: logging.INFO,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                messages.append(message)
            log.log(levels.get(severity, logging.DEBUG), "%s", message)

    return Logger()


def _monitor(trt: Any, report: Report, stop: threading.Event, failures: list[Exception]) -> Any:
    """Return a progress monitor: phases nest, and what all of them say together is one percentage, that never falls."""
    phases: dict[str, tuple[str | None, int, int]] = {}  # name: parent, steps, steps done
    reached = 0.0

    def show(name: str) -> None:
        nonlocal reached
        share, phase = 0.0, name
        while phase in phases:
            parent, total, done = phases[phase]
            share = min(1.0, (done + share) / max(1, total))
            if parent is None or parent == phase:
                break
            phase = parent
        reached = max(reached, share)
        try:
            report(name, int(100 * reached), 100)
        except Exception as error:  # an exception must not pass through TensorRT: it would end the process
            failures.append(error)
            stop.set()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases[phase_name] = (parent_phase, num_steps, 0)
            show(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            parent, total, _ = phases.get(phase_name, (None, step + 1, 0))
            phases[phase_name] = (parent, total, step + 1)
            show(phase_name)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            phases.pop(phase_name, None)

    return Monitor()


@contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C ask TensorRT to stop: a KeyboardInterrupt raised inside of its callbacks would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = threading.Event()

    def note(*_: object) -> None:
        interrupted.set()
        stop.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _sentence(library: Library, what: str, reasons: list[str]) -> str:
    """Return one message of what TensorRT said; its last words are seldom the first cause."""
    lines = [" ".join(reason.split()) for reason in reasons if reason.strip()]
    said = "; ".join(dict.fromkeys(lines[:2])) or "no reason given"
    return f"{library.name} {library.version} {what}: {said[:600]}"
