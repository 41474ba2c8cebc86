"""Scale channel values of any type to 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError

OUTLIERS = 0.02
"""Maximum share of pixels above white, such as hot pixels and the edges of scale bars."""

_BITS = (8, 10, 12, 14, 16, 24, 32)
_FLOAT_WHITE = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_OVERSHOOT = 1.1  # times white, after filters and white balance


def to_8_bit(values: NDArray[np.generic], stated_bits: int | None = None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Scale channel values [height, width, channels] so that white is 255; return uint8 and notes on the scaling.

    Cameras store 10, 12 or 14 bits in 16: white is the largest value of the fewest bits that cover all but 2% of the
    pixels, or of the bit depth that the file states. Pixels with the largest value of the type, such as scale bars, are
    ignored. Floats range from 0 to 1, or from 0 to the largest value of 8 to 16 bits. Values that are not light
    intensities (complex, negative, not finite, or floats of an unknown range) are an ImageError.
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False), ()
    if values.dtype.kind == "f":
        white, remarks = _float_white(values)
    elif values.dtype.kind in "ui":
        white, remarks = _integer_white(values, stated_bits)
    else:
        raise ImageError(f"pixel type {values.dtype}: expected integers or floats: convert the file to 8 bit RGB")
    # float64 represents all 32-bit integers.
    precise = np.float32 if values.dtype.itemsize <= 2 or values.dtype.kind == "f" else np.float64
    scaled = np.clip(np.true_divide(values.astype(precise), precise(white)), 0, 1)
    return np.asarray(np.rint(scaled * 255), np.uint8), remarks


def _integer_white(values: NDArray[np.generic], stated_bits: int | None) -> tuple[int, tuple[str, ...]]:
    depth = values.dtype.itemsize * 8 - (values.dtype.kind == "i")
    if values.dtype.kind == "i":
        _refuse_negative(values)
    brightest = values.max(axis=2)
    # Scale bars, borders and hot pixels have the largest value of the type at any bit depth.
    relevant = brightest[brightest < 2**depth - 1]
    relevant = relevant if relevant.any() else brightest
    steps = sorted({bits for bits in _BITS if bits < depth} | {depth})
    bits = next(bits for bits in steps if _share_above(relevant, 2**bits - 1) <= OUTLIERS)
    if stated_bits and stated_bits < depth and _share_above(relevant, 2**stated_bits - 1) <= OUTLIERS:
        bits = stated_bits
    white = 2**bits - 1
    above = int(np.count_nonzero(brightest > white))
    if not above:
        return white, ()
    source = "that the file states" if bits == stated_bits else "that hold the others"
    return white, (
        f"{above} of {brightest.size} pixels are brighter than {white}, the white of the {bits} bits {source}: "
        "they are clipped.",
    )


def _float_white(values: NDArray[np.generic]) -> tuple[float, tuple[str, ...]]:
    if not np.isfinite(values).all():
        raise ImageError("float values that are not finite: expected 0 to 1 or 0 to 255: convert the file to 8 bit RGB")
    _refuse_negative(values)
    brightest = values.max(axis=2)
    for white in _FLOAT_WHITE:
        if _share_above(brightest, white * _OVERSHOOT) <= OUTLIERS:
            break
    largest = float(brightest.max())
    # A brightfield picture has tissue or glass above a tenth of white.
    if _share_above(brightest, white * _OVERSHOOT) > OUTLIERS or (
        white > 1 and _share_above(brightest, white / 10) == 0
    ):
        raise ImageError(
            f"float values up to {largest:g}: expected 0 to 1 or 0 to 255: scale them, or convert the file to 8 bit RGB"
        )
    return white, (f"Its float values, up to {largest:.4g}, are read as 0 (black) to {white:g} (white).",)


def _refuse_negative(values: NDArray[np.generic]) -> None:
    if _share_above(-values.min(axis=2).astype(np.float64), 0) > OUTLIERS:
        raise ImageError("values below 0: expected light intensities: convert the file to 8 bit RGB")


def _share_above(values: NDArray[np.generic], limit: float) -> float:
    return float(np.count_nonzero(values > limit)) / values.size  # type: ignore[operator]
