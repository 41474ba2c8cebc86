from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import GREY_SPREAD, MIN_SIDE, Frame, fit


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def blobs(height, width, centres, sigma):
    """Render dark blobs with exact centres (pixel centres at integers) on white."""
    y, x = np.mgrid[:height, :width].astype(float)
    dark = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for cx, cy in centres)
    return np.repeat(np.rint(255 - 200 * np.minimum(dark, 1)).astype(np.uint8)[..., None], 3, axis=2)


def centre_of_darkness(pixels, x, y, reach):
    """Return the darkness-weighted mean position near a point."""
    left, top = max(0, round(x - reach)), max(0, round(y - reach))
    part = 255.0 - pixels[top : round(y + reach) + 1, left : round(x + reach) + 1, 0]
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
    return left + (part * columns).sum() / part.sum(), top + (part * rows).sum() / part.sum()


# --- Frame ------------------------------------------------------------------------------------------------------------


def test_frame_has_its_size_and_metadata():
    frame = Frame(noise(40, 60), mpp=0.25, time=12.5, stage=(1.0, 2.0))
    assert (frame.height, frame.width) == (40, 60)
    assert (frame.mpp, frame.time, frame.stage) == (0.25, 12.5, (1.0, 2.0))
    assert Frame(noise(1, 1)).mpp is None


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((40, 60), np.uint8),
        np.zeros((40, 60, 1), np.uint8),
        np.zeros((40, 60, 4), np.uint8),
        np.zeros((3, 40, 60), np.uint8),
        np.zeros((1, 40, 60, 3), np.uint8),
        np.zeros((40, 60, 3), np.uint16),
        np.zeros((40, 60, 3), np.float32),
        np.zeros((40, 60, 3), bool),
    ],
)
def test_frame_refuses_pixels_other_than_8_bit_rgb(pixels):
    with pytest.raises(ImageError, match=r"uint8 \[height, width, 3\]; found ") as raised:
        Frame(pixels)
    assert f"found {pixels.dtype} {list(pixels.shape)}" in str(raised.value)


@pytest.mark.parametrize("mpp", [0, 0.0, -0.25, math.nan, math.inf, -math.inf])
def test_frame_mpp_must_be_a_positive_number(mpp):
    with pytest.raises(ImageError, match="µm/px: expected a positive number"):
        Frame(noise(40, 40), mpp=mpp)


def test_is_grey_if_r_g_b_are_equal_everywhere():
    grey = np.repeat(noise(50, 70)[..., :1], 3, axis=2)
    assert Frame(grey).is_grey
    assert Frame(np.zeros((40, 40, 3), np.uint8)).is_grey
    assert not Frame(noise(50, 70)).is_grey


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize(("y", "x"), [(0, 0), (7, 9), (49, 69)])
def test_is_grey_tolerates_noise_but_no_coloured_pixel(channel, y, x):
    pixels = np.full((50, 70, 3), 100, np.uint8)
    pixels[y, x, channel] += GREY_SPREAD
    assert Frame(pixels).is_grey
    pixels[y, x, channel] += 1
    assert not Frame(pixels).is_grey


# --- fit --------------------------------------------------------------------------------------------------------------


def test_fit_at_the_scale_of_the_model_keeps_pixels():
    pixels = noise(48, 64)
    for mpp in (None, 0.25):
        fitted = fit(Frame(pixels, mpp), 0.25, 16)
        np.testing.assert_array_equal(fitted.pixels, pixels)
        assert (fitted.height, fitted.width, fitted.scale_y, fitted.scale_x) == (48, 64, 1.0, 1.0)
        x = np.asarray([0, 3.5], np.float32)
        assert fitted.to_frame(x, x)[0].tolist() == [0, 3.5]


def test_fit_pads_bottom_and_right_by_repeating_the_edge():
    pixels = noise(33, 50)
    fitted = fit(Frame(pixels), 0.25, 16)
    assert fitted.pixels.shape == (48, 64, 3)
    assert (fitted.height, fitted.width) == (33, 50)
    np.testing.assert_array_equal(fitted.pixels, np.pad(pixels, ((0, 15), (0, 14), (0, 0)), "edge"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    mpp=st.floats(0.05, 1.5),
    model=st.sampled_from([0.25, 0.5]),
    multiple=st.sampled_from([1, 8, 16, 32]),
)
def test_fit_gives_the_scaled_size_padded(height, width, mpp, model, multiple):
    frame = Frame(noise(height, width), mpp)
    expected = round(height * mpp / model), round(width * mpp / model)
    if min(expected) < MIN_SIDE:
        with pytest.raises(ImageError, match="too small"):
            fit(frame, model, multiple)
        return
    fitted = fit(frame, model, multiple)
    assert (fitted.height, fitted.width) == expected
    assert fitted.pixels.shape == (*(-(-side // multiple) * multiple for side in expected), 3)
    assert fitted.pixels.dtype == np.uint8
    assert fitted.pixels.flags.c_contiguous
    # Corner pixels are mapped to corner pixels.
    x, y = fitted.to_frame(np.asarray([-0.5, expected[1] - 0.5]), np.asarray([-0.5, expected[0] - 0.5]))
    np.testing.assert_allclose([x, y], [[-0.5, width - 0.5], [-0.5, height - 0.5]], atol=1e-4)


@pytest.mark.parametrize("mpp", [0.1, 0.17, 0.23, 0.25, 0.26, 0.37, 0.5, 0.61])
@pytest.mark.parametrize("size", [(400, 500), (333, 451)])
def test_to_frame_maps_a_blob_back_to_its_position(mpp, size):
    model = 0.25
    sigma = 4 * max(1.0, model / mpp)  # wide enough to be seen at either scale
    height, width = size
    centres = [(60.3, 80.6), (width - 75.25, 101.5), (150.0, height - 70.8), (width - 90.5, height - 66.0)]
    fitted = fit(Frame(blobs(height, width, centres, sigma), mpp), model, 16)
    scale = mpp / model
    for x, y in centres:
        guess_x, guess_y = (x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5
        found = centre_of_darkness(fitted.pixels, guess_x, guess_y, 5 * sigma * scale)
        back = fitted.to_frame(*(np.asarray([value], np.float32) for value in found))
        assert (back[0][0], back[1][0]) == pytest.approx((x, y), abs=0.1)


def test_to_frame_gives_float32_and_undoes_the_scale():
    fitted = fit(Frame(noise(100, 100), 0.5), 0.25, 16)
    x, y = fitted.to_frame(np.asarray([0, 1, 199], np.float32), np.asarray([0, 1, 199], np.float32))
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_allclose(x, [-0.25, 0.25, 99.25])
    np.testing.assert_array_equal(x, y)


def test_fit_averages_areas_when_shrinking():
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[::2, ::2] = 200  # one pixel of four
    assert np.abs(fit(Frame(pixels, 0.125), 0.25, 16).pixels.astype(int) - 50).max() <= 1


def test_fit_is_half_pixel_bilinear_when_enlarging():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    fitted = fit(Frame(pixels, 0.5), 0.25, 16)
    np.testing.assert_array_equal(fitted.pixels[10, 38:42, 0], [0, 50, 150, 200])


def test_fit_keeps_the_order_of_colours():
    pixels = np.full((80, 80, 3), (250, 120, 10), np.uint8)
    assert fit(Frame(pixels, 0.31), 0.25, 16).pixels.reshape(-1, 3).tolist()[0] == [250, 120, 10]


def test_fit_accepts_strided_views():
    pixels = noise(120, 140)
    for view in (pixels[::-1, :, ::-1], pixels[:, ::-1], pixels[::2, ::2], pixels.transpose(1, 0, 2)):
        for mpp in (None, 0.3):
            np.testing.assert_array_equal(
                fit(Frame(view, mpp), 0.25, 16).pixels, fit(Frame(np.ascontiguousarray(view), mpp), 0.25, 16).pixels
            )


def test_fit_does_not_write_to_the_frame():
    pixels = noise(40, 50)
    pixels.flags.writeable = False
    fit(Frame(pixels, 0.3), 0.25, 16)


def test_fit_needs_32_px_at_the_scale_of_the_model():
    fit(Frame(noise(32, 100)), 0.25, 16)
    fit(Frame(noise(64, 100), 0.125), 0.25, 16)
    with pytest.raises(ImageError) as raised:
        fit(Frame(noise(31, 100)), 0.25, 16)
    assert "100 x 31 px at 0.25 µm/px is 100 x 31 px" in str(raised.value)
    assert f"at least {MIN_SIDE}" in str(raised.value)
    with pytest.raises(ImageError, match=r"too small: 100 x 62 px at 0\.125 µm/px is 50 x 31 px"):
        fit(Frame(noise(62, 100), 0.125), 0.25, 16)


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 50, 3), (50, 0, 3)])
def test_fit_of_an_empty_frame_is_too_small(shape):
    with pytest.raises(ImageError, match="too small"):
        fit(Frame(np.empty(shape, np.uint8)), 0.25, 16)


@pytest.mark.parametrize("mpp", [1e-300, 1e-9])
def test_fit_at_a_tiny_scale_is_too_small(mpp):
    with pytest.raises(ImageError, match="too small"):
        fit(Frame(noise(64, 64), mpp), 0.25, 16)


@pytest.mark.parametrize("mpp", [1e6, 1e12, 1e300])
def test_fit_at_a_huge_scale_is_an_image_error(mpp):
    # nm instead of µm: a factor of 1,000 along each side
    with pytest.raises(ImageError):
        fit(Frame(noise(64, 64), mpp), 0.25, 16)
