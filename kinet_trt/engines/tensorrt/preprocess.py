"""Prepare a frame in device memory as the model's input, as :func:`kinet_trt.core.frame.fit` does on the host.

With OpenCV 5.0 on x86-64 the result equals that of ``fit`` exactly, with and without scaling; elsewhere OpenCV may sum
in another order, and a value may differ by one grey level.

Memory traffic without scaling, 1920 x 1080 px: 6.2 MB read and 6.3 MB written, 4 us at 3 TB/s. Upscaling reads four
pixels per written pixel; downscaling reads each pixel once or, at cell edges, two to four times; both from caches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.frame import fitted_size
from kinet_trt.cuda.interop import DevicePixels
from kinet_trt.cuda.kernels import Kernels, Launch, source

BLOCK = (32, 8, 1)
_UNIT = np.float32(2048)
"""The weight 1 in OpenCV's 11-bit fixed point."""
_MIN_SHARE = 1e-3
"""Share of a pixel below which OpenCV ignores it in a cell."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Weights of source rows, or columns, in each target row or column."""

    first: NDArray[np.int32]  # first source index, [target]; clamped to the source
    weights: NDArray[Any]  # from the first index on, int32 or float32 [target, count]

    @property
    def taps(self) -> int:
        """Number of source rows or columns per target."""
        return int(self.weights.shape[1])


def linear_axis(source_size: int, target_size: int, clamp: bool) -> Axis:
    """Return OpenCV's half-pixel bilinear weights, in 2048ths.

    With ``clamp``, one pixel gets the whole weight at the edge, as in OpenCV's columns. In its rows the edge pixel gets
    two weights, which rounds differently.
    """
    position = ((np.arange(target_size) + 0.5) * _step(source_size, target_size) - 0.5).astype(np.float32)
    first = np.floor(position)
    share = position - first
    if clamp:
        outside = (first < 0) | (first >= source_size - 1)
        first, share = np.clip(first, 0, source_size - 1), np.where(outside, np.float32(0), share)
    weights = np.stack([np.rint((1 - share) * _UNIT), np.rint(share * _UNIT)], axis=1)
    return Axis(first.astype(np.int32), weights.astype(np.int32))


def area_axis(source_size: int, target_size: int) -> Axis:
    """Return OpenCV's weights of cell averages: whole pixels, and shares of pixels at the edges of a cell."""
    step = _step(source_size, target_size)
    first, lists = [], []
    for i in range(target_size):
        start, stop = i * step, i * step + step
        cell = min(step, source_size - start)
        last = min(math.floor(stop), source_size - 1)
        first_whole = min(math.ceil(start), last)
        weights = [1 / cell] * (last - first_whole)
        if first_whole - start > _MIN_SHARE:
            weights.insert(0, (first_whole - start) / cell)
            first_whole -= 1
        if stop - last > _MIN_SHARE:
            weights.append(min(stop - last, 1, cell) / cell)
        first.append(first_whole)
        lists.append(weights)
    table = np.zeros((target_size, max(map(len, lists))), np.float32)
    for row, weights in zip(table, lists, strict=True):
        row[: len(weights)] = weights
    return Axis(np.array(first, np.int32), table)


def _step(source_size: int, target_size: int) -> float:
    # Inverted twice, as in OpenCV: not always the same double as source / target.
    return 1 / (target_size / source_size)


@dataclass(frozen=True)
class PreparePlan:
    """The launch for frames of one size, px; needs no GPU."""

    source_height: int
    source_width: int
    scaled_height: int
    scaled_width: int
    multiple: int  # alignment of height and width, px

    @classmethod
    def for_frame(cls, height: int, width: int, frame_mpp: float | None, mpp: float, multiple: int) -> PreparePlan:
        """Return the plan for frames of this size and um/px; arguments and errors as in `kinet_trt.core.frame.fit`."""
        scaled_height, scaled_width = fitted_size(height, width, frame_mpp, mpp)
        return cls(height, width, scaled_height, scaled_width, multiple)

    @property
    def height(self) -> int:
        """Height of the model's input, px."""
        return self.scaled_height + -self.scaled_height % self.multiple

    @property
    def width(self) -> int:
        """Width of the model's input, px."""
        return self.scaled_width + -self.scaled_width % self.multiple

    @cached_property
    def scaling(self) -> str:
        """Scaling method: ``"copy"``, ``"linear"``, ``"area"`` or, for integer factors, ``"blocks"``."""
        if (self.scaled_height, self.scaled_width) == (self.source_height, self.source_width):
            return "copy"
        if self.scaled_height * self.scaled_width >= self.source_height * self.source_width:
            return "linear"
        steps = _step(self.source_height, self.scaled_height), _step(self.source_width, self.scaled_width)
        return "blocks" if all(step.is_integer() for step in steps) else "area"

    @cached_property
    def _axes(self) -> tuple[Axis, Axis] | None:
        if self.scaling == "linear":
            return (
                linear_axis(self.source_height, self.scaled_height, clamp=False),
                linear_axis(self.source_width, self.scaled_width, clamp=True),
            )
        if self.scaling == "area":
            return area_axis(self.source_height, self.scaled_height), area_axis(self.source_width, self.scaled_width)
        return None

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """Weights to copy to device memory; empty if none are needed."""
        if self._axes is None:
            return np.empty(0, np.int32)
        parts = [part.ravel().view(np.int32) for axis in self._axes for part in (axis.first, axis.weights)]
        return np.concatenate(parts)

    def launch(self, pixels: DevicePixels, table: int, target: int, has_color: int) -> Launch:
        """Return the launch that prepares one frame, of the plan's size.

        ``table`` and ``target`` are the device addresses of a copy of :attr:`table` and of the model's input, uint8
        [height, width, 3]; ``has_color`` is that of an int32 that is set to 1 if the frame has colour, and left
        unchanged if it is grey.
        """
        if (pixels.height, pixels.width) != (self.source_height, self.source_width):
            raise ValueError(
                f"frame: expected {self.source_width} x {self.source_height} px, found {pixels.width} x {pixels.height}"
            )
        arguments: list[np.generic] = [
            np.uint64(pixels.address),
            *map(np.int64, (pixels.row, pixels.pixel, pixels.red, pixels.green, pixels.blue)),
            *map(np.int32, (self.source_height, self.source_width, self.scaled_height, self.scaled_width)),
            *(np.int32(self.height), np.int32(self.width), np.uint64(target), np.uint64(has_color)),
        ]
        for axis in self._axes or ():
            arguments += [np.uint64(table), np.uint64(table + axis.first.nbytes)]
            table += axis.first.nbytes + axis.weights.nbytes
            if self.scaling == "area":
                arguments.append(np.int32(axis.taps))
        if self.scaling == "blocks":
            arguments += [
                np.int32(self.source_height // self.scaled_height),
                np.int32(self.source_width // self.scaled_width),
            ]
        grid = -(-self.width // BLOCK[0]), -(-self.height // BLOCK[1]), 1
        return Launch(f"prepare_{self.scaling}", grid, BLOCK, tuple(arguments), shared=4)


class CudaPrepare:
    """Prepares frames on the current device and caches the weights of the last frame size. Not thread-safe.

    ``mpp`` is the model's scale, um/px; ``multiple`` the alignment of height and width, px.
    """

    def __init__(self, mpp: float, multiple: int) -> None:
        self._mpp, self._multiple = mpp, multiple
        self._kernels = Kernels(source("kinet_trt.engines.tensorrt", "preprocess.cu"))
        self._plan: PreparePlan | None = None
        self._table: Any = None

    def plan(self, height: int, width: int, frame_mpp: float | None) -> PreparePlan:
        """Return the plan for frames of this size and um/px; errors as in :func:`kinet_trt.core.frame.fit`."""
        plan = PreparePlan.for_frame(height, width, frame_mpp, self._mpp, self._multiple)
        return self._plan if self._plan == plan else plan

    def enqueue(self, stream: Any, plan: PreparePlan, pixels: DevicePixels, target: int, has_color: int) -> None:
        """Queue the preparation of one frame on a CuPy stream, after the copy of the weights if its size is new.

        ``target`` and ``has_color`` are as in :meth:`PreparePlan.launch`; the flag is set to 0 first.
        """
        import cupy

        if self._plan is not plan:
            # The old weights are released in stream order, after the earlier frames that use them.
            with stream:
                self._table = cupy.asarray(plan.table) if plan.table.size else None
            self._plan = plan
        cupy.cuda.runtime.memsetAsync(has_color, 0, np.dtype(np.int32).itemsize, stream.ptr)
        table = 0 if self._table is None else self._table.data.ptr
        self._kernels.issue([plan.launch(pixels, table, target, has_color)], stream)
