"""Conversion of camera pixels to RGB, 8 bits."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError

CHANNELS = {"RGB": 3, "BGR": 3, "RGBA": 4, "BGRA": 4, "GREY": 1, "RGGB": 1, "GRBG": 1, "BGGR": 1, "GBRG": 1}
"""Channel orders and numbers of channels. The last four are raw colour, named by their upper left 2 x 2 pixels."""

_CONVERSION = {
    "BGR": cv2.COLOR_BGR2RGB,
    "RGBA": cv2.COLOR_RGBA2RGB,
    "BGRA": cv2.COLOR_BGRA2RGB,
    "GREY": cv2.COLOR_GRAY2RGB,
    "RGGB": cv2.COLOR_BayerRGGB2RGB,
    "GRBG": cv2.COLOR_BayerGRBG2RGB,
    "BGGR": cv2.COLOR_BayerBGGR2RGB,
    "GBRG": cv2.COLOR_BayerGBRG2RGB,
}


def to_rgb(raw: NDArray[np.integer[Any]], order: str, bits: int = 8) -> NDArray[np.uint8]:
    """Convert a camera's pixels to RGB, 8 bits.

    Parameters
    ----------
    raw
        uint8 or uint16, [height, width] or [height, width, channels].
    order
        Channel order, one of `CHANNELS`: "GREY" for one channel; "RGGB" and so on for raw colour.
    bits
        Bits per value, 8 to 16: with 12, 4095 is white, whatever the largest value of this frame is.

    Returns
    -------
    pixels
        RGB uint8 [height, width, 3], always a new array.

    Raises
    ------
    ImageError
        If the array does not fit ``order`` and ``bits``.
    """
    if order not in CHANNELS:
        raise ImageError(f"colour order {order!r}: expected one of {', '.join(CHANNELS)}")
    if raw.ndim == 3 and raw.shape[2] == 1:
        raw = raw[..., 0]
    channels = raw.shape[2] if raw.ndim == 3 else 1
    if raw.ndim not in (2, 3) or raw.size == 0 or channels != CHANNELS[order]:
        raise ImageError(
            f"camera pixels of order {order}: expected {CHANNELS[order]} channels, found {list(raw.shape)}"
        )
    if raw.dtype not in (np.uint8, np.uint16) or not 8 <= bits <= (8 if raw.dtype == np.uint8 else 16):
        raise ImageError(
            f"camera pixels: expected uint8 with 8 bits or uint16 with 8 to 16, found {raw.dtype} with {bits}"
        )
    deep = raw.dtype == np.uint16
    pixels = np.asarray(cv2.convertScaleAbs(raw, alpha=255 / (2**bits - 1)) if deep else raw, np.uint8)
    if order == "RGB":
        return pixels if deep else pixels.copy()
    return np.asarray(cv2.cvtColor(pixels, _CONVERSION[order]), np.uint8)
