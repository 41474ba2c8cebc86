"""Peak finding on the device, with the same result as :mod:`kinet_trt.peaks.reference`.

Three kernels (``peaks.cu``) run on one stream, followed by one copy of the nuclei to pinned memory. A run neither
waits for the host nor allocates memory. One bit per pixel and a count per row put the nuclei into raster order,
regardless of how the GPU schedules the blocks.

Memory traffic for 1920 x 1080 px x 3 classes in FP16: the maps are 12.4 MB; tiles of 32 x 64 px with a margin of 5 px
read them 1.7 times in sectors of 32 bytes, 21 MB, mostly from the L2 cache, to which the network has just written them;
the bits are 0.26 MB, written and read once; 5,000 nuclei are 80 kB. FP32 maps are twice as large. At 3 TB/s this takes
7 us in FP16 and 14 us in FP32; about 90 instructions per pixel take 7 us on 132 multiprocessors. The window maximum is
separable and computed in shared memory: 10 horizontal comparisons per pixel and, only for the remaining candidates, 10
vertical ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.cuda.kernels import Kernels, Launch, source
from kinet_trt.peaks.reference import MAX_RADIUS

# Keep in step with peaks.cu.
TILE_WIDTH, TILE_HEIGHT, BAND, GATHER_THREADS = 32, 64, 16, 128
BLOCK = (TILE_WIDTH, 8, 1)
SETTINGS_BYTES = 16
NUCLEUS_BYTES = 16
"""x, y, score and class, float32."""

FIRST_NUCLEI = 8192
"""Maximum number of nuclei in the first copy to the host, 128 KiB; a dense 1920 x 1080 px field has fewer."""


@dataclass(frozen=True)
class PeakPlan:
    """Launches and memory layout for maps of one shape; needs no GPU."""

    shape: tuple[int, int, int, int]  # of the maps: images, classes, height, width
    dtype: np.dtype[Any]  # of the maps, float32 or float16
    radius: int = 5  # of the suppression window, px (side 2 x radius + 1)

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or min(self.shape) < 1:
            raise ValueError(f"maps: expected [images, classes, height, width], found {list(self.shape)}")
        if self.dtype not in (np.dtype(np.float32), np.dtype(np.float16)):
            raise ValueError(f"maps: expected float32 or float16, found {self.dtype}")
        if not 1 <= self.radius <= MAX_RADIUS:
            raise ValueError(f"radius: expected 1 to {MAX_RADIUS} px, found {self.radius}")

    @cached_property
    def capacity(self) -> int:
        """Maximum number of nuclei in all images together."""
        # A square of side radius + 1 contains at most one nucleus: the higher of two would suppress the other.
        images, _, height, width = self.shape
        return images * -(-height // (self.radius + 1)) * -(-width // (self.radius + 1))

    @property
    def rows(self) -> int:
        """Total number of rows in all images."""
        return self.shape[0] * self.shape[2]

    @property
    def words(self) -> int:
        """Number of 32-bit words of peak bits per row, equal to the number of tiles per row."""
        return -(-self.shape[3] // TILE_WIDTH)

    @property
    def work_bytes(self) -> int:
        """Size of the device memory for settings, row counts and peak bits, bytes."""
        return SETTINGS_BYTES + 4 * self.rows * (1 + self.words)

    @property
    def header_bytes(self) -> int:
        """Size of the start positions before the nuclei, bytes."""
        return -(-4 * (self.shape[0] + 1) // NUCLEUS_BYTES) * NUCLEUS_BYTES

    @property
    def found_bytes(self) -> int:
        """Size of the buffer of start positions and nuclei, on the device and on the host, bytes."""
        return self.header_bytes + NUCLEUS_BYTES * self.capacity

    @property
    def first_bytes(self) -> int:
        """Size of the first copy to the host, bytes."""
        return self.header_bytes + NUCLEUS_BYTES * min(self.capacity, FIRST_NUCLEI)

    def begin(self, work: int, threshold: float, height: int | None = None, width: int | None = None) -> Launch:
        """Return the launch that must precede every :meth:`find`.

        ``work`` is the device address of ``work_bytes`` bytes; ``threshold`` is compared as float32. ``height`` and
        ``width`` are without the padding at the bottom and on the right, px; None for no padding.
        """
        if not np.isfinite(threshold):
            raise ValueError(f"threshold: expected a finite number, found {threshold}")
        with np.errstate(over="ignore"):
            minimum = np.float32(threshold)
        size = [self.shape[2] if height is None else height, self.shape[3] if width is None else width]
        if not (0 <= size[0] <= self.shape[2] and 0 <= size[1] <= self.shape[3]):
            expected = f"0 x 0 to {self.shape[3]} x {self.shape[2]} px"
            raise ValueError(f"size: expected {expected}, found {size[1]} x {size[0]} px")
        blocks = min(-(-self.rows // 256), 64)
        counts = np.uint64(work + SETTINGS_BYTES)
        arguments = (np.uint64(work), counts, np.int32(self.rows), minimum, np.int32(size[0]), np.int32(size[1]))
        return Launch("peaks_begin", (blocks, 1, 1), (256, 1, 1), arguments)

    def find(self, maps: int, work: int, found: int) -> tuple[Launch, Launch]:
        """Return the launches that find the nuclei; can be captured in a CUDA graph.

        ``maps`` is the device address of the maps, contiguous; ``work`` and ``found`` are those of ``work_bytes`` and
        ``found_bytes`` bytes, at multiples of 16.
        """
        images, channels, height, width = self.shape
        settings, counts = np.uint64(work), np.uint64(work + SETTINGS_BYTES)
        marks = np.uint64(work + SETTINGS_BYTES + 4 * self.rows)
        starts, nuclei = np.uint64(found), np.uint64(found + self.header_bytes)
        size = np.int32(channels), np.int32(height), np.int32(width)
        tile_rows, tile_columns = TILE_HEIGHT + 2 * self.radius, TILE_WIDTH + 2 * self.radius
        mark = Launch(
            f"peaks_mark_{self.dtype}",
            (self.words, -(-height // TILE_HEIGHT), images),
            BLOCK,
            (np.uint64(maps), *size, np.int32(self.radius), settings, marks, counts),
            4 * (BAND * tile_columns + tile_rows * TILE_WIDTH + TILE_HEIGHT * TILE_WIDTH + TILE_HEIGHT),
        )
        gather = Launch(
            f"peaks_gather_{self.dtype}",
            (self.rows, 1, 1),
            (GATHER_THREADS, 1, 1),
            (
                *(np.uint64(maps), np.int32(images), *size, np.int32(self.words), marks, counts),
                *(np.int32(self.capacity), starts, nuclei),
            ),
            4 * GATHER_THREADS,
        )
        return mark, gather

    def starts(self, found: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return the index of the first nucleus of each image, and the number of nuclei, from the buffer ``found``."""
        return found[: 4 * (self.shape[0] + 1)].view(np.int32)

    def read(self, found: NDArray[np.uint8], classes: tuple[str, ...]) -> list[Detections]:
        """Return the nuclei of each image from the buffer ``found``, copied to the host."""
        starts = self.starts(found)
        end = self.header_bytes + NUCLEUS_BYTES * int(starts[-1])
        # Copy: the next run overwrites the buffer.
        table = found[self.header_bytes : end].view(np.float32).reshape(-1, 4).T.copy()
        parts = (table[:, start:stop] for start, stop in pairwise(starts))
        return [Detections(x, y, cls.astype(np.uint8), score, classes) for x, y, score, cls in parts]


class CudaPeaks:
    """Finds peaks in maps on the current device, in its own buffers. Not thread-safe.

    A run consists of :meth:`begin`, :meth:`enqueue` and, after the stream has completed both, :meth:`read`. Do not
    start another run before that. With two objects, one frame can be read while the next is in flight. The maps are as
    in :class:`PeakPlan`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        dtype: DTypeLike = np.float32,
        radius: int = 5,
        classes: tuple[str, ...] = CLASSES,
    ) -> None:
        import cupy

        self.plan = PeakPlan(shape, np.dtype(dtype), radius)
        if len(classes) != shape[1]:
            raise ValueError(f"classes: expected {shape[1]} names, found {list(classes)}")
        self.classes = classes
        self._kernels = Kernels(source("kinet_trt.peaks", "peaks.cu"))
        self._work = cupy.cuda.alloc(self.plan.work_bytes)
        self._found = cupy.cuda.alloc(self.plan.found_bytes)
        self._pinned = cupy.cuda.alloc_pinned_memory(self.plan.found_bytes)
        self._host: NDArray[np.uint8] = np.frombuffer(self._pinned, np.uint8, self.plan.found_bytes)

    def begin(self, stream: Any, threshold: float, height: int | None = None, width: int | None = None) -> None:
        """Queue the settings of the next run, see :meth:`PeakPlan.begin`.

        Do not capture this kernel in a CUDA graph; launch it before the graph.
        """
        self._kernels.issue([self.plan.begin(self._work.ptr, threshold, height, width)], stream)

    def enqueue(self, stream: Any, maps: int) -> None:
        """Queue the kernels and the copy to the host, for maps at a device address; can be captured in a CUDA graph."""
        self._kernels.issue(self.plan.find(maps, self._work.ptr, self._found.ptr), stream)
        self._copy(stream, 0, self.plan.first_bytes)

    def read(self, stream: Any) -> list[Detections]:
        """Return the nuclei of each image, in raster order, map coordinates; the run must be complete."""
        end = self.plan.header_bytes + NUCLEUS_BYTES * int(self.plan.starts(self._host)[-1])
        if end > self.plan.first_bytes:
            self._copy(stream, self.plan.first_bytes, end)
            stream.synchronize()
        return self.plan.read(self._host, self.classes)

    def _copy(self, stream: Any, start: int, end: int) -> None:
        from cupy.cuda import runtime

        device, host = self._found.ptr + start, self._pinned.ptr + start
        runtime.memcpyAsync(host, device, end - start, runtime.memcpyDeviceToHost, stream.ptr)
