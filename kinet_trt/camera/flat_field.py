"""Flat-field correction and white balance from a blank field: a place of the slide with glass and no tissue."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import Frame

WHITE = 240
"""R, G and B of a corrected blank field: glass in the slides of the training data."""
_MIN_MEAN, _MAX_VALUE = 60, 252  # limits of its mean and of its largest value
_MAX_DEVIATION = 0.06  # relative deviation from its surroundings


@dataclass(frozen=True, eq=False)
class FlatField:
    """Flat-field correction of vignetting, coloured light and dust: ``WHITE * frame / blank``, pixel by pixel.

    ``blank`` is the blank field, RGB uint8 [height, width, 3], smoothed.
    """

    blank: NDArray[np.uint8]

    @classmethod
    def from_blank(cls, frames: list[Frame]) -> FlatField:
        """Return the correction from frames of a blank field, preferably 10.

        They show glass without tissue, with the light and the objective that will be used. ImageError if there are
        none, their sizes differ, they are too dark or too bright, or they are not blank.
        """
        if not frames or len({frame.pixels.shape for frame in frames}) != 1:
            raise ImageError("blank field: expected one or more frames of one size")
        total = np.zeros(frames[0].pixels.shape, np.float32)
        for frame in frames:
            cv2.accumulate(frame.pixels, total)
        smooth = np.asarray(cv2.GaussianBlur(total / np.float32(len(frames)), (0, 0), 4), np.float32)
        _check(smooth)
        return cls(np.rint(smooth).astype(np.uint8))

    def __call__(self, frame: Frame) -> Frame:
        """Return the corrected frame, with the same um/px, time and stage position.

        ImageError if its size is not the blank field's.
        """
        if frame.pixels.shape != self.blank.shape:
            raise ImageError(
                f"the blank field has {self.blank.shape[1]} x {self.blank.shape[0]} px, the frame {frame.width} x "
                f"{frame.height}: take a blank field at this size"
            )
        corrected = cv2.divide(frame.pixels, self.blank, scale=WHITE)
        return replace(frame, pixels=np.asarray(corrected, np.uint8))


def _check(smooth: NDArray[np.float32]) -> None:
    mean, high = float(smooth.mean()), float(smooth.max())
    if mean < _MIN_MEAN:
        raise ImageError(f"blank field: expected a mean of {_MIN_MEAN} or more, found {mean:.0f}: turn the light up")
    if high > _MAX_VALUE:
        raise ImageError(
            f"blank field: expected values to {_MAX_VALUE}, found {high:.0f}: turn the light or the exposure down"
        )
    # Vignetting is smooth over hundreds of px; tissue is not. The wide blur is cheap on a sixteenth of the pixels.
    small = cv2.resize(smooth, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)
    around = cv2.GaussianBlur(small, (0, 0), max(4.0, min(small.shape[:2]) / 12), borderType=cv2.BORDER_REFLECT_101)
    rough = float(np.mean(np.abs(small / around - 1).max(axis=2) > _MAX_DEVIATION))
    if rough > 0.02:
        raise ImageError(
            f"blank field: {rough:.0%} of it differs from its surroundings: expected empty glass; move the tissue out "
            "of the picture, put the slide slightly out of focus, and try again"
        )
