"""Camera pixels to RGB: colour order, bit depth, grey, raw colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.camera.pixels import to_rgb
from kinet_trt.core.errors import ImageError

RGB = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)


def test_channel_orders_are_converted() -> None:
    alpha = np.full((10, 12, 1), 9, np.uint8)
    np.testing.assert_array_equal(to_rgb(RGB, "RGB"), RGB)
    np.testing.assert_array_equal(to_rgb(RGB[..., ::-1], "BGR"), RGB)
    np.testing.assert_array_equal(to_rgb(np.concatenate([RGB, alpha], 2), "RGBA"), RGB)
    np.testing.assert_array_equal(to_rgb(np.concatenate([RGB[..., ::-1], alpha], 2), "BGRA"), RGB)
    for grey in (RGB[..., 0], RGB[..., :1]):
        np.testing.assert_array_equal(to_rgb(grey, "GREY"), np.repeat(RGB[..., :1], 3, axis=2))


def test_result_is_a_new_array() -> None:
    raw = RGB.copy()
    pixels = to_rgb(raw, "RGB")
    raw[:] = 0
    np.testing.assert_array_equal(pixels, RGB)


@given(bits=st.integers(8, 16), share=st.floats(0, 1))
def test_bit_depths_agree_in_brightness(bits: int, share: float) -> None:
    value = round(share * (2**bits - 1))
    pixels = to_rgb(np.full((4, 4), value, np.uint16), "GREY", bits)
    assert pixels.dtype == np.uint8
    assert abs(int(pixels[0, 0, 0]) - 255 * value / (2**bits - 1)) <= 0.51


def test_dark_16_bit_frame_stays_dark() -> None:
    assert to_rgb(np.full((4, 4, 3), 255, np.uint16), "RGB", 12).max() == 16


@pytest.mark.parametrize("order", ["RGGB", "GRBG", "BGGR", "GBRG"])
@pytest.mark.parametrize("bits", [8, 12])
def test_raw_colour_orders(order: str, bits: int) -> None:
    top = 2**bits - 1
    colour = {"R": top, "G": top // 2, "B": top // 5}
    raw = np.empty((8, 8), np.uint8 if bits == 8 else np.uint16)
    for k, letter in enumerate(order):
        raw[k // 2 :: 2, k % 2 :: 2] = colour[letter]
    pixels = to_rgb(raw, order, bits)
    np.testing.assert_allclose(pixels[2:-2, 2:-2].mean(axis=(0, 1)), [255, 127, 51], atol=1)


@pytest.mark.parametrize(
    ("raw", "order", "bits", "message"),
    [
        (RGB, "HSV", 8, "colour order 'HSV': expected one of RGB"),
        (RGB, "GREY", 8, "expected 1 channels, found"),
        (RGB[..., 0], "BGR", 8, "expected 3 channels, found"),
        (RGB[:0], "RGB", 8, "expected 3 channels, found"),
        (RGB, "RGB", 12, "expected uint8 with 8 bits or uint16 with 8 to 16, found uint8 with 12"),
        (RGB.astype(np.float32), "RGB", 8, "found float32"),
        (RGB.astype(np.uint16), "RGB", 17, "found uint16 with 17"),
    ],
)
def test_array_that_does_not_match_order_or_bits_is_refused(
    raw: np.ndarray, order: str, bits: int, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        to_rgb(raw, order, bits)
