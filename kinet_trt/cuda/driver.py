"""Query NVIDIA's driver for its version and GPUs, before any other CUDA library is loaded.

Without a driver TensorRT can end the process, and CuPy fails late with unclear errors. The driver's own library is
small and safe to load; it is queried first, through ctypes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from kinet_trt.core.errors import EngineError

LIBRARIES = (
    ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1", "libcuda.so")
)
MIN_CUDA = (12, 0)
"""Oldest supported CUDA version of the driver; CuPy for CUDA 13 needs (13, 0)."""

# CUresult of cuda.h.
_NO_DEVICE, _INSUFFICIENT = 100, 35
_REASONS = {
    3: "it did not initialise",
    34: "it is the stub of the CUDA toolkit, for linking only: remove the stubs folder from LD_LIBRARY_PATH",
    46: "another process uses the GPU in exclusive mode",
    100: "it finds no GPU",
    101: "a requested GPU does not exist: check CUDA_VISIBLE_DEVICES",
    304: "the operating system denied access",
    802: "the GPUs are not ready yet: on machines with NVSwitch, start nvidia-fabricmanager",
    803: "its library and its kernel module are of different versions: restart the machine",
    804: "its forward-compatibility library does not support this GPU: remove it from LD_LIBRARY_PATH",
    999: "unknown error: check that the kernel module is loaded (nvidia-smi)",
}
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute
_NODES = ("/dev/nvidiactl", "/dev/nvidia0")


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str  # in the driver
    capability: tuple[int, int]  # compute capability, (9, 0) for Hopper
    memory: int  # bytes


@dataclass(frozen=True)
class Driver:
    """A working driver with at least one GPU."""

    cuda: tuple[int, int]  # newest supported CUDA version, (13, 0)
    gpus: tuple[Gpu, ...]  # visible GPUs


class DriverError(EngineError):
    """No driver, no GPU, or a driver that is too old; ``reason`` is the short form of the message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def newest_cuda(libraries: tuple[str, ...] = LIBRARIES) -> tuple[int, int] | None:
    """Return the newest CUDA version the driver supports, without initialising it; None if unknown.

    Raise a DriverError if there is no driver. ``libraries`` are candidate names of the driver's library.
    """
    version = ctypes.c_int()
    known = _load(libraries).cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value > 0
    return (version.value // 1000, version.value % 1000 // 10) if known else None


def query_driver(min_cuda: tuple[int, int] = MIN_CUDA, libraries: tuple[str, ...] = LIBRARIES) -> Driver:
    """Query the driver; not cached, since the driver may be updated.

    Raise a DriverError that suggests a fix if there is no driver, no GPU, or the driver is older than ``min_cuda``.
    """
    cuda = newest_cuda(libraries)  # available before cuInit, which fails on old drivers
    library = _load(libraries)
    outcome = library.cuInit(0)
    if cuda and (cuda < min_cuda or outcome == _INSUFFICIENT):
        raise DriverError(
            "it is too old",
            f"NVIDIA's driver is too old: expected one for CUDA {min_cuda[0]}.{min_cuda[1]} or newer, found CUDA "
            f"{cuda[0]}.{cuda[1]}. Update the driver, or count on the CPU with the .onnx model",
        )
    if outcome:
        raise _failure(library, outcome)
    count = ctypes.c_int()
    if outcome := library.cuDeviceGetCount(ctypes.byref(count)):
        raise _failure(library, outcome)
    if count.value < 1:
        raise _failure(library, _NO_DEVICE)
    return Driver(cuda or (0, 0), tuple(_gpu(library, index) for index in range(count.value)))


def _load(libraries: tuple[str, ...]) -> ctypes.CDLL:
    for name in libraries:
        try:
            library = ctypes.CDLL(name)
            for function in ("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceTotalMem_v2"):
                getattr(library, function)
        except (OSError, AttributeError):
            continue
        return library
    raise DriverError(
        "no NVIDIA driver is installed",
        f"no NVIDIA driver: {libraries[0]} cannot be loaded. Install the driver (in a container, give it the GPU: "
        "docker run --gpus all), or count on the CPU with the .onnx model",
    )


def _gpu(library: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    for outcome in (
        library.cuDeviceGet(ctypes.byref(device), index),
        library.cuDeviceGetName(name, len(name), device),
        library.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        library.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        library.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    ):
        if outcome:
            raise _failure(library, outcome)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), memory.value)


def _failure(library: ctypes.CDLL, outcome: int) -> DriverError:
    reason = _REASONS.get(outcome) or _error_string(library, outcome)
    if locked := [node for node in _NODES if Path(node).exists() and not os.access(node, os.R_OK | os.W_OK)]:
        reason += f"; this user has no access to {' and '.join(locked)}: join the group that owns it"
    if outcome == _NO_DEVICE and "CUDA_VISIBLE_DEVICES" in os.environ:
        reason += f"; CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
    return DriverError(
        f"{reason}, CUDA error {outcome}",
        f"NVIDIA's driver is installed but cannot be used: {reason} (CUDA error {outcome}). Without a GPU, count on "
        "the CPU with the .onnx model",
    )


def _error_string(library: ctypes.CDLL, outcome: int) -> str:
    text = ctypes.c_char_p()
    known = hasattr(library, "cuGetErrorString") and library.cuGetErrorString(outcome, ctypes.byref(text)) == 0
    return text.value.decode(errors="replace") if known and text.value else "unknown reason"
