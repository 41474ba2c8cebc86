"""The current device of a thread, and CuPy's exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinet_trt.core.errors import EngineError


@contextmanager
def on_device(path: Path, device: int) -> Iterator[None]:
    """Make a GPU, given by its index, current in this thread until the end of the block.

    Raise an EngineError instead of CuPy's exceptions; its message begins with ``path``, that of the engine file.
    """
    import cupy

    try:
        with cupy.cuda.Device(device):
            try:
                yield
            except cupy.cuda.memory.OutOfMemoryError as error:
                free, total = cupy.cuda.runtime.memGetInfo()  # of the current GPU
                raise EngineError(
                    f"{path}: out of GPU memory, {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free ({error}). "
                    "Close other programs that use the GPU, or build the engine for smaller frames or a smaller batch"
                ) from error
    except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:  # copies; kernels
        raise EngineError(f"{path}: the GPU failed: {error}. Restart the process after such an error") from error
    except cupy.cuda.compiler.CompileException as error:
        raise EngineError(f"{path}: CuPy cannot compile the kernels for this GPU: {error}") from error
