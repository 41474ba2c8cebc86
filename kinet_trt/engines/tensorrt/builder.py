"""Find TensorRT 10.3 to 11.4 or TensorRT for RTX, build a plan, and check that this machine can run it.

Both libraries have the same Python API except where ``hasattr`` is used here. TensorRT builds for the installed GPU;
TensorRT for RTX builds on any machine and completes the plan on the GPU that runs it.
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
from kinet_trt.cuda.device import on_device
from kinet_trt.cuda.driver import Driver, query_driver
from kinet_trt.engines.tensorrt.engine_file import build_command, check_gpu, check_runtime
from kinet_trt.models.card import ModelCard, Profile

log = logging.getLogger(__name__)

_MIN_VERSION = (10, 3)
_REASONS = {
    "VERSION_MISMATCH": "it was built by another version",
    "UNSUPPORTED_CC": "it was not built for this compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old: update it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory",
    "MALFORMED_ENGINE": "it is not an engine",
    "CUDA_ERROR": "CUDA does not work on this machine",
}
Report = Callable[[str, int, int], None]
"""Called with the name of the step, the finished part of it and the total."""


def silent(*_: object) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Library:
    """TensorRT, or TensorRT for RTX."""

    module: Any  # ``tensorrt`` or ``tensorrt_rtx``
    name: str  # as in a model card, such as "TensorRT for RTX"
    version: str  # as in a model card, such as "10.3.0.26"
    logger: Any  # shared by the whole process: TensorRT ignores a second one
    messages: list[str]  # errors logged since the list was last cleared

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX, which builds without a GPU and has no timing cache."""
        return self.name == GPU_RUNTIMES["tensorrt-rtx"]


def find_runtime(runtime: str = "auto") -> str:
    """Return the name of an installed GPU runtime, TensorRT before TensorRT for RTX, without importing it.

    ``runtime`` is ``"auto"``, or a name in :data:`GPU_RUNTIMES`.
    """
    if runtime not in ("auto", *GPU_RUNTIMES):
        raise EngineError(f"runtime: expected auto, {' or '.join(GPU_RUNTIMES)}, found {runtime!r}")
    for name in GPU_RUNTIMES if runtime == "auto" else [runtime]:
        if find_spec(name.replace("-", "_")) is not None:
            return name
    if runtime == "tensorrt":
        raise EngineError(
            "TensorRT is not installed. Install 10.3 or newer, from JetPack or from NVIDIA (pip install tensorrt)"
        )
    raise MissingExtraError("A TensorRT engine", "tensorrt-rtx", "tensorrt_rtx")


@cache
def load_library(runtime: str) -> Library:
    """Import a runtime, a name in :data:`GPU_RUNTIMES`; raise an EngineError if it fails or is too old."""
    try:
        module = importlib.import_module(runtime.replace("-", "_"))
        version = str(module.__version__)
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except Exception as error:  # a broken installation raises various exceptions
        raise EngineError(
            f"{GPU_RUNTIMES[runtime]} is installed but cannot be loaded ({error}). Reinstall it"
        ) from error
    if runtime == "tensorrt" and numbers < _MIN_VERSION:
        raise EngineError(f"TensorRT: expected 10.3 or newer, found {version}. Upgrade it")
    messages: list[str] = []
    return Library(module, GPU_RUNTIMES[runtime], version, _create_logger(module, messages), messages)


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
    """Build a plan from a strongly typed ONNX model; return the plan and the timing cache.

    ``profile`` is the smallest, optimal and largest shape [N, H, W] of the input ``frame``; None if the model fixes the
    shape. ``tf32`` lets FP32 multiplications use TF32. With ``turing``, TensorRT for RTX builds for compute capability
    7.5 instead of 8.0 and newer. ``timing`` is the timing cache of an earlier build, or empty. ``report``
    receives percentages. Raise an EngineError with TensorRT's reasons if it cannot build the plan, and a
    KeyboardInterrupt on Ctrl-C.
    """
    trt = library.module
    library.messages.clear()
    builder = trt.Builder(library.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(model):
        reasons = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(format_error(library, "cannot read the model", reasons))
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if turing:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM75, 0)
    if library.is_rtx:
        # The caller provides all memory: an engine that allocates at run time cannot be captured in a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if profile:
        optimization_profile = builder.create_optimization_profile()
        optimization_profile.set_shape("frame", *((n, h, w, 3) for n, h, w in profile))
        if config.add_optimization_profile(optimization_profile) < 0:
            raise EngineError(format_error(library, f"does not accept the sizes {profile}", library.messages))
    if not library.is_rtx:
        config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False)
    stop, failures = threading.Event(), list[Exception]()
    config.progress_monitor = _create_monitor(trt, report, stop, failures)
    with _interruptible(stop):
        plan = builder.build_serialized_network(network, config)
    if failures:
        raise failures[0]
    if plan is None:
        raise EngineError(format_error(library, "cannot build the model", library.messages))
    report("Building engine", 100, 100)
    if library.is_rtx:
        return bytes(plan), b""
    cache = config.get_timing_cache()
    return bytes(plan), bytes(cache.serialize()) if cache else b""


def context_options(library: Library, engine: Any) -> tuple[Any, Any]:
    """Return options for execution contexts that use the caller's memory, and the cache of compiled kernels, if any.

    TensorRT for RTX compiles kernels for a shape in the background and runs slower ones until then; a captured graph
    would keep the slow ones. With these options it compiles them on a shape's first run, once for all contexts.
    TensorRT stores only the address of the cache: keep it longer than every context.
    """
    trt = library.module
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not library.is_rtx:
        return strategy, None
    options = engine.create_runtime_config()
    options.set_execution_context_allocation_strategy(strategy)
    options.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime_cache = options.create_runtime_cache()
    options.set_runtime_cache(runtime_cache)
    return options, runtime_cache


def check_machine(card: ModelCard, plan: bytes, path: Path, device: int = 0) -> tuple[Library, Driver]:
    """Return the library and the driver to run ``plan`` (from :func:`read_plan`) on GPU ``device``.

    Check the driver before TensorRT is imported, and the versions before TensorRT parses the plan. Raise an EngineError
    if there is no driver or no GPU, TensorRT or CuPy is missing, or the engine was built by another TensorRT or for
    another GPU; the message contains the command that rebuilds the engine on this machine.
    """
    try:
        driver = query_driver()
    except EngineError as error:
        raise EngineError(f"{path}: {error}") from None
    if not 0 <= device < len(driver.gpus):
        names = ", ".join(gpu.name for gpu in driver.gpus)
        raise EngineError(f"gpu: expected 0 to {len(driver.gpus) - 1}, found {device}. The driver lists {names}")
    runtime = next((name for name, title in GPU_RUNTIMES.items() if title == card.runtime), "")
    if not runtime:
        raise EngineError(
            f"{path}: built by {card.runtime}, expected one of {', '.join(GPU_RUNTIMES.values())}. Rebuild the "
            f"engine: {build_command(card, path)}"
        )
    library = load_library(_installed_runtime(runtime))
    check_runtime(card, path, library.name, library.version)
    gpu = driver.gpus[device]
    check_gpu(card, path, gpu.name, gpu.capability)
    if find_spec("cupy") is None:
        package = '"kinet-trt[gpu]"' if driver.cuda >= (13, 0) else "cupy-cuda12x"
        raise EngineError(f"{path}: engines need CuPy, which is not installed. Install it with: pip install {package}")
    with on_device(path, device):
        reasons = incompatibility(library, plan)
    if reasons:
        raise EngineError(
            f"{path}: {library.name} {library.version} cannot run the engine on {gpu.name} ({reasons}). Rebuild the "
            f"engine on this machine: {build_command(card, path)}"
        )
    return library, driver


def incompatibility(library: Library, plan: bytes) -> str:
    """Return why TensorRT cannot run a plan on this machine; empty if it can, or if the version has no such check.

    The reason includes what TensorRT logged. Needs a driver and a plan whose card matches; checks the current GPU.
    """
    trt = library.module
    library.messages.clear()
    runtime = trt.Runtime(library.logger)
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, bits = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return ""
    names = [name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bits) & int(bit)]
    reasons = ", ".join(_REASONS.get(name, name.lower().replace("_", " ")) for name in names) or "unknown reason"
    logged = _first_reasons(library.messages)
    return f"{reasons}; TensorRT: {logged}" if logged else reasons


def _installed_runtime(runtime: str) -> str:
    """Return the runtime if it is installed, else the other one if that is, so that the error can name it."""
    try:
        return find_runtime(runtime)
    except KinetError:
        other = next(name for name in GPU_RUNTIMES if name != runtime)
        if find_spec(other.replace("-", "_")) is None:
            raise
        return other


def _create_logger(trt: Any, messages: list[str]) -> Any:
    """Return a logger that forwards to Python's logging and collects errors in ``messages``."""
    errors = trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                messages.append(message)
            is_warning = severity in (*errors, trt.ILogger.Severity.WARNING)
            log.log(logging.INFO if is_warning else logging.DEBUG, "%s", message)

    return Logger()


def _create_monitor(trt: Any, report: Report, stop: threading.Event, failures: list[Exception]) -> Any:
    """Return a progress monitor that combines nested phases into one percentage that never decreases."""
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
        except Exception as error:  # an exception inside TensorRT would end the process
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
    """Let Ctrl-C stop a build: a KeyboardInterrupt inside TensorRT's callbacks would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        stop.set()

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted.is_set():
        raise KeyboardInterrupt


def format_error(library: Library, problem: str, reasons: list[str]) -> str:
    """Return a one-line message with a problem and TensorRT's first two reasons; later ones are seldom the cause."""
    return f"{library.name} {library.version} {problem}: {_first_reasons(reasons) or 'no reason given'}"


def _first_reasons(reasons: list[str]) -> str:
    lines = [" ".join(reason.split()) for reason in reasons if reason.strip()]
    return "; ".join(dict.fromkeys(lines[:2]))[:600]
