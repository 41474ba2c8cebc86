"""find_peaks compared with a brute-force implementation of the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kinet_trt.core.detections import CLASSES
from kinet_trt.peaks.reference import MAX_RADIUS, find_peaks
from peak_rule import INF, NAN, as_tuples, brute_force, levelled_maps


def one_class(rows):
    return np.asarray([rows], np.float32)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(maps=levelled_maps(), threshold=st.sampled_from([-2.0, 0.0, 0.25, 0.5, 1.0, 1.5]), radius=st.integers(1, 6))
@example(maps=np.zeros((3, 0, 0), np.float32), threshold=0.0, radius=1)
@example(maps=np.ones((3, 14, 14), np.float32), threshold=0.5, radius=6)
@example(maps=np.full((2, 3, 3), NAN, np.float32), threshold=-1.0, radius=1)
@example(maps=np.full((2, 3, 3), -INF, np.float32), threshold=-1.0, radius=1)
@example(maps=np.full((2, 3, 3), np.finfo(np.float32).min, np.float32), threshold=-3.4e38, radius=1)
def test_find_peaks_matches_the_definition(maps, threshold, radius):
    found = find_peaks(maps, threshold, radius, CLASSES[: len(maps)])
    assert as_tuples(found) == brute_force(maps, threshold, radius)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    maps=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=9).map(lambda shape: (3, *shape[1:])),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    ),
    threshold=st.floats(-(2.0**100), 2.0**100, width=32),
    radius=st.integers(1, 6),
)
def test_find_peaks_matches_the_definition_for_any_floats(maps, threshold, radius):
    assert as_tuples(find_peaks(maps, threshold, radius)) == brute_force(maps, threshold, radius)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(maps=levelled_maps(), radius=st.integers(1, 6))
def test_detections_are_in_raster_order_and_maps_unchanged(maps, radius):
    before = maps.copy()
    found = find_peaks(maps, 0.0, radius, CLASSES[: len(maps)])
    np.testing.assert_array_equal(maps, before)
    keys = list(zip(found.y, found.x, strict=True))
    assert keys == sorted(set(keys))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(maps=levelled_maps())
def test_float16_maps_equal_float32_maps(maps):
    names = CLASSES[: len(maps)]
    half = maps.astype(np.float16)
    assert as_tuples(find_peaks(half, 0.25, 2, names)) == as_tuples(find_peaks(half.astype(np.float32), 0.25, 2, names))


def test_memory_layout_does_not_matter():
    maps = np.random.default_rng(3).integers(0, 5, (20, 17, 3)).astype(np.float32)
    across = maps.transpose(2, 0, 1)
    assert as_tuples(find_peaks(across, 2, 2)) == as_tuples(find_peaks(np.ascontiguousarray(across), 2, 2))
    flipped = maps.transpose(2, 0, 1)[:, ::-1, ::-1]
    assert as_tuples(find_peaks(flipped, 2, 2)) == brute_force(flipped, 2, 2)


# --- named examples ---------------------------------------------------------------------------------------------------


def test_plateau_is_counted_once_at_its_first_pixel():
    maps = np.zeros((1, 9, 9), np.float32)
    maps[0, 3:6, 2:6] = 0.8
    assert as_tuples(find_peaks(maps, 0.5, 3, ("a",))) == [(2, 3, 0, pytest.approx(0.8))]


def test_ties_go_to_the_first_in_raster_order_even_to_the_right():
    maps = np.zeros((1, 5, 5), np.float32)
    maps[0, 1, 3] = maps[0, 2, 1] = 1.0
    assert [(x, y) for x, y, *_ in as_tuples(find_peaks(maps, 0.5, 2, ("a",)))] == [(3, 1)]


def test_ties_that_are_lost_still_suppress_the_next_pixel():
    # 0 and 3 tie within radius 3, and so do 3 and 6; 6 is suppressed although 3 lost.
    maps = np.zeros((1, 1, 7), np.float32)
    maps[0, 0, [0, 3, 6]] = 1.0
    assert [x for x, *_ in as_tuples(find_peaks(maps, 0.5, 3, ("a",)))] == [0]


def test_constant_map_has_one_nucleus_at_any_size():
    found = find_peaks(np.full((3, 40, 50), 0.7, np.float16), 0.5, 5)
    assert [(x, y, c) for x, y, c, _ in as_tuples(found)] == [(0, 0, 0)]


def test_window_is_square_with_the_given_radius():
    def count(dy, dx, radius=5):
        maps = np.zeros((1, 30, 30), np.float32)
        maps[0, 10, 10], maps[0, 10 + dy, 10 + dx] = 1.0, 0.9
        return len(find_peaks(maps, 0.5, radius, ("a",)))

    assert count(5, 5) == count(0, 5) == count(5, -5) == 1
    assert count(6, 0) == count(0, 6) == count(5, 6) == 2


def test_corners_count_like_any_other_pixel():
    maps = np.zeros((3, 13, 17), np.float32)
    maps[1, [0, 0, -1, -1], [0, -1, 0, -1]] = 1.0
    assert [(x, y) for x, y, *_ in as_tuples(find_peaks(maps, 0.5))] == [(0, 0), (16, 0), (0, 12), (16, 12)]


def test_negative_peaks_at_the_border_count_when_the_threshold_is_lower():
    maps = np.full((1, 3, 3), -0.5, np.float32)
    maps[0, 0, 0] = -0.2
    assert as_tuples(find_peaks(maps, -0.3, 1, ("a",))) == [(0, 0, 0, pytest.approx(-0.2))]


def test_class_is_the_first_channel_with_the_maximum():
    maps = np.zeros((3, 1, 20), np.float32)
    maps[:, 0, 2] = [0.5, 0.9, 0.9]
    maps[:, 0, 12] = [0.9, 0.1, 0.9]
    assert find_peaks(maps, 0.5).cls.tolist() == [1, 0]


def test_nan_in_some_channels_is_ignored():
    maps = np.zeros((3, 1, 3), np.float32)
    maps[:, 0, 1] = [NAN, 0.6, 0.7]
    assert as_tuples(find_peaks(maps, 0.5, 1)) == [(1, 0, 2, pytest.approx(0.7))]


def test_nan_everywhere_is_never_a_nucleus_and_suppresses_none():
    maps = np.zeros((3, 3, 3), np.float32)
    maps[0, 1, 1] = 0.6
    maps[:, 0, 0] = maps[:, 1, 2] = NAN
    assert [(x, y) for x, y, *_ in as_tuples(find_peaks(maps, 0.5, 1))] == [(1, 1)]
    assert len(find_peaks(np.full((3, 8, 8), NAN, np.float32), -1.0)) == 0


def test_infinity_is_a_valid_height():
    maps = np.zeros((1, 1, 9), np.float32)
    maps[0, 0, [1, 2, 8]] = [INF, INF, 0.9]
    assert as_tuples(find_peaks(maps, 0.5, 2, ("a",))) == [(1, 0, 0, INF), (8, 0, 0, pytest.approx(0.9))]


def test_threshold_is_inclusive_and_compared_in_float32():
    maps = one_class([[0.3]])
    assert len(find_peaks(maps, 0.3, 1, ("a",))) == 1  # float32(0.3) > 0.3
    assert len(find_peaks(one_class([[0.7]]), 0.7, 1, ("a",))) == 1  # float32(0.7) < 0.7
    assert len(find_peaks(maps, float(np.nextafter(np.float32(0.3), np.float32(1))), 1, ("a",))) == 0


@pytest.mark.parametrize("shape", [(3, 0, 0), (3, 0, 7), (3, 7, 0)])
def test_empty_map_has_no_nuclei(shape):
    found = find_peaks(np.empty(shape, np.float32), 0.5)
    assert len(found) == 0
    assert found.classes == CLASSES


def test_map_smaller_than_the_window():
    assert len(find_peaks(one_class([[1, 0], [0, 0.9]]), 0.5, MAX_RADIUS, ("a",))) == 1


def test_types_and_classes_of_the_result():
    found = find_peaks(np.ones((2, 4, 4), np.float16), 0.5, 1, ("a", "b"))
    assert (found.x.dtype, found.y.dtype, found.score.dtype, found.cls.dtype) == (*[np.float32] * 3, np.uint8)
    assert found.classes == ("a", "b")


@pytest.mark.parametrize(
    ("maps", "threshold", "radius", "reason"),
    [
        (np.zeros((8, 8), np.float32), 0.5, 5, "maps: expected"),
        (np.zeros((2, 8, 8), np.float32), 0.5, 5, "maps: expected"),
        (np.zeros((1, 3, 8, 8), np.float32), 0.5, 5, "maps: expected"),
        (np.zeros((3, 8, 8), np.float32), NAN, 5, "threshold: expected"),
        (np.zeros((3, 8, 8), np.float32), INF, 5, "threshold: expected"),
        (np.zeros((3, 8, 8), np.float32), 0.5, 0, "radius: expected"),
        (np.zeros((3, 8, 8), np.float32), 0.5, -1, "radius: expected"),
        (np.zeros((3, 8, 8), np.float32), 0.5, MAX_RADIUS + 1, "radius: expected"),
    ],
)
def test_invalid_arguments_are_rejected(maps, threshold, radius, reason):
    with pytest.raises(ValueError, match=reason):
        find_peaks(maps, threshold, radius)


def test_threshold_beyond_float32_finds_nothing_without_a_warning():
    assert len(find_peaks(np.ones((3, 5, 5), np.float32), 1e39)) == 0
