"""The density of DAB against nuclei of known density, whatever the light and the pixel size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kinet_trt import Detections, Frame, measure_dab
from kinet_trt.quality.dab import DAB, HAEMATOXYLIN, RADIUS_UM, dab_at, frame_white

WHITE = (243.0, 240.0, 238.0)
AMOUNTS = [(haem, dab) for haem in (0.0, 0.3, 0.6) for dab in (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)]
"""Haematoxylin and DAB of each nucleus, as optical densities along the stain vectors."""
TOLERANCE = 0.01
"""Of an optical density, for pixels of 8 bits."""


def nuclei_of_known_density(mpp=0.34, light=WHITE, radius_um=3.0):
    """Return a frame with discs of AMOUNTS on glass, and their centres."""
    step = round(12 / mpp)
    columns = 6
    rows = -(-len(AMOUNTS) // columns)
    density = np.zeros((rows * step, columns * step, 3))
    unit = [np.array(vector) / np.linalg.norm(vector) for vector in (HAEMATOXYLIN, DAB)]
    y, x = np.mgrid[: density.shape[0], : density.shape[1]]
    centres = []
    for number, amounts in enumerate(AMOUNTS):
        row, column = divmod(number, columns)
        cx, cy = (column + 0.5) * step, (row + 0.5) * step
        inside = np.hypot(x - cx, y - cy) <= radius_um / mpp
        density[inside] = sum(amount * vector for amount, vector in zip(amounts, unit, strict=True))
        centres.append((cx, cy))
    pixels = np.rint(np.array(light) * 10.0**-density).clip(0, 255).astype(np.uint8)
    return Frame(pixels, mpp), at(*np.array(centres).T)


def at(x, y):
    n = len(x)
    return Detections(np.float32(x), np.float32(y), np.zeros(n, np.uint8), np.ones(n, np.float32))


TRUE = np.array([dab for _, dab in AMOUNTS])


@pytest.mark.parametrize("mpp", [0.34, 0.1, 0.2525, 0.5])
def test_dab_of_known_density_is_measured_at_any_pixel_size(mpp):
    frame, nuclei = nuclei_of_known_density(mpp)
    measured = measure_dab(frame, nuclei, 0.34)
    assert measured.dab.dtype == np.float32
    np.testing.assert_allclose(measured.dab, TRUE, atol=TOLERANCE)
    assert np.array_equal(measured.x, nuclei.x)


@pytest.mark.parametrize("light", [(250, 250, 250), (200, 190, 205), (255, 230, 180), (150, 150, 150)])
def test_dab_does_not_depend_on_brightness_and_colour_of_the_light(light):
    reference = measure_dab(*nuclei_of_known_density())
    other = measure_dab(*nuclei_of_known_density(light=light))
    np.testing.assert_allclose(other.dab, reference.dab, atol=2 * TOLERANCE)


def test_dab_is_the_mean_over_a_disc_also_at_edges_and_of_many_nuclei():
    generator = np.random.default_rng(5)
    pixels = generator.integers(20, 240, (90, 110, 3), np.uint8)
    x, y = generator.integers(0, 110, 9000).astype(np.float32), generator.integers(0, 90, 9000).astype(np.float32)
    measured = dab_at(pixels, x, y, 0.34, WHITE)
    unit = [np.array(vector) / np.linalg.norm(vector) for vector in (HAEMATOXYLIN, DAB)]
    amounts = -np.log10(pixels / np.array(WHITE)) @ np.linalg.pinv(np.array(unit))  # least squares
    dy, dx = np.mgrid[-5:6, -5:6]
    disc = (np.hypot(dx, dy) <= RADIUS_UM / 0.34).astype(np.float64)
    mean = cv2.filter2D(amounts[..., 1], -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(measured, mean[y.astype(int), x.astype(int)], atol=1e-4)


def test_dab_of_no_nuclei_is_empty():
    frame, _ = nuclei_of_known_density()
    assert measure_dab(frame, Detections.empty()).dab.shape == (0,)


def test_dab_uses_a_white_point_that_is_given():
    frame, nuclei = nuclei_of_known_density()
    assert frame_white(frame.pixels) == WHITE
    darker = measure_dab(frame, nuclei, white=(120.0, 120.0, 119.0)).dab
    shift = measure_dab(frame, nuclei).dab - darker
    np.testing.assert_allclose(shift, shift[0], atol=2e-4)
    assert shift[0] == pytest.approx(0.3 * 0.84, abs=0.01)


def test_dab_of_black_pixels_is_finite():
    black = Frame(np.zeros((64, 64, 3), np.uint8))
    assert np.isfinite(measure_dab(black, at([5, 40], [5, 40])).dab).all()
