"""A frame in device memory becomes the model's input there, as :func:`kinet_trt.core.frame.fit` does it on the host.

On OpenCV 5.0 and x86-64 the result is ``fit``'s to the last bit, enlarged, shrunk or neither; elsewhere OpenCV may sum
in another order, and a value may differ by one grey level.

Memory traffic without scaling, 1920 x 1080 px: 6.2 MB read and 6.3 MB written, 4 us at 3 TB/s. Enlarging reads four
pixels for each it writes, shrinking each pixel once or, at the edges of cells, twice to four times; both from caches.
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
FLAG_BYTES = 4
"""Length of the flag that says whether a frame has colour."""

_UNIT = np.float32(2048)
"""One, in OpenCV's 11-bit weights."""
_SLIVER = 1e-3
"""Share of a pixel below which OpenCV leaves it out of a cell."""


@dataclass(frozen=True, eq=False)
class Axis:
    """How rows, or columns, of the target are made of those of the source.

    Attributes
    ----------
    first
        First source index, int32 [target]; an index outside the source means its edge.
    weights
        From there on, int32 or float32 [target, taps].
    """

    first: NDArray[np.int32]
    weights: NDArray[Any]

    @property
    def taps(self) -> int:
        """Source rows or columns of each."""
        return int(self.weights.shape[1])


def linear_axis(source_size: int, target_size: int, clamp: bool) -> Axis:
    """Return OpenCV's half-pixel bilinear weights, in 2048ths.

    Parameters
    ----------
    source_size, target_size
        px.
    clamp
        Whether the weights beyond the edge go to one pixel, as OpenCV does for columns. For rows it weighs the edge
        twice, which rounds otherwise.
    """
    at = ((np.arange(target_size) + 0.5) * _step(source_size, target_size) - 0.5).astype(np.float32)
    first = np.floor(at)
    share = at - first
    if clamp:
        outside = (first < 0) | (first >= source_size - 1)
        first, share = np.clip(first, 0, source_size - 1), np.where(outside, np.float32(0), share)
    weights = np.stack([np.rint((1 - share) * _UNIT), np.rint(share * _UNIT)], axis=1)
    return Axis(first.astype(np.int32), weights.astype(np.int32))


def area_axis(source_size: int, target_size: int) -> Axis:
    """Return OpenCV's weights of cell averages: whole pixels, and shares of those that a cell's edge cuts."""
    step = _step(source_size, target_size)
    first, lists = [], []
    for i in range(target_size):
        start, stop = i * step, i * step + step
        cell = min(step, source_size - start)
        last = min(math.floor(stop), source_size - 1)
        whole = min(math.ceil(start), last)
        weights = [1 / cell] * (last - whole)
        if whole - start > _SLIVER:
            weights.insert(0, (whole - start) / cell)
            whole -= 1
        if stop - last > _SLIVER:
            weights.append(min(stop - last, 1, cell) / cell)
        first.append(whole)
        lists.append(weights)
    table = np.zeros((target_size, max(map(len, lists))), np.float32)
    for row, weights in zip(table, lists, strict=True):
        row[: len(weights)] = weights
    return Axis(np.array(first, np.int32), table)


def _step(source_size: int, target_size: int) -> float:
    # Twice inverted, as OpenCV does it: not always the same double as source / target.
    return 1 / (target_size / source_size)


@dataclass(frozen=True)
class PreparePlan:
    """What is launched for frames of one size; needs no GPU.

    Attributes
    ----------
    source_height, source_width
        Of the frame, px.
    own_height, own_width
        At the model's scale, px.
    multiple
        Alignment of height and width, px.
    """

    source_height: int
    source_width: int
    own_height: int
    own_width: int
    multiple: int

    @classmethod
    def of(cls, height: int, width: int, frame_mpp: float | None, mpp: float, multiple: int) -> PreparePlan:
        """Return the plan for frames of this size and um/px; arguments and errors as in `kinet_trt.core.frame.fit`."""
        own_height, own_width = fitted_size(height, width, frame_mpp, mpp)
        return cls(height, width, own_height, own_width, multiple)

    @property
    def height(self) -> int:
        """Height of the model's input, px."""
        return self.own_height + -self.own_height % self.multiple

    @property
    def width(self) -> int:
        """Width of the model's input, px."""
        return self.own_width + -self.own_width % self.multiple

    @cached_property
    def scaling(self) -> str:
        """How it is scaled: ``"copy"``, ``"linear"``, ``"area"`` or, by whole numbers, ``"blocks"``."""
        if (self.own_height, self.own_width) == (self.source_height, self.source_width):
            return "copy"
        if self.own_height * self.own_width >= self.source_height * self.source_width:
            return "linear"
        steps = _step(self.source_height, self.own_height), _step(self.source_width, self.own_width)
        return "blocks" if all(step.is_integer() for step in steps) else "area"

    @cached_property
    def _axes(self) -> tuple[Axis, Axis] | None:
        if self.scaling == "linear":
            return (
                linear_axis(self.source_height, self.own_height, clamp=False),
                linear_axis(self.source_width, self.own_width, clamp=True),
            )
        if self.scaling == "area":
            return area_axis(self.source_height, self.own_height), area_axis(self.source_width, self.own_width)
        return None

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """The weights, to be laid in device memory; empty where none are needed."""
        if self._axes is None:
            return np.empty(0, np.int32)
        parts = [part.ravel().view(np.int32) for axis in self._axes for part in (axis.first, axis.weights)]
        return np.concatenate(parts)

    def launch(self, pixels: DevicePixels, table: int, target: int, coloured: int) -> Launch:
        """Return the launch that prepares one frame.

        Parameters
        ----------
        pixels
            The frame, of the plan's size.
        table
            Device address of a copy of :attr:`table`.
        target
            Device address of the model's input, uint8 [height, width, 3].
        coloured
            Device address of an int32 that becomes 1 if the frame has colour, and stays as it was if it is grey.

        Raises
        ------
        ValueError
            If the frame is of another size.
        """
        if (pixels.height, pixels.width) != (self.source_height, self.source_width):
            raise ValueError(
                f"frame: expected {self.source_width} x {self.source_height} px, found {pixels.width} x {pixels.height}"
            )
        arguments: list[np.generic] = [
            np.uint64(pixels.address),
            *map(np.int64, (pixels.row, pixels.pixel, pixels.red, pixels.green, pixels.blue)),
            *map(np.int32, (self.source_height, self.source_width, self.own_height, self.own_width)),
            *(np.int32(self.height), np.int32(self.width), np.uint64(target), np.uint64(coloured)),
        ]
        for axis in self._axes or ():
            arguments += [np.uint64(table), np.uint64(table + axis.first.nbytes)]
            table += axis.first.nbytes + axis.weights.nbytes
            if self.scaling == "area":
                arguments.append(np.int32(axis.taps))
        if self.scaling == "blocks":
            arguments += [
                np.int32(self.source_height // self.own_height),
                np.int32(self.source_width // self.own_width),
            ]
        grid = -(-self.width // BLOCK[0]), -(-self.height // BLOCK[1]), 1
        return Launch(f"prepare_{self.scaling}", grid, BLOCK, tuple(arguments), shared=4)


class CudaPrepare:
    """Prepares frames on the current device; keeps the weights of the last frame size. Not for several threads.

    Parameters
    ----------
    mpp
        The model's scale, um/px.
    multiple
        Alignment of height and width, px.
    """

    def __init__(self, mpp: float, multiple: int) -> None:
        self._mpp, self._multiple = mpp, multiple
        self._kernels = Kernels(source("kinet_trt.engines.tensorrt", "preprocess.cu"))
        self._plan: PreparePlan | None = None
        self._table: Any = None

    def plan(self, height: int, width: int, frame_mpp: float | None) -> PreparePlan:
        """Return the plan for frames of this size and um/px.

        Raises
        ------
        ImageError
            As :func:`kinet_trt.core.frame.fit`.
        """
        plan = PreparePlan.of(height, width, frame_mpp, self._mpp, self._multiple)
        return self._plan if self._plan == plan else plan

    def enqueue(self, stream: Any, plan: PreparePlan, pixels: DevicePixels, target: int, coloured: int) -> None:
        """Prepare one frame; when the size is not the last one's, the weights are copied first.

        Parameters
        ----------
        stream
            A CuPy stream.
        plan
            From :meth:`plan`.
        pixels, target, coloured
            See :meth:`PreparePlan.launch`; the flag is set to 0 first.
        """
        import cupy

        if self._plan is not plan:
            # Both the copy and the release of the old weights are on the stream: an earlier frame still has its own.
            with stream:
                self._table = cupy.asarray(plan.table) if plan.table.size else None
            self._plan = plan
        cupy.cuda.runtime.memsetAsync(coloured, 0, FLAG_BYTES, stream.ptr)
        table = 0 if self._table is None else self._table.data.ptr
        self._kernels.issue([plan.launch(pixels, table, target, coloured)], stream)
