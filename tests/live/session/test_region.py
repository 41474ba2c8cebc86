"""Regions: which nuclei count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kinet_trt import KinetError
from kinet_trt.live.session.region import Mask, Polygon, contains, from_bytes, polygon, to_bytes


def test_polygon_covers_pixels_whose_centre_is_inside():
    box = Polygon(((1.5, 2.5), (1.5, 6.5), (8.5, 6.5), (8.5, 2.5))).mask(10, 12)
    expected = np.zeros((10, 12), np.bool_)
    expected[3:7, 2:9] = True
    assert np.array_equal(box, expected)
    circle = Polygon(tuple((50 + 40 * math.cos(t), 50 + 40 * math.sin(t)) for t in np.linspace(0, 6.28, 300)))
    assert circle.mask(100, 100).sum() == pytest.approx(math.pi * 1600, rel=0.005)
    # Beyond the frame it is cut; crossing itself, even-odd.
    assert Polygon(((-50.0, -50.0), (500.0, -50.0), (500.0, 500.0), (-50.0, 500.0))).mask(10, 12).all()
    twice = Polygon(((0.0, 0.0), (20.0, 0.0), (20.0, 20.0), (0.0, 20.0)) * 2)
    assert not twice.mask(20, 20).any()


def test_triangles_that_share_edges_share_no_pixel():
    rng = np.random.default_rng(0)
    for _ in range(50):
        centre = tuple(rng.integers(3, 17, 2).astype(float))
        corners = [(0.0, 0.0), (19.0, 0.0), (19.0, 19.0), (0.0, 19.0)]
        masks = [Polygon((a, b, centre)).mask(20, 20) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
        assert np.array_equal(sum(mask.astype(int) for mask in masks), Polygon(tuple(corners)).mask(20, 20).astype(int))


def test_region_round_trips_through_bytes():
    for region in (
        Polygon(((0.25, 1.0), (5.0, 1e5), (-3.0, 2.0))),
        Mask(np.random.default_rng(0).random((9, 7)) < 0.5),
    ):
        again = from_bytes(*to_bytes(region))
        assert np.array_equal(again.mask(9, 7), region.mask(9, 7))


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[1, 2], [3, 4]],
        [[1, 2], [3, 4], [5, math.nan]],
        [[1, 2], [3, 4], [5, 1e9]],
        "abc",
        [[1, 2, 3]] * 3,
        [1, 2, 3],
        None,
        [[0, 0]] * 10_001,
    ],
)
def test_invalid_region_is_refused(points):
    with pytest.raises(KinetError, match="region"):
        polygon(points)


@pytest.mark.parametrize(
    ("kind", "data"), [("polygon", b"[["), ("polygon", b'{"a": 1}'), ("mask", b""), ("mask", b"png"), ("circle", b"")]
)
def test_damaged_region_is_one_message(kind, data):
    with pytest.raises(KinetError, match="region"):
        from_bytes(kind, data)


def test_nuclei_at_the_edge_of_a_frame_are_inside():
    x, y = np.array([-0.5, 9.49, 9.5, 4.0]), np.array([0.0, 7.0, 0.0, 7.5])
    assert contains(None, 10, 8, x, y).tolist() == [True, True, False, False]
    region = np.zeros((8, 10), np.bool_)
    region[:, 9] = True
    assert contains(region, 10, 8, x, y).tolist() == [False, True, False, False]
