"""Sources, compilation and launches of the package's CUDA kernels.

A launch is a value that needs no GPU: CuPy issues it on a device, and the tests issue the same one on a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

OPTIONS = ("-std=c++17", "--fmad=false")
"""NVRTC options. Without fused multiply-adds the device computes the same values as the CPU."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch."""

    kernel: str
    grid: tuple[int, int, int]  # number of blocks: x, y, z
    block: tuple[int, int, int]  # number of threads per block: x, y, z
    arguments: tuple[np.generic, ...]  # in order; device addresses are ``numpy.uint64``
    shared: int = 0  # dynamic shared memory per block, bytes


def source(package: str, name: str) -> str:
    """Return the text of a CUDA file in a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def kernel_names(text: str) -> list[str]:
    """Return the names of the kernels in a CUDA file."""
    return re.findall(r'extern "C" __global__ void (\w+)\(', text)


class Kernels:
    """The kernels of a CUDA file, given as text, compiled for the current device or read from CuPy's cache on disk."""

    def __init__(self, text: str) -> None:
        import cupy

        module = cupy.RawModule(code=text, options=OPTIONS)
        self._functions = {name: module.get_function(name) for name in kernel_names(text)}
        for function in self._functions.values():
            # Reading the attributes loads the kernel: loading is not allowed during stream capture.
            function.attributes  # noqa: B018

    def issue(self, launches: Iterable[Launch], stream: Any) -> None:
        """Issue launches on a CuPy stream, in order."""
        with stream:
            for launch in launches:
                kernel = self._functions[launch.kernel]
                kernel(launch.grid, launch.block, launch.arguments, shared_mem=launch.shared)
