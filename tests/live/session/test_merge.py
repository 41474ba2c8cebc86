"""Merging: a nucleus in several fields is counted once, and none is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import detections

from kinet_trt.live.session.edits import Edit, replay
from kinet_trt.live.session.layout import Layout, Placed
from kinet_trt.live.session.merge import FieldNuclei, area_mm2, merge
from kinet_trt.live.session.pairing import pair
from kinet_trt.live.session.region import Polygon

MPP, WIDTH, HEIGHT = 0.5, 200, 160


def piece(name: int, x, y, cls=None, record=(), region=None) -> FieldNuclei:
    return FieldNuclei(name, WIDTH, HEIGHT, MPP, replay(detections(x, y, cls), record), region)


def entry(number: int, field: int, kind: str, nucleus: int, cls=None, x=None, y=None) -> Edit:
    return Edit(number, field, 1, kind, nucleus, x, y, cls, None, "A", 0.0)


def side_by_side(*offsets) -> Layout:
    return Layout({k: Placed(0, float(x), float(y)) for k, (x, y) in enumerate(offsets)})


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 100)), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_each_nucleus_is_counted_exactly_once(offsets, seed):
    """Nuclei at least 7 um apart, detected within 0.8 um; at the edge of a field they may be missing."""
    rng, jitter = np.random.default_rng(seed), 0.8
    columns, rows = np.meshgrid(np.arange(0, 230, 8.0), np.arange(0, 190, 8.0))
    true_x, true_y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in (columns, rows))
    true_cls = rng.integers(0, 3, len(true_x))
    field_nuclei, surely = [], np.zeros(len(true_x), np.bool_)
    for name, (left, top) in enumerate(offsets):
        angle, far = rng.uniform(0, 2 * math.pi, len(true_x)), rng.uniform(0, jitter, len(true_x))
        x, y = true_x + far * np.cos(angle) - left, true_y + far * np.sin(angle) - top
        seen = (x >= 0) & (x < WIDTH * MPP) & (y >= 0) & (y < HEIGHT * MPP)
        field_nuclei.append(piece(name, x[seen] / MPP - 0.5, y[seen] / MPP - 0.5, true_cls[seen]))
        x, y = true_x - left, true_y - top
        surely |= np.minimum(np.minimum(x, WIDTH * MPP - x), np.minimum(y, HEIGHT * MPP - y)) > jitter
    merged = merge(field_nuclei, side_by_side(*offsets))
    mine, theirs, distance = pair(merged.x, merged.y, true_x, true_y, 2.0)
    assert len(mine) == len(merged), "a nucleus was counted twice, or one that is not there"
    assert surely[theirs].sum() == surely.sum(), "a nucleus was lost"
    assert np.array_equal(merged.cls[mine], true_cls[theirs])
    assert distance.max(initial=0) <= jitter + 0.01
    # The masks by field tell of the same nuclei.
    assert sum(int(own.sum()) for own in merged.counted.values()) == len(merged)
    assert merged.repeats == sum(len(p.edited) for p in field_nuclei) - len(merged)


def test_separate_groups_are_not_merged():
    layout = Layout({0: Placed(0, 0.0, 0.0), 1: Placed(1, 0.0, 0.0)})
    merged = merge([piece(0, [50], [50]), piece(1, [50], [50])], layout)
    assert len(merged) == 2
    assert merged.group.tolist() == [0, 1]
    assert merged.repeats == 0


def test_field_that_shows_a_nucleus_best_decides_on_it():
    layout = side_by_side((0, 0), (40, 0))
    # At 45 um: 45 um inside the first field, 5 um inside the second.
    first, second = piece(0, [89.5], [79.5], [0]), piece(1, [10.5], [79.5], [1])
    merged = merge([first, second], layout)
    assert (len(merged), merged.cls[0], merged.field[0], merged.seen[0]) == (1, 0, 0, 2)
    # The first does not see it there: it is an invention of the second.
    assert len(merge([piece(0, [], []), second], layout)) == 0
    # At 41 um it may have slipped over the second's edge, but the first decides: it shows it well.
    assert len(merge([piece(0, [], []), piece(1, [1.5], [79.5])], layout)) == 0
    assert len(merge([piece(0, [81.5], [79.5]), piece(1, [], [])], layout)) == 1
    # At the first's own edge the second shows it better.
    assert len(merge([piece(0, [199.0], [79.5]), piece(1, [119.0], [79.5])], layout)) == 1


def test_at_an_edge_one_sighting_is_enough():
    """1 um below the upper edge of both fields: it may be outside the picture of the first."""
    layout = side_by_side((0, 0), (40, 0))
    seen = piece(1, [10.5], [1.5])
    assert len(merge([piece(0, [], []), seen], layout)) == 1
    # What was added and undone in the first was never there, and says nothing of the second's nucleus.
    undone = [
        entry(5, 0, "add", 0, "negative", x=90.5, y=1.5),
        Edit(6, 0, 1, "undo", 0, None, None, None, 5, "", 0),
    ]
    assert len(merge([piece(0, [], [], record=undone), seen], layout)) == 1


@pytest.mark.parametrize("swapped", [False, True])
def test_edit_takes_precedence_over_the_deciding_field(swapped):
    layout = side_by_side((0, 0), (40, 0))
    mine, other = ([89.5], [79.5], [0]), ([10.5], [79.5], [1])

    def of(*record):
        field_nuclei = [piece(0, *mine), piece(1, *other, record)]
        return merge(field_nuclei[::-1] if swapped else field_nuclei, layout)

    said = of(entry(5, 1, "reclassify", 0, "non_tumor"))
    assert (len(said), said.cls[0], bool(said.corrected[0])) == (1, 2, True)
    assert len(of(entry(5, 1, "remove", 0))) == 0
    added = of(entry(5, 1, "add", 1, "negative", x=60.0, y=20.0))
    assert len(added) == 2
    assert sorted(added.cls.tolist()) == [0, 1]
    assert added.corrected.sum() == 1
    undone = of(entry(5, 1, "add", 1, "negative", x=10.5, y=79.5), Edit(6, 1, 1, "undo", 1, None, None, None, 5, "", 0))
    assert len(undone) == 1
    assert not undone.corrected.any()


def test_last_of_two_edits_decides():
    layout = side_by_side((0, 0), (40, 0))
    for first, second, expected in ((3, 4, 2), (4, 3, 1)):
        field_nuclei = [
            piece(0, [89.5], [79.5], [0], [entry(first, 0, "reclassify", 0, "negative")]),
            piece(1, [10.5], [79.5], [0], [entry(second, 1, "reclassify", 0, "non_tumor")]),
        ]
        assert merge(field_nuclei, layout).cls.tolist() == [expected]


def test_region_limits_its_own_field_only():
    half = Polygon(((-1.0, -1.0), (99.5, -1.0), (99.5, 200.0), (-1.0, 200.0))).mask(HEIGHT, WIDTH)
    x, y = [20.0, 150.0], [80.0, 80.0]
    alone = merge([piece(0, x, y, region=half)], side_by_side((0, 0)))
    assert alone.x.tolist() == [pytest.approx(20.5 * MPP)]
    # The same two nuclei in a field beside, which counts all that it shows.
    both = merge([piece(0, x, y, region=half), piece(1, [70.0], [80.0])], side_by_side((0, 0), (40, 0)))
    assert len(both) == 2
    assert both.field.tolist() == [0, 1]


def test_overlapping_areas_are_added_once():
    side = WIDTH * MPP, HEIGHT * MPP
    one = side[0] * side[1] / 1e6
    half = np.zeros((HEIGHT, WIDTH), np.bool_)
    half[:, :100] = True
    field_nuclei = [piece(k, [], []) for k in range(2)]
    apart = Layout({0: Placed(0, 0.0, 0.0), 1: Placed(1, 0.0, 0.0)})
    assert area_mm2(field_nuclei, apart) == pytest.approx(2 * one)
    assert area_mm2(field_nuclei, side_by_side((0, 0), (40.3, 0))) == pytest.approx(one * 1.403, rel=1e-3)
    assert area_mm2(field_nuclei, side_by_side((0, 0), (40.3, 20.2))) == pytest.approx(
        2 * one - 59.7 * 59.8 / 1e6, rel=1e-3
    )
    assert area_mm2([piece(0, [], [], region=half)], side_by_side((0, 0))) == pytest.approx(one / 2)
    mixed = [piece(0, [], [], region=half), piece(1, [], [])]
    # The first counts up to 50 um, the second from 40.3 on.
    assert area_mm2(mixed, side_by_side((0, 0), (40.3, 0))) == pytest.approx(one * 1.403, rel=0.01)
    assert area_mm2(mixed, side_by_side((0, 0), (60.3, 0))) == pytest.approx(one * 1.5, rel=0.01)
    assert area_mm2([], side_by_side()) == 0


def test_merge_of_no_fields_is_empty():
    merged = merge([], side_by_side())
    assert len(merged) == 0
    assert set(merged.counts().values()) == {0}
    assert len(merge([piece(0, [], [])], side_by_side((0, 0)))) == 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 40))
def test_pair_prefers_the_nearest(seed, n, m):
    rng = np.random.default_rng(seed)
    (x, y), (u, v) = rng.uniform(0, 20, (2, n)), rng.uniform(0, 20, (2, m))
    i, j, distance = pair(x, y, u, v, 3.0)
    assert len(set(i.tolist())) == len(i) == len(set(j.tolist()))
    assert np.allclose(distance, np.hypot(x[i] - u[j], y[i] - v[j]))
    # The slow way.
    expected, far = set(), np.hypot(x[:, None] - u, y[:, None] - v)
    far[far > 3.0] = np.inf
    while far.size and np.isfinite(far.min()):
        a, b = np.unravel_index(far.argmin(), far.shape)
        expected.add((int(a), int(b)))
        far[a], far[:, b] = np.inf, np.inf
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == expected
