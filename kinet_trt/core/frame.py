"""Frames, and scaling a frame to the resolution of a model."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError
from kinet_trt.core.geometry import rescale

MIN_SIDE = 32
"""Minimum of the shorter side, model px."""
GREY_SPREAD = 8
"""Maximum difference of R, G and B (of 255) in a grey picture with noise or JPEG artefacts; pale stains exceed it."""
MAX_SIDE, MAX_PIXELS = 1 << 20, 1 << 29
"""Longest side and largest area, model px. Larger pictures are slides, or have a wrong µm/px."""

NO_COLOUR = "The picture has no colour: the stains cannot be told apart, and no nuclei are counted."


@dataclass(frozen=True, eq=False)
class Frame:
    """One brightfield image.

    Attributes
    ----------
    pixels
        RGB, uint8 [height, width, 3].
    mpp
        Pixel size, µm/px; None if unknown.
    time
        Time of acquisition, s since the epoch; None if unknown.
    stage
        Stage position x, y, µm; None if unknown.
    unused_size
        Reason why the pixel size in the file is not used; None if it is used, or there is none.
    remarks
        Notes on how the file was read, such as the page and the scaling of the bit depth.

    Raises
    ------
    ImageError
        If the pixels are not uint8 RGB, or mpp is not a positive number.
    """

    pixels: NDArray[np.uint8]
    mpp: float | None = None
    time: float | None = None
    stage: tuple[float, float] | None = None
    unused_size: str | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ImageError(
                f"a frame is RGB pixels, uint8 [height, width, 3]; found {pixels.dtype} {list(pixels.shape)}: "
                "convert it (grey: np.repeat(grey[..., None], 3, axis=2))"
            )
        if self.mpp is not None and not (np.isfinite(self.mpp) and self.mpp > 0):
            raise ImageError(f"µm/px: expected a positive number, found {self.mpp}")

    @property
    def height(self) -> int:
        """Height, px."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width, px."""
        return int(self.pixels.shape[1])

    @property
    def is_grey(self) -> bool:
        """True if the frame has no colour; see :func:`is_grey`."""
        return is_grey(self.pixels[::16, ::16]) and is_grey(self.pixels)


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Return True if R, G and B of all pixels, uint8 [height, width, 3], are equal up to noise."""
    return bool((pixels.max(axis=2) - pixels.min(axis=2)).max(initial=0) <= GREY_SPREAD)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A frame at the model's scale, padded at the bottom and the right to multiples of the model's alignment.

    Height and width are those without the padding, model px; scales are model px per frame px.
    """

    pixels: NDArray[np.uint8]
    height: int
    width: int
    scale_y: float
    scale_x: float

    def to_frame(
        self, x: NDArray[np.float32], y: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Convert model coordinates to frame coordinates; pixel centres are integers in both."""
        return rescale(x, 1 / self.scale_x), rescale(y, 1 / self.scale_y)


def fit(frame: Frame, mpp: float, multiple: int) -> Fitted:
    """Scale a frame to ``mpp`` and pad it to multiples of ``multiple`` px; raises as `fitted_size`.

    Enlarging is bilinear with half-pixel centres, shrinking averages areas; padding repeats the last row and column. A
    frame without µm/px is assumed to have the model's scale.
    """
    height, width = fitted_size(frame.height, frame.width, frame.mpp, mpp)
    pixels = frame.pixels
    if (height, width) != pixels.shape[:2]:
        shrinking = height * width < pixels.shape[0] * pixels.shape[1]
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
        pixels = resized.astype(np.uint8, copy=False)
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        padded = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        pixels = padded.astype(np.uint8, copy=False)
    return Fitted(
        pixels=np.ascontiguousarray(pixels),
        height=height,
        width=width,
        scale_y=height / frame.height,
        scale_x=width / frame.width,
    )


def fitted_size(height: int, width: int, frame_mpp: float | None, mpp: float) -> tuple[int, int]:
    """Return height and width of a frame at the model's ``mpp``, px, without padding.

    Raises an ImageError if the shorter side is below :data:`MIN_SIDE`, or the frame is larger than :data:`MAX_PIXELS`.
    """
    scale = 1.0 if frame_mpp is None else frame_mpp / mpp
    if max(height, width) * scale > MAX_SIDE or height * width * scale**2 > MAX_PIXELS:
        raise ImageError(
            f"too large: {width} x {height} px at {frame_mpp or mpp:g} µm/px is more than "
            f"{MAX_PIXELS / 1e6:.0f} megapixels at the model's {mpp:g} µm/px: check the µm/px (mpp), or count a region"
        )
    fitted = round(height * scale), round(width * scale)
    if min(fitted) < MIN_SIDE:
        raise ImageError(
            f"too small: {width} x {height} px at {frame_mpp or mpp:g} µm/px is {fitted[1]} x {fitted[0]} px at "
            f"the model's {mpp:g} µm/px; the shorter side must have at least {MIN_SIDE}: check the µm/px (mpp)"
        )
    return fitted
