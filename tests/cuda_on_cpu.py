"""The package's CUDA files compiled for the CPU (cuda_shim.h), and by NVRTC for the devices that exist."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from conftest import find_program, skip
from kinet_trt.cuda.kernels import OPTIONS, Launch, kernel_names

OUTCOMES = {1: "more shared memory than 48 KiB", 2: "a write beyond shared memory", 3: "threads left a barrier waiting"}
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
GUARD = 64
"""Bytes on both sides of each buffer that no kernel may touch."""


def build(text: str, folder: Path) -> ctypes.CDLL:
    """Compile the text of a CUDA file for the CPU, warnings and all."""
    compiler = find_program("g++", package="g++")
    kernels = kernel_names(text)
    assert kernels
    unit, library = folder / "kernels.cpp", folder / "kernels.so"
    exports = "".join(f"EXPORT({kernel})\n" for kernel in kernels)
    unit.write_text(f'#include "cuda_shim.h"\n{text}\n{exports}')
    command = [compiler, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-parentheses"]
    command += ["-ffp-contract=off", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-I", str(Path(__file__).parent)]
    subprocess.run([*command, str(unit), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class CpuModule:
    """The kernels of a CUDA file, as functions on host memory."""

    def __init__(self, text: str, folder: Path) -> None:
        self._library = build(text, folder)

    def issue(self, launches: Iterable[Launch], seed: int = 0) -> None:
        """Run launches, the threads in an order drawn from the seed."""
        for launch in launches:
            held = [np.asarray(argument) for argument in launch.arguments]
            given = (ctypes.c_void_p * len(held))(*[value.ctypes.data for value in held])
            grid, block = ((ctypes.c_uint * 3)(*size) for size in (launch.grid, launch.block))
            run = getattr(self._library, f"run_{launch.kernel}")
            outcome = run(grid, block, ctypes.c_uint(launch.shared), given, ctypes.c_uint(seed))
            assert outcome == 0, f"{launch.kernel}: {OUTCOMES[outcome]}"


class Buffer:
    """Host memory in the place of device memory: full of rubbish, at a multiple of 16, watched at both ends."""

    def __init__(self, size: int) -> None:
        raw = np.full(size + 2 * GUARD + 16, 0xA5, np.uint8)
        start = GUARD + -(raw.ctypes.data + GUARD) % 16
        self.raw, self.start, self.size = raw, start, size
        self.bytes = raw[start : start + size]
        self.address = self.bytes.ctypes.data

    def check(self) -> None:
        """Fail if a kernel wrote outside."""
        outside = np.concatenate([self.raw[: self.start], self.raw[self.start + self.size :]])
        assert (outside == 0xA5).all(), "a kernel wrote outside its memory"


def nvrtc() -> ctypes.CDLL:
    """Load NVRTC from its wheel."""
    try:
        found = files("nvidia-cuda-nvrtc") or []
    except PackageNotFoundError:
        found = []
    for file in found:
        if re.fullmatch(r"libnvrtc\.so\.\d+", file.name):
            return ctypes.CDLL(str(file.locate()))
    skip("no nvidia-cuda-nvrtc, which compiles the kernels for GPUs")
    raise AssertionError


def compile_for(library: ctypes.CDLL, text: str, architecture: int) -> str:
    """Compile for a GPU as CuPy does; return the log, which holds warnings. A failure is an AssertionError with it."""
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    options = [*OPTIONS, f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"]
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    outcome = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert outcome == 0, log.value.decode()
    return log.value.decode()
