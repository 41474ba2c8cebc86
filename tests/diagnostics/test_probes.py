"""Probes of processes that crash or hang, and of a driver compiled for the test."""

import shutil
import subprocess
import sys

import pytest

from conftest import find_program, skip
from kinet_trt.cuda.driver import Gpu
from kinet_trt.diagnostics.probes import ask, probe_driver, try_counting, try_library


def test_probe_keeps_reported_values_after_a_crash():
    assert ask("report(a=1); report(b=[2])", [], 20).facts == {"a": 1, "b": [2]}
    assert ask("print('kinet-trt-probe {'); print('noise'); report(c=sys.argv[1])", ["µ"], 20).facts == {"c": "µ"}
    answer = ask("report(stage='here'); sys.exit('words at the end')", [], 20)
    assert (answer.facts["stage"], answer.problem) == ("here", "words at the end")
    assert ask("sys.exit(3)", [], 20).problem == "ended with status 3"
    assert ask("report(error='no')", [], 20).problem == "no"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("name", "says"), [("SIGILL", "does not have"), ("SIGSEGV", "SIGSEGV"), ("SIGKILL", "memory")])
def test_probe_describes_a_crash(name, says):
    answer = ask(f"import os, signal; report(stage='x'); os.kill(os.getpid(), signal.{name})", [], 20)
    assert answer.facts == {"stage": "x"}
    assert name in answer.problem
    assert says in answer.problem


def test_probe_stops_after_the_timeout():
    answer = ask("import time; report(stage='x'); time.sleep(60)", [], 1.5)
    assert answer.problem == "no answer after 1.5 s"
    if sys.platform != "win32":
        assert answer.facts == {"stage": "x"}


def test_probe_without_python_is_not_a_crash(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "cannot start" in ask("", [], 5).problem


# --- a driver ---------------------------------------------------------------------------------------------------------

DRIVER = """
#include <string.h>
int cuDriverGetVersion(int *v) { *v = VERSION; return 0; }
int cuInit(unsigned f) { INIT; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int i) { *d = 10 + i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, d == 10 ? "GPU zero" : "GPU one", n); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int d) { *b = 80000000000ul; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : a == 76 ? d - 10 : -1; return 0; }
int cuGetErrorString(int e, const char **s) { *s = e == 100 ? "no CUDA-capable device is detected" : 0; return 0; }
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Return a function that installs a fake driver on the loader's path."""
    if sys.platform != "linux":
        skip("a made-up driver needs Linux")
    compiler = find_program("gcc", package="g++")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi

    def make(init="return 0", version=12080):
        source = tmp_path / "driver.c"
        source.write_text("#include <unistd.h>\n" + DRIVER.replace("INIT", init).replace("VERSION", str(version)))
        command = [compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source]
        subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin"})
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    return make


def test_driver_probe_returns_cuda_and_gpus(driver):
    driver()
    found = probe_driver()
    assert (found.library, found.cuda, found.problem) == (True, (12, 8), "")
    assert found.gpus == (Gpu("GPU zero", (9, 0), 80_000_000_000), Gpu("GPU one", (9, 1), 80_000_000_000))


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("return 100", "it finds no GPU, CUDA error 100"),
        ("return 803", "restart the machine, CUDA error 803"),
        ("*(volatile int *)0 = 1; return 0", "SIGSEGV"),
        ("sleep(60); return 0", "no answer after"),
    ],
)
def test_driver_probe_returns_the_problem(driver, init, says):
    driver(init)
    found = probe_driver(timeout=2)
    assert (found.library, found.cuda, found.gpus) == (True, (12, 8), ())
    assert says in found.problem


def test_driver_probe_asks_nvidia_smi_too(tmp_path, monkeypatch):
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        skip("needs a Linux machine without a GPU")
    assert probe_driver().problem == "no NVIDIA driver is installed"
    assert probe_driver().second == ()
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA Made-up 1\necho NVIDIA Made-up 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert probe_driver().second == ("NVIDIA Made-up 1", "NVIDIA Made-up 2")
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert probe_driver().second == ()
    program.write_text("no program at all")
    assert probe_driver().second == ()


# --- engines and libraries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_engine_probe_counts(runtime):
    pytest.importorskip(runtime)
    found = try_counting(runtime)
    assert found.problem == ""
    assert found.nuclei == pytest.approx(found.true, rel=0.15)
    assert "CPU" in found.offers
    assert found.precision in ("fp32", "bf16")
    assert found.version


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that shadows a module with a fake one."""

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_engine_probe_names_the_step_that_crashed(module):
    module("openvino", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    found = try_counting("openvino")
    assert found.nuclei is None
    assert "it cannot be loaded: crashed with SIGILL (an instruction that this CPU does not have)" in found.problem


def test_engine_probe_returns_the_import_error(module):
    module("cv2", "raise ImportError('libGL.so.1: cannot open shared object file')")
    assert try_counting("openvino").problem == (
        "NumPy or OpenCV cannot be loaded: libGL.so.1: cannot open shared object file"
    )


def test_library_probe_returns_the_error(module):
    module("cupy", "import numpy\narange = numpy.arange")
    assert try_library("cupy") == ""
    module("cupy", "arange = lambda n: __import__('numpy').zeros(n)")
    assert "gives 0" in try_library("cupy")
    module("cupy", "raise RuntimeError('CuPy failed to load libnvrtc.so.12')")
    assert try_library("cupy") == "CuPy failed to load libnvrtc.so.12"
    logger = "class Logger:\n  ERROR = 1\n  def __init__(self, level): pass\n"
    module("tensorrt", logger + "def Runtime(logger): return None\n")
    assert try_library("tensorrt") == "cannot create a runtime"
    module("tensorrt", logger + "def Runtime(logger): return 1\n")
    assert try_library("tensorrt") == ""
