"""Measure kinet-trt on the GPU of this machine: gpu-DEVICE.json, to be committed under benchmarks/results/.

`benchmarks/gpu_check.sh` runs it. Sections, in the order of importance:

- tensorrt: whether TensorRT runs here, in FP16 and INT8, or why it does not;
- peaks: the kernels of the peaks on full frames, compared with the reference;
- counting: 1920 x 1080 px, the release's network at full width, from host frame to host detections: TensorRT, our
  kernels around PyTorch's network in a CUDA graph, PyTorch eager and compiled; kinet-edge in TensorRT;
- tests: tests/gpu;
- frames: preparation and transfer of frames.

Each section runs in its own process: a crash or timeout is recorded, and results up to then are kept. Results are added
to the file of an earlier run on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.cuda.driver import query_driver
from kinet_trt.diagnostics.machine import installed, read_machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KEPT = Path(tempfile.gettempdir()) / "kinet-trt-gpu"
"""Folder with a copy of the figures for the next run on this machine, whose output folder may differ."""
SCHEMA = 1
SECTIONS = {"tensorrt": 150, "peaks": 90, "counting": 300, "tests": 240, "frames": 90}
"""Time limit of each section, s, in the order of execution."""
NEEDED = {
    "kinet_trt.export": "the package: python -m pip install --no-deps --no-build-isolation -e .",
    "cv2": "OpenCV: every section needs it. python -m pip install opencv-python-headless",
    "cupy": "CuPy",
    "torch": "PyTorch: counting needs it",
    "onnx": "onnx: engines are built with it",
    "onnxruntime": "ONNX Runtime: FP16 is held to it",
    "pytest": "pytest: the GPU tests need it",
    "hypothesis": "Hypothesis: the GPU tests need it",
    "tensorrt or tensorrt_rtx": "TensorRT: unpack TensorRT for RTX (gpu_check.sh --unpack), or name its folder",
}
PACKAGES = (
    "kinet-trt", "numpy", "opencv-python-headless", "onnx", "onnxruntime", "torch", "triton", "cupy-cuda13x",
    "cupy-cuda12x", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
LOG = 2000
"""Number of last characters of the output of a failed section to keep."""


def missing() -> dict[str, str]:
    """Return missing packages and files by name, with their purpose."""
    return {name: what for name, what in NEEDED.items() if not any(map(_is_here, name.split(" or ")))}


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def machine() -> dict[str, Any]:
    """Return the device and versions; raise EngineError if there is no usable GPU."""
    driver, here, packages = query_driver(), read_machine(), installed()
    gpu = driver.gpus[0]
    return {
        "device": gpu.name,
        "compute_capability": ".".join(map(str, gpu.capability)),
        "memory_mib": gpu.memory >> 20,
        "driver": here.driver_version,
        "cuda_of_driver": ".".join(map(str, driver.cuda)),
        "cpu": here.cpu,
        "cores": here.cores,
        "system": here.system,
        "python": platform.python_version(),
        "versions": {name: packages[name] for name in PACKAGES if name in packages},
    }


def place(folder: Path, device: str) -> Path:
    """Return the path of the figures of a device."""
    return folder / f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-') or 'none'}.json"


def earlier(out: Path, device: str, here: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of an earlier run on the same machine with the same versions."""
    for path in (place(folder, device) for folder in (out, KEPT, RESULTS)):
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if document.get("schema") == SCHEMA and document.get("machine") == here:
            return dict(document["sections"])
    return {}


def run(command: list[str], limit_s: float, extra: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command and return its ``outcome`` and ``seconds``, and its last output if it failed."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **(extra or {})},
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(max(1, limit_s))
            outcome = "done" if code == 0 else f"failed, exit status {code}"
            if code < 0:
                outcome = f"ended by {signal.Signals(-code).name}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # including its child processes, such as compilers
            process.wait()
            outcome = f"stopped after {limit_s:.0f} s"
        log.seek(0)
        said = log.read().decode(errors="replace")
    ended = {"outcome": outcome, "seconds": round(time.monotonic() - started, 1)}
    return ended if outcome == "done" else {**ended, "said": said[-LOG:]}


def section(name: str, limit_s: float, models: Path, with_tensorrt: bool) -> dict[str, Any]:
    """Run one section in its own process, and return its figures and outcome."""
    if name == "tests":
        return gpu_tests(limit_s)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "section.json"
        command = [sys.executable, "-X", "faulthandler", str(ROOT / "benchmarks" / "gpu_sections.py")]
        command += [name, str(path), str(models), *(["--tensorrt"] if with_tensorrt else [])]
        ended = run(command, limit_s)
        figures = json.loads(path.read_text()) if path.is_file() else {}
    return {**ended, **figures}


def gpu_tests(limit_s: float, folder: Path = ROOT / "tests" / "gpu") -> dict[str, Any]:
    """Run the GPU tests, each module in its own process, and return the outcome of each test."""
    if lacking := [name for name in ("pytest", "hypothesis") if not _is_here(name)]:
        return {"outcome": f"not run: {' and '.join(lacking)} not installed"}
    deadline = time.monotonic() + limit_s
    found: dict[str, Any] = {"outcome": "done"}
    for module in sorted(folder.glob("test_*.py")):
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / "junit.xml"
            # Warnings are not errors here, since other versions of the packages are installed.
            command = [
                sys.executable,
                "-X",
                "faulthandler",
                "-m",
                "pytest",
                str(module),
                "-q",
                "-p",
                "no:cacheprovider",
            ]
            command += ["-o", "filterwarnings=default", f"--junitxml={report}"]
            ended = run(command, deadline - time.monotonic(), {"KINET_TRT_GPU": "1"})
            figures = outcomes(report.read_text()) if report.is_file() else {}
        found[module.stem] = {**ended, **figures}
        if ended["outcome"] != "done":
            found["outcome"] = "failed"
    return found


def outcomes(junit: str) -> dict[str, Any]:
    """Return the numbers of tests that passed, failed and were skipped, with reasons, and their records."""
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    why: dict[str, str] = {}
    recorded: dict[str, Any] = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name = case.get("name", "")
        bad = next((node for node in case if node.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if bad is None else "skipped" if bad.tag == "skipped" else "failed"
        counts[kind] += 1
        if bad is not None:
            why[name] = (bad.get("message") or "")[:500]
        for node in case.iter("property"):
            recorded[f"{name}: {node.get('name')}"] = node.get("value")
    return {**counts, "why": why, "recorded": recorded}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or RESULTS), help="folder of the JSON file"
    )
    parser.add_argument("--models", type=Path, default=ROOT / ".gpu" / "models", help="models made by gpu_pack.py")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="any of " + ", ".join(SECTIONS))
    parser.add_argument("--limit", type=float, default=480, help="time limit, s")
    parser.add_argument("--no-tensorrt", action="store_true", help="omit TensorRT in all sections")
    asked = parser.parse_args(given)
    asked.sections = asked.sections.split(",")
    if unknown := set(asked.sections) - set(SECTIONS):
        parser.error(f"--sections: expected some of {', '.join(SECTIONS)}, found {', '.join(sorted(unknown))}")
    return asked


def main(given: list[str] | None = None) -> int:
    """Run the sections; return 0 if all completed."""
    asked, deadline = arguments(given), time.monotonic()
    deadline += asked.limit
    asked.out.mkdir(parents=True, exist_ok=True)
    lacking = missing()
    for name, what in lacking.items():
        print(f"missing: {name}. {what}")
    try:
        here = machine()
    except EngineError as error:
        print(f"no GPU: {error}")
        document = {"schema": SCHEMA, "machine": None, "no_gpu": str(error), "missing": lacking, "sections": {}}
        write_atomic(place(asked.out, ""), json.dumps(document, indent=1) + "\n")
        return 1
    KEPT.mkdir(exist_ok=True)
    path = place(asked.out, here["device"])
    done = earlier(asked.out, here["device"], here)
    document = {"schema": SCHEMA, "machine": here, "missing": lacking, "sections": done}
    chosen = [name for name in SECTIONS if name in asked.sections and not (asked.no_tensorrt and name == "tensorrt")]
    if not asked.no_tensorrt and "counting" in chosen and "tensorrt" not in {*chosen, *done}:
        chosen = ["tensorrt", *chosen]  # keep the section if this crashes
    good = True
    for name in chosen:
        left = deadline - time.monotonic()
        if left < 10:
            print(f"{name}: no time left; --sections {name} runs it alone")
            good = False
            continue
        usable = not asked.no_tensorrt and bool(done.get("tensorrt", {}).get("runs"))
        print(f"{name} ...", flush=True)
        done[name] = section(name, min(left - 5, SECTIONS[name]), asked.models, usable)
        for file in (path, place(KEPT, here["device"])):
            write_atomic(file, json.dumps(document, indent=1) + "\n")
        print(f"{name}: {done[name]['outcome']}", flush=True)
        # A result that TensorRT does not run here is not a failure.
        good &= name == "tensorrt" or done[name]["outcome"] == "done"
    print(path)
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KinetError as error:
        sys.exit(f"gpu: {error}")
