"""Asks NVIDIA's driver what it is and which GPUs it sees, before anything else of CUDA is touched.

A TensorRT runtime without a driver can end the process; CuPy without one fails late and says little. The driver's own
library is small, answers safely and is asked first, through ctypes.
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
"""Oldest driver with which anything here has a chance; CuPy for CUDA 13 needs (13, 0)."""

# CUresult of cuda.h.
_NO_DEVICE, _INSUFFICIENT = 100, 35
_WORDS = {
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
    """One GPU.

    Attributes
    ----------
    index
        Its number, among those that CUDA_VISIBLE_DEVICES lets the process see.
    name
        As the driver calls it.
    capability
        Compute capability, (9, 0) for Hopper.
    memory
        Bytes in all.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory: int

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name} (sm_{major}{minor}, {self.memory / 2**30:.0f} GiB)"


@dataclass(frozen=True)
class Driver:
    """A driver that answers, with at least one GPU.

    Attributes
    ----------
    cuda
        Newest CUDA that it runs, (13, 0).
    gpus
        What it sees.
    """

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


class DriverError(EngineError):
    """No driver, no GPU, or a driver that is too old; ``why`` says it in a few words."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def newest_cuda(libraries: tuple[str, ...] = LIBRARIES) -> tuple[int, int] | None:
    """Return the newest CUDA that the driver runs, asked without starting it; None: it does not say.

    Raises
    ------
    DriverError
        If there is no driver.
    """
    version = ctypes.c_int()
    answered = _load(libraries).cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value > 0
    return (version.value // 1000, version.value % 1000 // 10) if answered else None


def query_driver(least: tuple[int, int] = MIN_CUDA, libraries: tuple[str, ...] = LIBRARIES) -> Driver:
    """Ask the driver; the answer may change when a driver is updated, so it is not kept.

    Parameters
    ----------
    least
        Oldest CUDA version that will do.
    libraries
        Names under which its library is sought.

    Raises
    ------
    DriverError
        If there is no driver, no GPU, or the driver is too old; what to do about it.
    """
    # Unlike all else it answers before cuInit, which fails where the driver is older than its kernel module's caller.
    cuda = newest_cuda(libraries)
    library = _load(libraries)
    outcome = library.cuInit(0)
    if cuda and (cuda < least or outcome == _INSUFFICIENT):
        raise DriverError(
            "it is too old",
            f"NVIDIA's driver is too old: expected one for CUDA {_dotted(least)} or newer, found CUDA "
            f"{_dotted(cuda)}: update the driver, or count on the CPU with the .onnx model",
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
    return Gpu(index, name.value.decode(errors="replace"), (major.value, minor.value), memory.value)


def _failure(library: ctypes.CDLL, outcome: int) -> DriverError:
    words = _WORDS.get(outcome) or _driver_words(library, outcome)
    if locked := [node for node in _NODES if Path(node).exists() and not os.access(node, os.R_OK | os.W_OK)]:
        words += f"; this user has no access to {' and '.join(locked)}: join the group that owns it"
    if outcome == _NO_DEVICE and "CUDA_VISIBLE_DEVICES" in os.environ:
        words += f"; CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
    return DriverError(
        f"{words}, CUDA error {outcome}",
        f"NVIDIA's driver is installed but cannot be used: {words} (CUDA error {outcome}). Without a GPU, count on "
        "the CPU with the .onnx model",
    )


def _driver_words(library: ctypes.CDLL, outcome: int) -> str:
    text = ctypes.c_char_p()
    known = hasattr(library, "cuGetErrorString") and library.cuGetErrorString(outcome, ctypes.byref(text)) == 0
    return text.value.decode(errors="replace") if known and text.value else "unknown reason"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
