"""Counting protocols on tumour nuclei whose indices are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.hot_spot import HotSpot
from kinet_trt.core.ki67 import Ki67
from kinet_trt.core.protocols import (
    BREAST,
    FIELD_NUCLEI,
    LEVELS,
    ProtocolCount,
    ProtocolField,
    TumorPoints,
    allocate_fields,
    count_breast_global,
    count_hot_spot,
)


def tumor(seed: int, *strips: tuple[float, float], spacing: float = 12.0, mpp: float = 0.5) -> TumorPoints:
    """Return nuclei in strips of a width, µm, 1.2 mm high, and a fraction of positive ones each, on a jittered grid."""
    generator = np.random.default_rng(seed)
    width = sum(width for width, _ in strips)
    x, y = (values.ravel() for values in np.meshgrid(np.arange(0, width, spacing), np.arange(0, 1_200, spacing)))
    x, y = (values + generator.uniform(-3, 3, len(values)) for values in (x, y))
    edges = np.cumsum([width for width, _ in strips])[:-1]
    chance = np.asarray([fraction for _, fraction in strips])[np.digitize(x, edges)]
    return TumorPoints(
        (x / mpp).astype(np.float32), (y / mpp).astype(np.float32), generator.random(len(x)) < chance, mpp
    )


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.4), (1, 1, 1, 1)),
        ((0.0, 0.2, 0.3, 0.5), (0, 1, 1, 2)),
        ((0.0, 0.2, 0.4, 0.4), (0, 1, 1, 1)),  # the example of IKWG's tool
        ((0.0, 0.5, 0.25, 0.25), (0, 1, 1, 1)),
        ((0.0, 0.62, 0.38, 0.0), (0, 2, 2, 0)),
        ((0.0, 0.625, 0.375, 0.0), (0, 3, 1, 0)),
        ((0.3, 0.7, 0.0, 0.0), (1, 3, 0, 0)),
        ((0.0, 0.0, 0.0, 1.0), (0, 0, 0, 4)),
    ],
)
def test_allocate_fields_follows_the_rule_of_ikwg(shares, expected):
    present = {level: share for level, share in zip(LEVELS, shares, strict=True) if share}
    wanted = {level: number for level, number in zip(LEVELS, expected, strict=True) if number}
    assert allocate_fields(present) == wanted


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4))
def test_allocate_fields_gives_each_level_a_field_and_three_or_four_in_all(parts):
    shares = {level: part / sum(parts) for level, part in zip(LEVELS, parts, strict=False)}
    wanted = allocate_fields(shares)
    assert min(wanted.values()) >= 1
    assert sum(wanted.values()) in ((3, 4) if len(parts) == 3 else (4,))
    assert max(shares, key=shares.get) == max(wanted, key=lambda level: (wanted[level], shares[level]))


@pytest.mark.parametrize(
    ("strips", "fields"),
    [
        (((600, 0.0), (600, 0.06), (600, 0.20), (600, 0.60)), (1, 1, 1, 1)),
        (((1_800, 0.06), (600, 0.60)), (0, 3, 0, 1)),
        (((1_800, 0.20),), (0, 0, 4, 0)),
    ],
)
def test_count_breast_global_of_a_tumour_in_strips_is_within_a_point_of_the_truth(strips, fields):
    # Positive nuclei are spread evenly (a lattice rule), so that every disc has nearly the fraction of its strip.
    points = tumor(3, *strips)
    edges = np.cumsum([width for width, _ in strips])[:-1]
    fraction = np.asarray([fraction for _, fraction in strips])[np.digitize(points.x * 0.5, edges)]
    column, row = np.rint(points.x * 0.5 / 12), np.rint(points.y * 0.5 / 12)
    exact = (0.7548776662 * column + 0.5698402910 * row) % 1 < fraction
    counted = count_breast_global([TumorPoints(points.x, points.y, exact, 0.5)])
    width = sum(width for width, _ in strips)
    truth = sum(width * fraction for width, fraction in strips) / width
    number = {level: n for level, n in zip(LEVELS, fields, strict=True) if n}
    assert {level: sum(f.level == level for f in counted.fields) for level in counted.shares} == number
    assert counted.needed == {}
    unweighted = sum(
        n * index for n, index in zip((n for n in fields if n), (f for _, f in strips), strict=True)
    ) / sum(fields)
    assert counted.unweighted == pytest.approx(unweighted, abs=0.01)
    assert counted.weighted == counted.index == pytest.approx(truth, abs=0.02)


def by_all_distances(points: TumorPoints, field: ProtocolField) -> int:
    distance = np.hypot(points.x - field.x, points.y - field.y)
    return int(points.positive[np.argsort(distance, kind="stable")[:FIELD_NUCLEI]].sum())


@settings(max_examples=20)
@given(seed=st.integers(0, 1_000), low=st.floats(0, 0.5), high=st.floats(0, 0.9), width=st.integers(200, 900))
def test_count_breast_global_has_fields_of_the_100_nearest_nuclei_at_their_level_that_do_not_overlap(
    seed, low, high, width
):
    groups = [tumor(seed, (300, low), (width, high)), tumor(seed + 1, (100, low), mpp=0.25)]
    counted = count_breast_global(groups)
    assert sum(counted.shares.values()) == pytest.approx(1)
    wanted = allocate_fields(counted.shares)
    found = {level: sum(field.level == level for field in counted.fields) for level in wanted}
    assert {level: found[level] + counted.needed.get(level, 0) for level in wanted} == wanted
    for field in counted.fields:
        points = groups[field.group]
        hits = by_all_distances(points, field)
        assert field.ki67 == Ki67(hits, FIELD_NUCLEI)
        assert field.level == LEVELS[sum(hits >= start for start in (2, 10, 30))]
    for a, b in ((a, b) for a in counted.fields for b in counted.fields if a is not b and a.group == b.group):
        apart = np.hypot(a.x - b.x, a.y - b.y) * groups[a.group].mpp
        assert apart > a.radius + b.radius
    indices = [field.ki67.index for field in counted.fields]
    assert counted.unweighted == pytest.approx(np.mean(indices))
    assert min(indices) - 1e-9 <= counted.weighted <= max(indices) + 1e-9


@pytest.mark.parametrize("fraction", [0.03, 0.12, 0.25, 0.5])
def test_count_breast_global_of_an_even_tumour_is_its_index(fraction):
    indices, truths = [], []
    for seed in range(3):
        points = tumor(seed, (1_500, fraction))
        indices.append(count_breast_global([points]).weighted)
        truths.append(points.positive.mean())
    assert np.abs(np.subtract(indices, truths)).max() < 0.02
    assert abs(np.mean(indices) - np.mean(truths)) < 0.01


def test_count_breast_global_ignores_a_level_in_less_than_a_twentieth_of_the_area():
    assert set(count_breast_global([tumor(1, (2_000, 0.2), (20, 1.0))]).shares) == {"medium"}


def test_count_breast_global_says_which_fields_are_needed():
    counted = count_breast_global([tumor(1, (130, 0.2))])
    assert set(counted.shares) == {"medium"}
    points = tumor(1, (130, 0.2))
    few = TumorPoints(points.x[:210], points.y[:210], points.positive[:210], points.mpp)
    counted = count_breast_global([few])
    assert 1 <= len(counted.fields) <= 2
    assert counted.index is not None
    assert "Still needed: fields of 100 tumour nuclei" in counted.sentences()[-1]
    none = count_breast_global([TumorPoints(few.x[:99], few.y[:99], few.positive[:99], 0.5)])
    assert (none.index, none.fields, none.needed) == (None, (), {"any": 4})
    assert none.sentences() == ["Breast, global: no field, because each needs 100 tumour nuclei."]
    assert count_breast_global([]) == none


def test_hot_spot_protocols_have_the_index_of_the_hot_spot():
    counted = count_hot_spot("breast-hot-spot", HotSpot(30.0, 40.0, 150.0, Ki67(100, 500)))
    assert (counted.index, counted.weighted) == (0.2, None)
    assert counted.sentences() == [
        "Breast, hot spot: 20.0% of 500 tumour nuclei.",
        "In the range of above 5% and below 30% (cut-offs of IKWG), 20% or more (cut-off in the labels of some drugs).",
    ]
    record = counted.record()
    assert (record["ki67_index"], record["unweighted"], record["shares"], record["needed"]) == (0.2, None, {}, {})
    assert record["fields"][0]["level"] == "hot spot"
    assert record["fields"][0]["radius_um"] == 150.0
    assert count_hot_spot("net", HotSpot(0, 0, 1.0, Ki67(100, 500))).sentences()[-1] == "In the G2 range."
    assert count_hot_spot("net", None).sentences() == ["No hot spot: too few tumour nuclei."]


def test_breast_ranges_have_the_cut_offs_of_ikwg():
    assert [BREAST.range_of(index) for index in (0.05, 0.0501, 0.2999, 0.30)] == [
        "5% or less",
        "above 5% and below 30%",
        "above 5% and below 30%",
        "30% or more",
    ]


def test_weighted_index_leaves_out_a_level_without_a_field():
    field = ProtocolField("low", 0.0, 0.0, 50.0, Ki67(5, 100))
    counted = ProtocolCount("breast-global", (field,), {"low": 0.5, "high": 0.5}, {"high": 2})
    assert counted.weighted == 0.05
