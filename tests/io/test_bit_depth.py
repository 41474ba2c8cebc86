import numpy as np
import pytest

from kinet_trt.core.errors import ImageError
from kinet_trt.io.bit_depth import to_8_bit

RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
RGB[0, 0] = 255


@pytest.mark.parametrize(
    ("values", "stated"),
    [
        (RGB, None),
        (RGB.astype(np.uint16), None),
        (RGB.astype(np.uint16) * 257, None),
        (RGB.astype(np.uint16) * 257, 16),
        (np.rint(RGB / 255 * 4095).astype(np.uint16), None),
        (np.rint(RGB / 255 * 4095).astype(np.uint16), 16),
        (np.rint(RGB / 255 * 1023).astype(np.uint16), 10),
        (np.rint(RGB / 255 * 32767).astype(np.int16), None),
        (RGB.astype(np.uint32) * 0x01010101, None),
        (RGB.astype(np.int32), None),
        (np.rint(RGB / 255 * 127).astype(np.int8), None),
    ],
)
def test_to_8_bit_scales_integers_of_any_depth(values, stated):
    pixels, remarks = to_8_bit(values, stated)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RGB).max() <= (1 if values.dtype == np.int8 else 0)
    assert remarks == ()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("white", [1, 255, 4095])
def test_to_8_bit_scales_floats_and_names_their_range(dtype, white):
    pixels, (remark,) = to_8_bit((RGB / 255 * white).astype(dtype))
    np.testing.assert_array_equal(pixels, RGB)
    assert f"to {white} (white)" in remark


@pytest.mark.parametrize("share", [1, 30, 300])
def test_to_8_bit_ignores_saturated_pixels_of_12_bits(share):
    deep = np.rint(RGB / 255 * 4095).astype(np.uint16)
    burnt = np.arange(RGB[..., 0].size).reshape(RGB.shape[:2]) < share
    deep[burnt] = 65535
    pixels, (remark,) = to_8_bit(deep)
    np.testing.assert_array_equal(pixels[~burnt], RGB[~burnt])
    assert (pixels[burnt] == 255).all()
    assert remark.startswith(f"{share} of 2000 pixels are brighter than 4095, the white of the 12 bits")


def test_to_8_bit_uses_the_stated_depth_if_it_is_possible():
    dim = np.rint(RGB / 255 * 800).astype(np.uint16)
    assert to_8_bit(dim, 12)[0].max() == round(800 / 4095 * 255)
    assert to_8_bit(dim)[0].max() == round(800 / 1023 * 255)
    # 12 bits, shifted to the top of 16
    np.testing.assert_array_equal(to_8_bit(RGB.astype(np.uint16) * 257, 12)[0], RGB)


def test_to_8_bit_of_a_mask_has_no_remark():
    mask = np.where(RGB > 128, 65535, 0).astype(np.uint16)
    pixels, remarks = to_8_bit(mask)
    np.testing.assert_array_equal(pixels, np.where(RGB > 128, 255, 0))
    assert not remarks


def test_to_8_bit_keeps_many_bright_pixels():
    deep = np.rint(RGB / 255 * 4095).astype(np.uint16)
    deep[:4] = 16383
    assert to_8_bit(deep)[0].max() == 255
    assert to_8_bit(deep)[0][5:].max() == round(4095 / 16383 * 255)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RGB.astype(np.int16) - 200, "below 0"),
        (RGB.astype(np.float32) - 200, "below 0"),
        (np.where(RGB > 250, np.nan, RGB / 255), "not finite"),
        (RGB.astype(np.float32) * 1e6, "up to 2.55e"),
        (RGB / 255 * 3, "up to 3"),
        (RGB.astype(np.complex64), "complex64"),
    ],
)
def test_to_8_bit_refuses_values_that_are_not_intensities(values, message):
    with pytest.raises(ImageError, match=message):
        to_8_bit(values)
