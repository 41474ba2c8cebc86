"""Agreement of two readers, compared with published examples."""

from __future__ import annotations

import pytest

from kinet_trt.live.session.agreement import cohen_kappa


def test_kappa_of_fleiss_cohen_and_everitts_example():
    """Table 1 (1969), 200 cases: kappa 0.429; large-sample standard error 0.054."""
    table = [[106, 10, 4], [22, 28, 10], [2, 12, 6]]
    kappa, (low, high) = cohen_kappa(table)
    assert kappa == pytest.approx(0.429, abs=5e-4)
    assert (high - low) / 2 / 1.96 == pytest.approx(0.054, abs=5e-4)


def test_kappa_of_two_classes():
    # 20 and 15 of 50 agree: observed 0.7, chance 0.5.
    assert cohen_kappa([[20, 5], [10, 15]])[0] == pytest.approx(0.4)


def test_kappa_is_none_where_undefined():
    assert cohen_kappa([[0, 0], [0, 0]]) == (None, None)
    assert cohen_kappa([[7, 0], [0, 0]]) == (None, None)
    assert cohen_kappa([[7, 0], [0, 5]]) == (1.0, (1.0, 1.0))
