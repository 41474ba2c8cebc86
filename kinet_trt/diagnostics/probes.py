"""Probe native libraries, each in a subprocess, so that a crash or hang does not affect the caller."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kinet_trt.cuda.driver import Gpu

DRIVER_TIMEOUT = 20.0
"""Seconds; the first start of a driver takes a few."""
COUNT_TIMEOUT = 120.0
"""Seconds; usually two."""
LIBRARY_TIMEOUT = 60.0
_MARK = "kinet-trt-probe "
_REPORT = f"""
import json, sys
def report(**facts):
    print({_MARK!r} + json.dumps(facts), flush=True)
"""


@dataclass(frozen=True)
class ProbeResult:
    """Output of a probe."""

    facts: dict[str, Any]  # reported values by name; `stage` is the error message for the current step
    problem: str  # why it failed; empty on success


@dataclass(frozen=True)
class DriverProbe:
    """NVIDIA's driver, working or not."""

    library: bool  # whether its library is installed
    cuda: tuple[int, int] | None  # newest supported CUDA version; None if unknown
    gpus: tuple[Gpu, ...]
    problem: str  # why there are no GPUs; empty if there are
    second: tuple[str, ...] = ()  # names of the GPUs that nvidia-smi reports, as a cross-check


@dataclass(frozen=True)
class EngineProbe:
    """A CPU engine that was asked to count one simulated field with the built-in model."""

    runtime: str  # "openvino" or "onnxruntime"
    version: str
    offers: tuple[str, ...]  # its devices or providers, and supported precisions
    precision: str  # in which the model runs here
    nuclei: int | None  # found; None if it failed
    true: int | None  # number of nuclei of the field; None if it failed
    seconds: float | None  # from opening the model to the nuclei
    warnings: tuple[str, ...]  # logged meanwhile, for example about a precision that gives wrong results here
    problem: str  # why it failed; empty on success


def ask(program: str, arguments: Sequence[str], timeout: float) -> ProbeResult:
    """Run Python source that reports values with ``report(name=value)``, and return them even if it crashes.

    ``arguments`` are its ``sys.argv[1:]``; it is stopped after ``timeout`` s.
    """
    command = [sys.executable, "-c", _REPORT + program, *arguments]
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except (OSError, ValueError) as error:
        return ProbeResult({}, f"cannot start a Python subprocess: {error}")
    problem = ""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as expired:
        out, err, problem = expired.stdout or b"", b"", f"no answer after {timeout:g} s"
        process.kill()
        # A process that hangs inside a driver may be impossible to kill: do not wait for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
    facts = {name: value for line in out.splitlines() for name, value in _reported(line).items()}
    return ProbeResult(facts, problem or str(facts.get("error", "")) or _ending(process.returncode, err))


def probe_driver(timeout: float = DRIVER_TIMEOUT) -> DriverProbe:
    """Query NVIDIA's driver, without any other GPU library."""
    answer = ask(_DRIVER, [], timeout)
    facts = answer.facts
    gpus = tuple(Gpu(gpu["name"], tuple(gpu["capability"]), gpu["memory"]) for gpu in facts.get("gpus", []))
    version = tuple(facts["cuda"]) if facts.get("cuda") else None
    problem = answer.problem or ("" if gpus else "no GPU found")
    return DriverProbe(bool(facts.get("library")), version, gpus, problem, _nvidia_smi(timeout))


def try_counting(runtime: str) -> EngineProbe:
    """Count one simulated field with the built-in model on a CPU engine."""
    answer = ask(_COUNT, [runtime], COUNT_TIMEOUT)
    facts, problem = answer.facts, answer.problem
    if problem and (stage := facts.get("stage")):
        problem = f"{stage}: {problem}"
    return EngineProbe(
        runtime=runtime,
        version=str(facts.get("version", "")),
        offers=tuple(facts.get("offers", ())),
        precision=str(facts.get("precision", "")),
        nuclei=facts.get("nuclei"),
        true=facts.get("true"),
        seconds=facts.get("seconds"),
        warnings=tuple(facts.get("warnings", ())),
        problem=problem,
    )


def try_library(module: str) -> str:
    """Use a GPU library once: a kernel of CuPy, a runtime of TensorRT. Returns the error message; empty on success.

    Call it only if the driver reports a GPU.
    """
    return ask(_CUPY if module == "cupy" else _TENSORRT, [module], LIBRARY_TIMEOUT).problem


def _reported(line: bytes) -> dict[str, Any]:
    """Return the values of a line of output; empty if it is other output."""
    text = line.decode(errors="replace")
    if not text.startswith(_MARK):
        return {}
    try:
        return dict(json.loads(text[len(_MARK) :]))
    except ValueError:
        return {}


def _ending(status: int | None, err: bytes) -> str:
    """Return why a process failed; empty on success."""
    if status == 0:
        return ""
    if status is not None and status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        why = {"SIGILL": "an instruction that this CPU does not have", "SIGKILL": "possibly out of memory"}.get(name)
        return f"crashed with {name}" + (f" ({why})" if why else "")
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with status {status}"


def _nvidia_smi(timeout: float) -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ()
    names = done.stdout.decode(errors="replace").splitlines() if done.returncode == 0 else []
    return tuple(name.strip() for name in names if name.strip())


# --- programs of the subprocesses -------------------------------------------------------------------------------------

_DRIVER = """
from kinet_trt.cuda.driver import DriverError, newest_cuda, query_driver
try:
    report(cuda=newest_cuda(), library=True)
    found = query_driver((0, 0))
    report(gpus=[dict(name=gpu.name, capability=gpu.capability, memory=gpu.memory) for gpu in found.gpus])
except DriverError as error:
    report(error=error.reason)
"""

_COUNT = """
import logging, time
from kinet_trt.core.telemetry import switch_off
switch_off()
warnings = []
class Keep(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())
logging.getLogger("kinet_trt").addHandler(Keep(logging.WARNING))
runtime = sys.argv[1]
try:
    report(stage="NumPy or OpenCV cannot be loaded")
    import cv2, numpy
    if runtime == "openvino":
        report(stage="it cannot be loaded")
        import openvino
        core = openvino.Core()
        report(version=openvino.__version__.split("-")[0], offers=list(core.available_devices))
        precisions = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        report(offers=[*core.available_devices, *(p for p in precisions if p in ("FP32", "BF16", "FP16", "INT8"))])
    else:
        report(stage="it cannot be loaded")
        import onnxruntime
        providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
        report(version=onnxruntime.__version__, offers=providers)
    report(stage="the built-in model cannot be opened")
    from kinet_trt.simulation import simulate
    from kinet_trt.inference.counter import NucleusCounter
    from kinet_trt.core.frame import Frame
    pixels, truth = simulate.field(1_007, 320, 256)
    start = time.perf_counter()
    counter = NucleusCounter(runtime=runtime)
    report(precision=counter.engine.precision, stage="a simulated field cannot be counted")
    found = counter(Frame(pixels, simulate.NOMINAL_MPP))
    report(nuclei=len(found), true=len(truth), seconds=time.perf_counter() - start, warnings=warnings, stage="")
except Exception as error:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    report(error=lines[-1] if lines else type(error).__name__)
"""

_CUPY = """
try:
    import cupy
    found = int((cupy.arange(4) ** 2).sum())
    if found != 14:
        report(error=f"0 + 1 + 4 + 9 gives {found}")
except Exception as error:
    report(error=(str(error) or type(error).__name__).strip().splitlines()[0])
"""

_TENSORRT = """
import importlib
try:
    trt = importlib.import_module(sys.argv[1])
    if trt.Runtime(trt.Logger(trt.Logger.ERROR)) is None:
        report(error="cannot create a runtime")
except Exception as error:
    report(error=(str(error) or type(error).__name__).strip().splitlines()[0])
"""
