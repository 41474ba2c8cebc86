"""What the package's CUDA files have in common: how their text is found, and what a launch is.

A launch is a value, made without a GPU: CuPy issues it on a device, and the tests issue the same one on a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

OPTIONS = ("-std=c++17", "--fmad=false")
"""What NVRTC is told. Without fused multiply-adds the device's arithmetic is the CPU's."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes
    ----------
    kernel
        Its name.
    grid, block
        Blocks, and threads of each: x, y, z.
    arguments
        In order; a device address is a ``numpy.uint64``.
    shared
        Dynamic shared memory of a block, bytes.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[np.generic, ...]
    shared: int = 0


def source(package: str, name: str) -> str:
    """Return the text of a CUDA file of the package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def kernel_names(text: str) -> list[str]:
    """Return the kernels of a CUDA file."""
    return re.findall(r'extern "C" __global__ void (\w+)\(', text)


class Kernels:
    """The kernels of a CUDA file, compiled for the current device or taken from CuPy's cache on disk.

    Parameters
    ----------
    text
        Of the file.
    """

    def __init__(self, text: str) -> None:
        import cupy

        module = cupy.RawModule(code=text, options=OPTIONS)
        self._functions = {name: module.get_function(name) for name in kernel_names(text)}
        for function in self._functions.values():
            # Asking loads it. Later would not do: nothing may be loaded while a stream is captured in a graph.
            function.attributes  # noqa: B018

    def issue(self, launches: Iterable[Launch], stream: Any) -> None:
        """Put launches on a CuPy stream, in order."""
        with stream:
            for launch in launches:
                kernel = self._functions[launch.kernel]
                kernel(launch.grid, launch.block, launch.arguments, shared_mem=launch.shared)
