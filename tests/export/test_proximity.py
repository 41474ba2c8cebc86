"""Eq. 1: drawn maps compared with the formula, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinet_trt.export.proximity import proximity_maps
from numpy.typing import NDArray


def value(distance: float, alpha: float = 3.0, reach: float = 15.0) -> float:
    return float((np.exp(alpha * (1 - distance / reach)) - 1) / (np.exp(alpha) - 1)) if distance <= reach else 0.0


def draw(
    nuclei: list[tuple[float, float, int]], height: int = 40, width: int = 48, **options: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    columns = zip(*nuclei, strict=True) if nuclei else ((), (), ())
    x, y, cls = (np.array(c) for c in columns)
    return proximity_maps(x.astype(np.float32), y.astype(np.float32), cls.astype(np.uint8), height, width, **options)


positions = st.floats(-20, 60, width=32)
nucleus_lists = st.lists(st.tuples(positions, positions, st.integers(0, 2)), max_size=7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    nuclei=nucleus_lists,
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    alpha=st.floats(0.5, 5),
    reach=st.floats(2, 18),
)
def test_maps_are_equation_1_of_the_nearest_nucleus(
    nuclei: list[tuple[float, float, int]], height: int, width: int, alpha: float, reach: float
) -> None:
    maps, nearest = draw(nuclei, height, width, alpha=alpha, distance=reach)
    v, u = np.mgrid[:height, :width]
    distance = np.full((3, height, width), np.inf)
    for x, y, s in nuclei:
        distance[s] = np.minimum(distance[s], np.hypot(u - x, v - y))
    closest = distance.min(axis=0)
    np.testing.assert_allclose(nearest, np.minimum(closest, reach + 1), atol=1e-4)
    drawn = (np.exp(alpha * (1 - np.minimum(closest, reach) / reach)) - 1) / (np.exp(alpha) - 1)
    np.testing.assert_allclose(maps.sum(axis=0), drawn, atol=1e-4)
    for s in range(3):
        others = np.delete(distance, s, axis=0).min(axis=0)
        mine, theirs = closest + 1e-4 < others, closest + 1e-4 < distance[s]
        np.testing.assert_allclose(maps[s][mine], drawn[mine], atol=1e-4)
        assert not maps[s][theirs].any()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(nuclei=nucleus_lists)
def test_pixel_belongs_to_one_class_at_most_and_values_lie_between_0_and_1(
    nuclei: list[tuple[float, float, int]],
) -> None:
    maps, nearest = draw(nuclei)
    assert maps.dtype == nearest.dtype == np.float32
    assert maps.shape == (3, 40, 48)
    assert nearest.shape == (40, 48)
    assert ((maps > 0).sum(axis=0) <= 1).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_map_is_one_at_the_centre_and_zero_from_the_reach_on() -> None:
    maps, nearest = draw([(20, 10, 1)])
    assert maps[1, 10, 20] == 1
    assert maps[1, 10, 35] == 0  # at d itself
    assert maps[1, 10, 34] == pytest.approx(value(14), abs=1e-6)
    assert maps[1, 10, 34] > 0
    assert not maps[1, 10, 36:].any()
    assert not maps[[0, 2]].any()
    assert nearest[10, 20] == 0
    assert nearest[10, 47] == 16  # capped at d + 1


@pytest.mark.parametrize(("alpha", "reach"), [(3.0, 15.0), (3.0, 10.0), (1.0, 7.5)])
def test_decay_and_reach_are_parameters(alpha: float, reach: float) -> None:
    maps, _ = draw([(20, 10, 0)], alpha=alpha, distance=reach)
    found = maps[0, 10, 20:40]
    np.testing.assert_allclose(found, [value(d, alpha, reach) for d in range(20)], atol=1e-6)


def test_centre_between_pixels_peaks_at_the_nearest_pixel() -> None:
    maps, nearest = draw([(20.3, 10.75, 2)])
    assert np.unravel_index(maps[2].argmax(), maps[2].shape) == (11, 20)
    assert maps[2, 11, 20] == pytest.approx(value(float(np.hypot(0.3, 0.25))), abs=1e-6)
    assert nearest[11, 20] == pytest.approx(np.hypot(0.3, 0.25), abs=1e-5)


@pytest.mark.parametrize(
    ("x", "y"), [(-4.5, 10.0), (-0.5, 10.0), (47.5, 10.0), (52.0, 10.0), (20.0, -7.9), (20.0, 45.25)]
)
def test_nucleus_outside_is_drawn_in_part(x: float, y: float) -> None:
    maps, _ = draw([(x, y, 0)])
    v, u = np.mgrid[:40, :48]
    expected = np.vectorize(value)(np.hypot(u - x, v - y))
    assert expected.any()
    np.testing.assert_allclose(maps[0], expected, atol=1e-5)


def test_nucleus_out_of_reach_is_not_drawn() -> None:
    for x, y in [(-16.0, 10.0), (63.5, 10.0), (20.0, -15.5), (20.0, 1e6), (-1e6, -1e6)]:
        maps, nearest = draw([(x, y, 0)])
        assert not maps.any()
        assert nearest.min() > 15


def test_touching_nuclei_of_two_classes_meet_half_way() -> None:
    maps, _ = draw([(10, 20, 0), (21, 20, 1)])
    assert (maps[0, 20, 10:16] > 0).all()
    assert (maps[1, 20, 16:22] > 0).all()
    assert not maps[0, 20, 16:].any()
    assert not maps[1, 20, :16].any()


def test_order_of_the_nuclei_matters_only_on_the_line_half_way() -> None:
    nuclei = [(10.0, 20.0, 0), (19.0, 22.0, 1), (30.5, 7.25, 2), (12.0, 30.0, 1)]
    there, back = draw(nuclei)[0], draw(nuclei[::-1])[0]
    np.testing.assert_array_equal(there.sum(axis=0), back.sum(axis=0))
    assert (there != back).any(axis=0).mean() < 0.02


def test_maps_without_nuclei_or_pixels_are_empty() -> None:
    maps, nearest = draw([])
    assert not maps.any()
    assert (nearest == 16).all()
    assert draw([(1, 1, 0)], 0, 5)[0].shape == (3, 0, 5)
