"""Sharpness of live frames, and motion of the stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.frame import Frame
from kinet_trt.quality.focus import MIN_CONTRAST, MIN_SHARPNESS, contrast_and_sharpness
from kinet_trt.quality.incomplete import is_truncated

BLURRED_HERE = 0.8
"""Share of the best sharpness at this place below which a frame is blurred. A Gaussian blur of 1.5 px at 0.34 um/px,
which loses a tenth of the nuclei, leaves 0.70 to 0.83."""
BLURRED_LATELY = 0.7
"""The same for the best sharpness of the last minutes, at any place."""
CRISP = 0.93
"""Share of the best sharpness at this place that automatic capture requires. The first frame of a movement, blurred
over 9 px at 300 um/s and 5 ms, gives the same count and has 0.87."""
MOVING = 10.0
"""um/s above which the stage moves: 0.2 um, half a model px, in an exposure of 20 ms."""
REST = 0.5
"""Time without motion after which the stage has stopped, s."""
ELSEWHERE = 0.1
"""Shift, as a share of the shorter side of the frame, after which a stop is at a new place."""

_HALF_LIFE = 60.0  # s: half-life of the best sharpness of the last minutes
_MAX_PIXELS = 1 << 20  # model px for sharpness: the centre of a larger frame
_THUMBNAIL = 320  # longer side, px
_MIN_CORRELATION = 0.3  # of two aligned thumbnails of the same place


@dataclass(frozen=True)
class Quality:
    """Quality of a frame, by itself and relative to the previous one."""

    contrast: float  # standard deviation of the tissue structure, relative to the mean brightness
    # share of the finest structure (0.3 to 0.7 um) in all structure (to 3 um), 0 to 1; None if empty
    sharpness: float | None
    shift: float | None  # since the previous frame, um; None if unknown
    speed: float | None  # um/s, from the times of the frames, which for a recording are the times of reading
    empty: bool
    blurred: bool
    moving: bool  # also if two consecutive frames show different places
    # the stage has just stopped on a sharp field at a new place; once for each place, for automatic capture
    rested: bool
    damaged: bool = False  # the lower part is missing: rows of one colour, as decoders leave them


class QualityMonitor:
    """Assesses consecutive frames. Not thread-safe. ``mpp`` is the model's um/px.

    Sharpness is that of `kinet_trt.quality.focus`, at the model's um/px. Motion is the phase correlation (Kuglin and
    Hines 1975) of thumbnails, accepted if the aligned thumbnails correlate.
    """

    def __init__(self, mpp: float) -> None:
        self._mpp = mpp
        self._before: tuple[NDArray[np.float32], float, bool] | None = None  # thumbnail, its um/px, whether empty
        self._size: tuple[int, int, float] | None = None
        self._time = 0.0
        self._best_lately, self._rest_is_new = 0.0, True
        self._reset()

    def assess(self, frame: Frame, mpp: float, time: float) -> Quality:
        """Assess the next frame; ``mpp`` is its um/px, ``time`` in s."""
        if self._size != (frame.width, frame.height, mpp):
            self._size, self._before = (frame.width, frame.height, mpp), None
            self._reset()
        contrast, ratio = contrast_and_sharpness(_scaled(frame, mpp / self._mpp))
        empty = contrast < MIN_CONTRAST
        shift, lost = self._moved(frame, mpp, empty)
        passed, self._time = time - self._time, time
        distance = None if shift is None else math.hypot(*shift)
        speed = None if distance is None or passed <= 0 else distance / passed
        # Without distinct times, assume 0.1 s between the frames.
        moving = lost or (speed > MOVING if speed is not None else distance is not None and distance > 0.1 * MOVING)
        self._accumulate(shift, lost, min(frame.width, frame.height) * mpp)
        blurred = self._is_blurred(ratio, moving, passed) if not empty else False
        if moving:
            self._still_since = math.inf
        elif self._still_since == math.inf:
            self._still_since = time
        damaged = is_truncated(frame.pixels)
        crisp = not (moving or empty or blurred or damaged) and ratio >= CRISP * self._best_here
        rested = crisp and self._rest_is_new and time - self._still_since >= REST
        if rested:
            self._rest_is_new, self._way = False, (0.0, 0.0)
        return Quality(
            contrast=contrast,
            sharpness=None if empty else ratio,
            shift=distance,
            speed=speed,
            empty=empty,
            blurred=blurred,
            moving=moving,
            rested=rested,
            damaged=damaged,
        )

    def _reset(self) -> None:
        """Start at a new place."""
        self._best_here, self._still_since = 0.0, math.inf
        self._way, self._way_here = (0.0, 0.0), (0.0, 0.0)  # um since the last stop, and since the best sharpness
        self._rest_is_new = True

    def _moved(self, frame: Frame, mpp: float, empty: bool) -> tuple[tuple[float, float] | None, bool]:
        """Return the shift since the last frame, um, None if unknown; and whether this is another place."""
        small, small_mpp = _thumbnail(frame, mpp, self._mpp)
        before, self._before = self._before, (small, small_mpp, empty)
        if before is None or (empty and before[2]):
            return None, False
        shift, correlation = _shift(before[0], small)
        if correlation < _MIN_CORRELATION:
            return None, True
        return (shift[0] * small_mpp, shift[1] * small_mpp), False

    def _accumulate(self, shift: tuple[float, float] | None, lost: bool, side: float) -> None:
        """Add a shift, and detect another place; ``side`` is the shorter side of the frame, um."""
        if shift is not None:
            self._way = self._way[0] + shift[0], self._way[1] + shift[1]
            self._way_here = self._way_here[0] + shift[0], self._way_here[1] + shift[1]
        if lost or math.hypot(*self._way) > ELSEWHERE * side:
            self._rest_is_new = True
        if lost or math.hypot(*self._way_here) > ELSEWHERE * side:
            self._best_here, self._way_here = 0.0, (0.0, 0.0)

    def _is_blurred(self, ratio: float, moving: bool, passed: float) -> bool:
        self._best_lately *= 0.5 ** (max(0.0, passed) / _HALF_LIFE)
        # A frame torn by motion has additional edges.
        if not moving:
            self._best_here, self._best_lately = max(self._best_here, ratio), max(self._best_lately, ratio)
        return ratio < max(MIN_SHARPNESS, BLURRED_HERE * self._best_here, BLURRED_LATELY * self._best_lately)


def _scaled(frame: Frame, scale: float) -> NDArray[np.float32]:
    """Return the green channel, in which both stains are visible, at the model's um/px."""
    size = math.floor(math.sqrt(_MAX_PIXELS) / scale)
    top, left = (max(0, (side - size) // 2) for side in (frame.height, frame.width))
    green = cv2.extractChannel(frame.pixels[top : top + size, left : left + size], 1)
    height, width = (max(1, round(side * scale)) for side in green.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(green, (width, height), interpolation=interpolation).astype(np.float32)


def _thumbnail(frame: Frame, mpp: float, model_mpp: float) -> tuple[NDArray[np.float32], float]:
    """Return a thumbnail of the tissue structure, and its um/px."""
    # At most half the model's resolution: removes detail within nuclei and most noise.
    shrink = max(1.0, max(frame.width, frame.height) / _THUMBNAIL, 2 * model_mpp / mpp)
    size = max(8, round(frame.width / shrink)), max(8, round(frame.height / shrink))
    small = cv2.resize(cv2.extractChannel(frame.pixels, 1), size, interpolation=cv2.INTER_AREA)
    # Remove structure that does not move with the stage: hot pixels by the median, vignetting by the wide blur.
    smooth = cv2.medianBlur(small, 3).astype(np.float32)
    return np.asarray(cv2.subtract(smooth, cv2.GaussianBlur(smooth, (0, 0), 6)), np.float32), mpp * shrink


def _shift(before: NDArray[np.float32], now: NDArray[np.float32]) -> tuple[tuple[float, float], float]:
    """Return the shift between two thumbnails, px right and down, and the correlation of their overlap."""
    height, width = now.shape
    (x, y), _ = cv2.phaseCorrelate(before, now, cv2.createHanningWindow((width, height), cv2.CV_32F))
    right, down = round(x), round(y)
    shifted, unshifted = _correlation(before, now, right, down), _correlation(before, now, 0, 0)
    # Phase correlation fails if only the fine structure changed, by focusing: prefer no shift if it correlates better.
    return ((x, y), shifted) if shifted > unshifted or (right, down) == (0, 0) else ((0.0, 0.0), unshifted)


def _correlation(before: NDArray[np.float32], now: NDArray[np.float32], right: int, down: int) -> float:
    """Return the correlation of the overlap of two thumbnails at a shift, px."""
    height, width = now.shape
    if abs(right) > 0.8 * width or abs(down) > 0.8 * height:
        return 0.0
    first = before[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    second = now[max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)]
    both = float(np.sqrt(np.vdot(first, first) * np.vdot(second, second)))
    return float(np.vdot(first, second)) / max(both, 1e-6)
