"""The search for the disc of n tumour nuclei with the highest index."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.core.hot_spot import find_disc, find_discs


def by_all_distances(x, y, positive, n):
    """Return the best of all discs: most positive nuclei, then the smallest radius."""
    best = None
    for a, b in zip(x, y, strict=True):
        distance = np.hypot(x - a, y - b)
        nearest = np.argsort(distance, kind="stable")[:n]
        found = (int(positive[nearest].sum()), -float(distance[nearest[-1]]))
        best = found if best is None or found > best else best
    return best


@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), total=st.integers(40, 300), clumps=st.integers(1, 6))
def test_find_disc_returns_the_best_of_all_discs(seed, n, total, clumps):
    generator = np.random.default_rng(seed)
    centres = generator.uniform(0, 5_000, (clumps, 2))
    x, y = (centres[generator.integers(0, clumps, total)] + generator.normal(0, 60, (total, 2))).T
    positive = generator.random(total) < 0.3
    spot = find_disc(x, y, positive, n, 1)
    hits, radius = by_all_distances(x, y, positive, n)
    assert spot.positive == hits
    assert spot.radius == pytest.approx(-radius, abs=1e-6)
    assert len(spot.nuclei) == len(set(spot.nuclei.tolist())) == n
    assert positive[spot.nuclei].sum() == hits
    assert spot.centre in spot.nuclei


def test_find_disc_of_too_few_nuclei_and_of_nuclei_at_one_point():
    x = np.zeros(30, np.float32)
    assert find_disc(x, x, np.ones(30, bool), 31, 1) is None
    spot = find_disc(x, x, np.ones(30, bool), 30, 7)
    assert (spot.positive, spot.radius) == (30, 0)


def test_find_disc_of_a_million_nuclei_takes_seconds_and_little_memory():
    generator = np.random.default_rng(1)
    x, y = (generator.uniform(0, 20_000, 1_000_000).astype(np.float32) for _ in range(2))
    positive = (generator.random(1_000_000) < 0.1) | (np.hypot(x - 7_000, y - 12_000) < 150)
    begun = time.process_time()
    spot = find_disc(x, y, positive, 500, 200)
    assert time.process_time() - begun < 20
    assert np.hypot(x[spot.centre] - 7_000, y[spot.centre] - 12_000) < 300
    assert spot.positive > 180  # of some 500 x 0.1 elsewhere


@given(seed=st.integers(0, 1_000), n=st.integers(2, 40), number=st.integers(1, 6))
def test_find_discs_are_each_the_best_that_overlaps_no_better_one(seed, n, number):
    generator = np.random.default_rng(seed)
    x, y = generator.uniform(0, 1_000, (2, 200))
    positive = generator.random(200) < x / 1_000
    discs = find_discs(x, y, positive, n, 1, number)
    assert [disc.rank for disc in discs] == sorted((disc.rank for disc in discs), reverse=True)
    assert discs[0].rank == find_disc(x, y, positive, n, 1).rank
    nuclei = np.concatenate([disc.nuclei for disc in discs])
    assert len(nuclei) == len({*nuclei.tolist()}) == n * len(discs)
    if len(discs) < number:  # no other disc has space
        for a, b in zip(x, y, strict=True):
            radius = np.sort(np.hypot(x - a, y - b))[n - 1]
            assert any(np.hypot(x[d.centre] - a, y[d.centre] - b) <= radius + d.radius + 1e-9 for d in discs)
