"""Percentiles and rates of the last seconds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.live.acquisition.rolling import Rolling


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_percentile_equals_numpys(values, share):
    rolling = Rolling(10)
    for value in values:
        rolling.add(value, 100.0)
    assert rolling.percentile(share, 101.0) == np.percentile(values, 100 * share, method="inverted_cdf")


def test_old_values_are_forgotten():
    rolling = Rolling(10)
    rolling.add(900, 100.0)
    rolling.add(5, 105.0)
    assert rolling.percentile(1.0, 106.0) == 900
    assert rolling.percentile(1.0, 111.0) == 5
    assert rolling.percentile(1.0, 120.0) is None
    assert rolling.rate(120.0) == 0


def test_rate_is_right_from_the_first_seconds_on():
    rolling = Rolling(2)
    for n in range(100):
        rolling.add(1, 50 + n / 8)
        if n >= 3:
            assert rolling.rate(50 + n / 8) == pytest.approx(8)


def test_size_is_limited():
    rolling = Rolling(1e9, max_values=100)
    for n in range(1_000):
        rolling.add(n, float(n))
    assert rolling.percentile(0.001, 1_000.0) == 900
