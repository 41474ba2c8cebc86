"""Light, lens and sensor of the simulated camera; every step is one pass over 8-bit pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

_SPARE = 64  # px by which the noise is larger than a frame: each frame uses another crop


class Optics:
    """Light, lens and sensor for frames of ``width`` x ``height`` px; see `Options` of the microscope."""

    def __init__(
        self, width: int, height: int, *, vignetting: float, tint: float, noise: float, hot: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        x = (np.arange(width) - (width - 1) / 2) / (width / 2)
        y = (np.arange(height) - (height - 1) / 2) / (height / 2)
        light = 1 - vignetting * (x[None, :] ** 2 + y[:, None] ** 2) / 2
        lamp = np.array([1.0, 1.0 - tint / 2, 1.0 - tint])
        self._light = np.rint(255 * light[..., None] * lamp).astype(np.uint8)
        shape = (height + _SPARE, width + _SPARE, 3)
        self._black = math.ceil(4 * noise)
        self._noise = np.clip(np.rint(rng.normal(self._black, noise, shape)), 0, 2 * self._black).astype(np.uint8)
        self._black_level = np.array([self._black] * 3 + [0], np.float64)
        self._hot = rng.integers(0, height, hot), rng.integers(0, width, hot)

    def expose(self, scene: NDArray[np.uint8], exposure: float, sequence: int) -> NDArray[np.uint8]:
        """Return the pixels that the camera reads, RGB uint8 [height, width, 3] like the scene.

        ``exposure`` is relative to the normal one; ``sequence``, the number of the frame, selects its noise.
        """
        raw = cv2.multiply(scene, self._light, scale=exposure / 255)
        if self._black:
            # Steps coprime to the margin: consecutive frames share no noise.
            dy, dx = sequence * 29 % _SPARE, sequence * 43 % (_SPARE - 1)
            raw = cv2.add(raw, self._noise[dy : dy + scene.shape[0], dx : dx + scene.shape[1]], dst=raw)
            raw = cv2.subtract(raw, self._black_level, dst=raw)
        raw[self._hot] = 255
        return np.asarray(raw, np.uint8)


def smear(scene: NDArray[np.uint8], right: float, down: float, defocus: float) -> NDArray[np.uint8]:
    """Blur a scene, RGB uint8 [height, width, 3], by its motion during the exposure, px, and by defocus (sigma, px)."""
    box = tuple(2 * round(min(abs(shift), 200.0) / 2) + 1 for shift in (right, down))
    if box != (1, 1):
        scene = np.asarray(cv2.blur(scene, (box[0], box[1])), np.uint8)
    if defocus > 0:
        scene = np.asarray(cv2.GaussianBlur(scene, (0, 0), defocus), np.uint8)
    return scene
