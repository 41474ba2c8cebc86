"""Polygons and pixel grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.geometry import contains, polygon_mask, rescale

corner = st.tuples(st.integers(-3, 23), st.integers(-3, 23))
SQUARE = np.array([(2, 2), (8, 2), (8, 8), (2, 8)], float)


def grid(height=20, width=20):
    y, x = np.mgrid[:height, :width].astype(float)
    return x.ravel(), y.ravel()


def test_contains_takes_the_left_and_upper_edge_and_leaves_out_holes():
    x = np.array([1.999, 2, 4, 7.999, 8])
    assert contains((SQUARE,), x, np.full(5, 5.0)).tolist() == [False, True, True, True, False]
    assert contains((SQUARE,), np.full(5, 5.0), x).tolist() == [False, True, True, True, False]
    hole = np.array([(3, 3), (5, 3), (5, 5), (3, 5)], float)
    assert contains((SQUARE, hole), np.array([2.5, 3, 4, 5]), np.full(4, 4.0)).tolist() == [True, False, False, True]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(ring=st.lists(corner, min_size=3, max_size=9))
def test_contains_and_polygon_mask_agree_on_outlines_of_any_kind(ring):
    # No pixel centre lies on an edge, where rounding would decide.
    outline = np.array(ring, float) + np.array([np.pi, np.e]) / 10
    assert np.array_equal(contains((outline,), *grid()), polygon_mask((outline,), 20, 20).ravel())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(centre=st.tuples(st.integers(1, 18), st.integers(1, 18)), far=st.sampled_from([0, 1 << 19]))
def test_contains_assigns_each_point_to_one_of_the_triangles_that_share_edges(centre, far):
    corners = [(0, 0), (19, 0), (19, 19), (0, 19)]
    x, y = (axis + far for axis in grid())
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    triangles = sum(contains((np.array([a, b, centre], float) + far,), x, y).astype(int) for a, b in pairs)
    assert np.array_equal(triangles, contains((np.array(corners, float) + far,), x, y).astype(int))


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.34 / 0.25, 1 / 3])
def test_rescale_keeps_the_corners_of_the_picture_and_the_dtype(scale):
    corners = np.array([-0.5, 99.5], np.float32)
    assert rescale(corners, scale) == pytest.approx([-0.5, 100 * scale - 0.5], rel=1e-6)
    assert rescale(corners, scale).dtype == np.float32
    rings = np.random.default_rng(0).random((7, 2)) * 1000
    assert rescale(rescale(rings, scale), 1 / scale) == pytest.approx(rings)


def test_rescale_puts_both_pixels_of_a_pair_on_either_side_of_the_pixel_they_came_from():
    assert rescale(np.array([0.0, 1.0]), 0.5).tolist() == [-0.25, 0.25]
