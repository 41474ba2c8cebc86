"""Windows of a level at the model's scale, with the same pixels as if the whole level were scaled.

A level is scaled like a frame in :func:`kinet_trt.core.frame.fit`: half-pixel bilinear when enlarging, area averages
when shrinking. The weights depend on the position in the whole level alone, so overlapping windows have equal pixels to
the last bit. They equal OpenCV's for the whole level (with OpenCV 5 on x86-64; elsewhere its sums may differ from these
by one grey level).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.engines.tensorrt.preprocess import Axis, area_axis, linear_axis

_STRIP = 32  # rows that are computed at once, so that intermediate results fit into the cache

Read = Callable[[int, int, int, int], NDArray[np.uint8]]
"""Reads x, y, width and height, px of a level, as RGB uint8 [height, width, 3]."""


@dataclass(frozen=True)
class Scaling:
    """Scaling of a level (the source) to the model's scale; sizes in px."""

    source_width: int
    source_height: int
    width: int
    height: int

    def window(self, read: Read, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a window of the scaled level, RGB uint8 [height, width, 3].

        Beyond the right and bottom edges of the level, the last px is repeated. ``read`` reads the level; x, y, width
        and height are px at the model's scale, with x and y inside the level.
        """
        inside_width, inside_height = min(width, self.width - x), min(height, self.height - y)
        pixels = self._inside(read, x, y, inside_width, inside_height)
        if (inside_width, inside_height) != (width, height):
            pixels = cv2.copyMakeBorder(
                pixels, 0, height - inside_height, 0, width - inside_width, cv2.BORDER_REPLICATE
            ).astype(np.uint8, copy=False)
        return np.ascontiguousarray(pixels)

    def _inside(self, read: Read, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if (self.width, self.height) == (self.source_width, self.source_height):
            return read(x, y, width, height)
        shrinking = self.width * self.height < self.source_width * self.source_height
        if shrinking and self.source_width % self.width == self.source_height % self.height == 0:
            scale_x, scale_y = self.source_width // self.width, self.source_height // self.height
            source = read(x * scale_x, y * scale_y, width * scale_x, height * scale_y)
            return cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        columns = _axis(self.source_width, self.width, shrinking, clamp=True)
        rows = _axis(self.source_height, self.height, shrinking, clamp=False)
        left, right = _span(columns, x, width, self.source_width)
        top, bottom = _span(rows, y, height, self.source_height)
        source = read(left, top, right - left, bottom - top)
        interpolate = _area if shrinking else _linear
        axis_x, axis_y = _part(columns, x, width, left), _part(rows, y, height, top)
        pixels = np.empty((height, width, 3), np.uint8)
        for start in range(0, height, _STRIP):
            strip = _part(axis_y, start, min(_STRIP, height - start), 0)
            first, last = _span(strip, 0, len(strip.first), len(source))
            strip = Axis(strip.first - first, strip.weights)
            pixels[start : start + len(strip.first)] = interpolate(source[first:last], axis_x, strip)
        return pixels


@lru_cache(maxsize=16)
def _axis(source: int, target: int, shrinking: bool, *, clamp: bool) -> Axis:
    return area_axis(source, target) if shrinking else linear_axis(source, target, clamp=clamp)


def _span(axis: Axis, start: int, length: int, size: int) -> tuple[int, int]:
    """Return the first source px of a span of the target, and the px after the last."""
    first = axis.first[start : start + length]
    return max(0, int(first[0])), min(size, int(first[-1]) + axis.taps)


def _part(axis: Axis, start: int, length: int, origin: int) -> Axis:
    return Axis(axis.first[start : start + length] - origin, axis.weights[start : start + length])


def _area(source: NDArray[np.uint8], columns: Axis, rows: Axis) -> NDArray[np.uint8]:
    """Sum in OpenCV's order, in float32: along the columns of a row, then along the rows."""
    line = _weighted_columns(source, columns, np.float32)
    total = _weighted(line, rows, 0)
    for i in range(1, rows.taps):
        total += _weighted(line, rows, i)
    return np.asarray(np.clip(np.rint(total), 0, 255), np.uint8)


def _linear(source: NDArray[np.uint8], columns: Axis, rows: Axis) -> NDArray[np.uint8]:
    """Sum as OpenCV does, in 11-bit fixed point; each sum loses 4 bits, then 16, then 2."""
    line = _weighted_columns(source, columns, np.int32) >> 4
    total = (_weighted(line, rows, 0) >> 16) + (_weighted(line, rows, 1) >> 16)
    return np.asarray((total + 2) >> 2, np.uint8)


def _weighted_columns(source: NDArray[np.uint8], columns: Axis, dtype: type) -> NDArray[Any]:
    total: NDArray[Any] | None = None
    for j in range(columns.taps):
        at = np.clip(columns.first + j, 0, source.shape[1] - 1)
        part: NDArray[Any] = source.take(at, axis=1).astype(dtype)
        part *= columns.weights[:, j].astype(dtype)[None, :, None]
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


def _weighted(line: NDArray[Any], rows: Axis, tap: int) -> NDArray[Any]:
    at = np.clip(rows.first + tap, 0, line.shape[0] - 1)
    weighted = line.take(at, axis=0)
    weighted *= rows.weights[:, tap].astype(weighted.dtype)[:, None, None]
    return weighted
