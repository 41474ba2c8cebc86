from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.errors import MissingExtraError
from kinet_trt.evaluation.metrics import MATCH_RADIUS, Comparison, Score, area, compare, match


def points(*pairs):
    return tuple(np.asarray(pairs, np.float32).reshape(-1, 2).T)


def best_by_trying_all(x, y, true_x, true_y, radius):
    """Return (pairs, least total distance) over every way to pair them."""
    distance = np.hypot(np.subtract.outer(x, true_x), np.subtract.outer(y, true_y)).astype(float)
    if distance.shape[0] > distance.shape[1]:
        distance = distance.T
    best = (0, 0.0)
    for columns in itertools.permutations(range(distance.shape[1]), distance.shape[0]):
        near = [d for row, column in enumerate(columns) if (d := distance[row, column]) <= radius]
        best = min(best, (-len(near), sum(near)))
    return -best[0], best[1]


sets = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(found=sets, true=sets, radius=st.sampled_from([0.0, 1.0, 3.0, 5.0, 20.0]))
def test_match_makes_the_most_pairs_then_the_least_distance(found, true, radius):
    (x, y), (true_x, true_y) = points(*found), points(*true)
    i, j, distance = match(x, y, true_x, true_y, radius)
    assert len(set(i.tolist())) == len(set(j.tolist())) == len(i) == len(j) == len(distance)
    np.testing.assert_allclose(distance, np.hypot(x[i] - true_x[j], y[i] - true_y[j]), rtol=1e-6)
    assert (distance <= radius).all()
    assert (len(i), distance.sum()) == pytest.approx(best_by_trying_all(x, y, true_x, true_y, radius))


def test_one_pair_more_is_worth_any_distance():
    # Greedy pairing takes 0-0 and leaves the others without a partner.
    (x, y), (true_x, true_y) = points((0, 0), (10, 0)), points((0, 0), (-10, 0))
    i, j, distance = match(x, y, true_x, true_y, 10.0)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert distance.sum() == 20


def test_the_radius_is_inclusive_and_16_unless_said_otherwise():
    assert MATCH_RADIUS == 16
    (x, y), (true_x, true_y) = points((0, 0)), points((16, 0))
    assert len(match(x, y, true_x, true_y)[0]) == 1
    (true_x, true_y) = points((np.nextafter(np.float32(16), np.float32(17)), 0))
    assert len(match(x, y, true_x, true_y)[0]) == 0


@pytest.mark.parametrize(("found", "true"), [([], []), ([(1, 1)], []), ([], [(1, 1)]), ([(0, 0)], [(99, 99)])])
def test_without_partners_there_are_no_pairs(found, true):
    i, j, distance = match(*points(*found), *points(*true))
    assert len(i) == len(j) == len(distance) == 0
    assert i.dtype == j.dtype == np.intp
    assert distance.dtype == np.float64


def test_many_detections_at_one_place_pair_with_one_annotation():
    (x, y), (true_x, true_y) = points(*[(5, 5)] * 40), points((5, 5))
    i, j, distance = match(x, y, true_x, true_y)
    assert (len(i), j.tolist(), distance.tolist()) == (1, [0], [0.0])


def test_a_shuffled_jittered_copy_pairs_with_its_original():
    generator = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(np.arange(15) * 40.0, np.arange(12) * 40.0), -1).reshape(-1, 2).astype(np.float32)
    order = generator.permutation(len(grid))
    moved = grid[order] + generator.uniform(-5, 5, grid.shape).astype(np.float32)
    i, j, _ = match(moved[:, 0], moved[:, 1], grid[:, 0], grid[:, 1])
    assert len(i) == len(grid)
    np.testing.assert_array_equal(order[i], j)


def test_score_shares():
    score = Score(paired=6, detected=8, true=12)
    assert score.precision == pytest.approx(0.75)
    assert score.recall == pytest.approx(0.5)
    assert score.f1 == pytest.approx(0.6)
    assert score + Score(1, 2, 3) == Score(7, 10, 15)


@pytest.mark.parametrize("score", [Score(0, 0, 0), Score(0, 5, 0), Score(0, 0, 5)])
def test_score_of_nothing_is_zero(score):
    assert score.precision == score.recall == score.f1 == 0


def test_classes_are_weighed_by_their_share_of_the_annotations():
    def weighted(*scores):
        return Comparison(Score(0, 0, 0), scores, np.empty(0)).weighted

    assert weighted(Score(1, 1, 1), Score(0, 0, 3))[2] == pytest.approx(0.25)
    assert weighted(Score(1, 2, 1), Score(1, 1, 3))[:2] == pytest.approx((0.25 * 0.5 + 0.75, 0.25 + 0.75 / 3))
    assert weighted(Score(0, 9, 0), Score(2, 2, 2))[2] == 1.0  # a class nobody marked has no weight
    assert weighted() == weighted(Score(0, 3, 0)) == (0, 0, 0)


def test_a_missing_lapx_is_one_line_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "lap", None)
    one = np.zeros(1, np.float32)
    with pytest.raises(MissingExtraError, match=r"kinet-trt\[eval\]"):
        match(one, one, one, one)


def test_compare_pairs_all_together_and_class_by_class():
    found = (*points((0, 0), (50, 0), (100, 0)), np.array([0, 1, 1], np.uint8))
    true = (*points((3, 4), (50, 0), (200, 0)), np.array([0, 0, 2], np.uint8))
    got = compare(found, true, 3)
    assert got.detection == Score(2, 3, 3)
    assert got.per_class == (Score(1, 1, 2), Score(0, 2, 0), Score(0, 0, 1))
    assert sorted(got.distance) == [0, 5]
    twice = got + got
    assert twice.detection == Score(4, 6, 6)
    assert len(twice.distance) == 4


def test_the_area_is_of_trapezoids_over_the_recall_reached():
    assert area(np.array([0.2, 0.6, 0.4]), np.array([1.0, 0.5, 0.8])) == pytest.approx(0.2 * 0.9 + 0.2 * 0.65)
    assert area(np.array([0.7]), np.array([0.9])) == 0
    assert area(np.zeros(0), np.zeros(0)) == 0
