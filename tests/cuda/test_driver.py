"""Driver queries against compiled shared libraries that emulate NVIDIA's driver."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import find_program
from kinet_trt.core.errors import EngineError
from kinet_trt.cuda import driver
from kinet_trt.cuda.driver import Gpu, query_driver

SOURCE = """
#include <stddef.h>
#include <string.h>

#ifndef INIT
#define INIT 0
#endif
#ifndef LATER
#define LATER 0
#endif
#ifndef VERSION
#define VERSION 13010
#endif
#ifndef DEVICES
#define DEVICES 2
#endif

static int ready = 0;

int cuInit(unsigned flags) { ready = flags == 0 && INIT == 0; return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return ready ? 0 : 3; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return ready && index < DEVICES ? LATER : 101; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 40 ? "NVIDIA H100 80GB HBM3" : "Orin", length);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = device == 40 ? (attribute == 75 ? 9 : 0) : (attribute == 75 ? 8 : 7);
    return attribute == 75 || attribute == 76 ? 0 : 1;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = device == 40 ? 85899345920u : 8589934592u; return 0; }
#ifndef OLD
int cuGetErrorString(int error, const char **text) {
    *text = error == 719 ? "unspecified launch failure" : 0;
    return error == 719 ? 0 : 1;
}
#endif
"""


@pytest.fixture
def library(tmp_path):
    """Return a function that compiles an emulated driver with the given results."""
    compiler = find_program("gcc", package="g++")

    def build(**answers):
        text, path = tmp_path / "driver.c", tmp_path / f"libcuda{len(list(tmp_path.iterdir()))}.so"
        text.write_text(SOURCE)
        defines = [f"-D{name}={value}" for name, value in answers.items()]
        subprocess.run([compiler, "-shared", "-fPIC", "-Werror", *defines, str(text), "-o", str(path)], check=True)
        return (str(path),)

    return build


def test_query_driver_lists_two_gpus(library):
    found = query_driver(libraries=library())
    assert found.cuda == (13, 1)
    h100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30)
    assert found.gpus == (h100, Gpu("Orin", (8, 7), 8 << 30))


def test_query_driver_without_a_library(tmp_path):
    with pytest.raises(EngineError, match=r"no NVIDIA driver: .*nothing\.so cannot be loaded.*--gpus all"):
        query_driver(libraries=(str(tmp_path / "nothing.so"),))


def test_query_driver_skips_other_libraries(tmp_path, library):
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"\x7fELF no more")
    with pytest.raises(EngineError, match="cannot be loaded"):
        query_driver(libraries=(str(damaged), "libc.so.6"))
    assert query_driver(libraries=(str(damaged), *library())).cuda == (13, 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (34, "stub"),
        (46, "another process uses the GPU"),
        (803, "restart the machine"),
        (804, "forward-compatibility"),
        (999, "kernel module"),
        (719, "unspecified launch failure"),
        (12345, "unknown reason"),
    ],
)
def test_query_driver_explains_a_failed_start(library, code, reason):
    with pytest.raises(EngineError, match=rf"cannot be used: .*{reason}.*CUDA error {code}.*on the CPU"):
        query_driver(libraries=library(INIT=code))


def test_query_driver_without_a_gpu(library, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for answers in ({"INIT": 100}, {"DEVICES": 0}):
        with pytest.raises(EngineError, match=r"it finds no GPU \(CUDA error 100\)"):
            query_driver(libraries=library(**answers))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EngineError, match="it finds no GPU; CUDA_VISIBLE_DEVICES is ''"):
        query_driver(libraries=library(INIT=100))


def test_query_driver_rejects_an_old_driver(library):
    for answers in ({"VERSION": 11080}, {"VERSION": 11080, "INIT": 35}):
        with pytest.raises(EngineError, match=r"expected one for CUDA 12\.0 or newer, found CUDA 11\.8\. Update"):
            query_driver(libraries=library(**answers))
    with pytest.raises(EngineError, match=r"expected one for CUDA 13\.0 or newer, found CUDA 12\.9"):
        query_driver((13, 0), library(VERSION=12090))
    assert query_driver((13, 0), library(VERSION=13000)).cuda == (13, 0)


def test_query_driver_reports_a_gpu_that_fails_later(library):
    with pytest.raises(EngineError, match="another process uses"):
        query_driver(libraries=library(LATER=46))


def test_query_driver_without_error_texts(library):
    with pytest.raises(EngineError, match="unknown reason"):
        query_driver(libraries=library(INIT=719, OLD=1))


def test_query_driver_names_inaccessible_device_files(library, tmp_path, monkeypatch):
    node = tmp_path / "nvidia0"
    node.touch()
    monkeypatch.setattr(driver.os, "access", lambda path, _: str(path) != str(node))  # root may open everything
    monkeypatch.setattr(driver, "_NODES", (str(node), str(tmp_path / "absent")))
    with pytest.raises(EngineError, match=rf"no access to {node}: join the group"):
        query_driver(libraries=library(INIT=100))


def test_query_driver_imports_no_gpu_library():
    code = (
        "import sys, kinet_trt.cuda.driver, kinet_trt.cuda.interop, kinet_trt.engines.tensorrt.preprocess, "
        "kinet_trt.peaks.cuda; print([n for n in ('cupy', 'torch', 'tensorrt', 'tensorrt_rtx') if n in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
