"""Statistics of agreement, compared with published worked examples.

- Shrout & Fleiss (1979), Psychological Bulletin 86:420, table 2: six targets, four judges.
- McGraw & Wong (1996), Psychological Methods 1:30: the interval of ICC(A,1); on the same data R's psych prints
  0.019 to 0.76.
- Bland & Altman (1986), Lancet 327:307: peak flow of 17 subjects by two meters. Bland & Altman (1999), Statistical
  Methods in Medical Research 8:135: blood pressure of 85 subjects.
- Cohen (1968), Psychological Bulletin 70:213, table 1: 200 diagnoses. Fleiss, Cohen & Everitt (1969), Psychological
  Bulletin 72:323, table 1. Kundel & Polansky (2003), Radiology 228:303, table A1: 110 mammograms; R's vcd prints the
  standard errors. Boyd et al. (1982) in Altman (1991), Practical Statistics for Medical Research, p. 403: 85
  xeromammograms; Stata's manual of kap prints the weighted kappas.
- NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7: critical values of t and F.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kinet_trt.core.ki67 import NET
from kinet_trt.evaluation.statistics import (
    FEW_CASES,
    Estimate,
    bland_altman,
    cohen_kappa,
    f_quantile,
    icc,
    index_agreement,
    t_quantile,
)

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI_WRIGHT = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
COHEN = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
FLEISS_COHEN_EVERITT = [[106, 10, 4], [22, 28, 10], [2, 12, 6]]
MAMMOGRAMS = [[34, 10, 2, 0], [6, 8, 8, 2], [2, 5, 4, 12], [0, 1, 2, 14]]
XEROMAMMOGRAMS = [[21, 12, 0, 0], [4, 17, 1, 0], [3, 9, 15, 2], [0, 0, 0, 1]]

indices = arrays(np.float64, st.integers(3, 12), elements=st.integers(0, 200).map(lambda n: n / 200))


# --- quantiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "df1", "df2", "value"),
    [(0.95, 1, 1, 161.448), (0.95, 5, 15, 2.901), (0.95, 10, 20, 2.348), (0.99, 2, 10, 7.559), (0.90, 7, 3, 5.266)],
)
def test_f_quantiles_are_those_of_the_nist_tables(p, df1, df2, value):
    assert f_quantile(p, df1, df2) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(("p", "df", "value"), [(0.975, 1, 12.706), (0.975, 16, 2.120), (0.99, 10, 2.764)])
def test_t_quantiles_are_those_of_the_nist_tables(p, df, value):
    assert t_quantile(p, df) == pytest.approx(value, abs=6e-4)


def test_quantiles_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    degrees = [0.7, 1, 4.785, 16, 5000]
    for p in (0.5, 0.95, 0.975):
        for df1 in degrees:
            for df2 in degrees:
                assert f_quantile(p, df1, df2) == pytest.approx(stats.f.ppf(p, df1, df2), rel=1e-7), (p, df1, df2)


def test_quantiles_refuse_what_has_none():
    for p, df1, df2 in ((0, 1, 1), (1, 1, 1), (0.5, 0, 1), (0.5, 1, -1)):
        with pytest.raises(ValueError, match="expected"):
            f_quantile(p, df1, df2)


# --- ICC --------------------------------------------------------------------------------------------------------------


def test_icc_of_shrout_and_fleiss_is_029_with_the_interval_of_mcgraw_and_wong():
    estimate = icc(SHROUT_FLEISS)
    assert estimate.value == pytest.approx(0.29, abs=5e-3)
    assert estimate.low == pytest.approx(0.019, abs=5e-4)
    assert estimate.high == pytest.approx(0.76, abs=5e-3)


def test_icc_of_equal_readings_is_one():
    assert icc([[0.1, 0.1], [0.2, 0.2], [0.7, 0.7]]) == Estimate(1.0, 1.0, 1.0)


def test_icc_falls_with_a_constant_offset():
    # BMS 0.02, JMS 0.375, EMS 0 by hand: 0.02 / (0.02 + 2 (0.375 - 0) / 3).
    first = np.array([0.0, 0.1, 0.2])
    estimate = icc(np.column_stack([first, first + 0.5]))
    assert estimate.value == pytest.approx(0.02 / 0.27)
    assert 0 <= estimate.low < estimate.value < estimate.high < 1


@pytest.mark.parametrize("ratings", [[[0.1, 0.2], [0.3, 0.3]], [[0.1, 0.3]] * 5, [[0.2, 0.2]] * 5])
def test_icc_is_none_with_too_few_or_equal_cases(ratings):
    assert icc(ratings) is None


@pytest.mark.parametrize("ratings", [[0.1, 0.2], [[0.1], [0.2], [0.3]], [[0.1, np.nan], [0.2, 0.3], [0.4, 0.4]]])
def test_icc_refuses_what_is_not_a_table_of_readings(ratings):
    with pytest.raises(ValueError, match="expected"):
        icc(ratings)


@settings(max_examples=40)
@given(indices.flatmap(lambda a: st.tuples(st.just(a), arrays(np.float64, len(a), elements=st.floats(0, 1)))))
def test_icc_lies_in_its_interval_and_does_not_depend_on_the_order_of_readers(pair):
    first, second = pair
    estimate, swapped = icc(np.column_stack([first, second])), icc(np.column_stack([second, first]))
    assert (estimate is None) == (swapped is None)
    if estimate:
        assert estimate.low <= estimate.value <= estimate.high <= 1
        assert swapped.value == pytest.approx(estimate.value)


@settings(max_examples=40)
@given(indices)
def test_icc_does_not_depend_on_the_unit(first):
    second = np.roll(first, 1)
    fractions, points = icc(np.column_stack([first, second])), icc(100 * np.column_stack([first, second]) + 3)
    if fractions:
        assert points.value == pytest.approx(fractions.value)
        assert (points.low, points.high) == pytest.approx((fractions.low, fractions.high))


# --- Bland-Altman -----------------------------------------------------------------------------------------------------


def test_bland_altman_gives_the_figures_of_1986():
    result = bland_altman(WRIGHT, MINI_WRIGHT)
    assert result.bias.value == pytest.approx(-2.1, abs=0.05)
    assert result.sd == pytest.approx(38.8, abs=0.05)
    assert (result.bias.low, result.bias.high) == pytest.approx((-22.0, 17.8), abs=0.1)
    # The paper takes 2 SD where later ones take 1.96: -79.7 and 75.5.
    two_sd = 2 * 38.8
    assert (-2.1 - two_sd, -2.1 + two_sd) == pytest.approx((-79.7, 75.5))
    assert result.lower.value == pytest.approx(-2.1 - 1.96 * 38.8, abs=0.1)
    assert result.upper.value == pytest.approx(-2.1 + 1.96 * 38.8, abs=0.1)
    # Its intervals, -114.3 to -45.1 and 40.9 to 110.1, are 34.6 to both sides, with a standard error of sqrt(3 s^2/n).
    assert (result.lower.high - result.lower.low) / 2 == pytest.approx(34.6, abs=0.3)
    assert (result.upper.high - result.upper.low) / 2 == pytest.approx(34.6, abs=0.3)


def test_bland_altman_gives_the_figures_of_1999():
    """85 subjects; mean difference -16.29 mmHg, SD 19.61."""
    z = np.sin(np.arange(85.0))
    z = (z - z.mean()) / z.std(ddof=1)
    result = bland_altman(120 + 19.61 * z - 16.29, np.full(85, 120.0))
    assert (result.lower.value, result.upper.value) == pytest.approx((-54.7, 22.1), abs=0.06)
    assert (result.lower.low, result.lower.high) == pytest.approx((-61.9, -47.5), abs=0.1)
    assert (result.upper.low, result.upper.high) == pytest.approx((14.9, 29.3), abs=0.15)


def test_bland_altman_of_equal_readings_has_no_width():
    result = bland_altman([0.1, 0.5], [0.1, 0.5])
    assert (result.bias, result.lower, result.upper) == (Estimate(0.0, 0.0, 0.0),) * 3


@pytest.mark.parametrize(("first", "second"), [([0.1], [0.2]), ([0.1, 0.2], [0.1]), ([0.1, np.inf], [0.1, 0.2])])
def test_bland_altman_refuses_what_cannot_be_paired(first, second):
    with pytest.raises(ValueError, match="expected"):
        bland_altman(first, second)


@settings(max_examples=40)
@given(indices)
def test_bland_altman_changes_sign_when_the_readers_are_swapped(first):
    second = np.roll(first, 1) / 2
    there, back = bland_altman(first, second), bland_altman(second, first)
    assert there.lower.value <= there.bias.value <= there.upper.value
    assert there.bias.value == pytest.approx(-back.bias.value)
    assert there.lower.value == pytest.approx(-back.upper.value)
    assert (there.lower.low, there.lower.high) == pytest.approx((-back.upper.high, -back.upper.low))


# --- kappa ------------------------------------------------------------------------------------------------------------


def test_kappa_of_cohen_1968():
    """Kappa 0.492; 0.348 with disagreements that weigh 1, 3 and 6; 0.574 with 6 and 1 exchanged."""
    assert cohen_kappa(COHEN).value == pytest.approx(0.492, abs=5e-4)
    for (a, b, c), value in (((1, 3, 6), 0.348), ((6, 3, 1), 0.574)):
        weights = 1 - np.array([[0, a, b], [a, 0, c], [b, c, 0]]) / 6
        assert cohen_kappa(COHEN, weights).value == pytest.approx(value, abs=5e-4)


def test_kappa_of_fleiss_cohen_and_everitt():
    """Kappa 0.429, large-sample standard error 0.054."""
    kappa = cohen_kappa(FLEISS_COHEN_EVERITT)
    assert kappa.value == pytest.approx(0.429, abs=5e-4)
    assert (kappa.high - kappa.low) / 2 / 1.96 == pytest.approx(0.054, abs=5e-4)


@pytest.mark.parametrize(("weights", "value", "error"), [("none", 0.3713, 0.06033), ("linear", 0.5964, 0.04923)])
def test_kappa_of_kundel_and_polansky_with_its_standard_error(weights, value, error):
    kappa = cohen_kappa(MAMMOGRAMS, weights)
    assert kappa.value == pytest.approx(value, abs=5e-5)
    assert (kappa.high - kappa.low) / 2 / 1.959964 == pytest.approx(error, abs=5e-6)


@pytest.mark.parametrize(("weights", "value"), [("none", 0.4728), ("linear", 0.5684), ("quadratic", 0.6714)])
def test_kappa_of_boyd_and_altman(weights, value):
    assert cohen_kappa(XEROMAMMOGRAMS, weights).value == pytest.approx(value, abs=5e-5)


def test_kappa_of_two_classes_by_hand():
    # 35 of 50 agree: observed 0.7, chance 0.5.
    assert cohen_kappa([[20, 5], [10, 15]]).value == pytest.approx(0.4)


def test_kappa_is_none_where_undefined():
    for weights in ("none", "linear", "quadratic"):
        assert cohen_kappa([[0, 0], [0, 0]], weights) is None
        assert cohen_kappa([[7, 0], [0, 0]], weights) is None
        assert cohen_kappa([[7, 2], [0, 0]], weights) is None
        assert cohen_kappa([[7, 0], [0, 5]], weights) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("table", "weights"), [([[1, 2]], "none"), ([[1, -1], [0, 1]], "none"), ([[1, 0], [0, 1]], np.eye(3))]
)
def test_kappa_refuses_what_is_not_a_square_table_of_counts(table, weights):
    with pytest.raises(ValueError, match="expected"):
        cohen_kappa(table, weights)


@given(arrays(np.int64, (3, 3), elements=st.integers(0, 9)))
def test_quadratic_kappa_is_lins_concordance_of_the_numbers_of_the_ranges(table):
    """Fleiss & Cohen (1973): quadratic weights make kappa an intraclass correlation."""
    kappa = cohen_kappa(table, "quadratic")
    first, second = (np.repeat(axis.ravel(), table.ravel()) for axis in np.indices(table.shape))
    if kappa is None:
        assert len(first) == 0 or min(np.ptp(first), np.ptp(second)) == 0
        return
    covariance = ((first - first.mean()) * (second - second.mean())).mean()
    spread = first.var() + second.var() + (first.mean() - second.mean()) ** 2
    assert kappa.value == pytest.approx(2 * covariance / spread)
    assert cohen_kappa(table.T, "quadratic").value == pytest.approx(kappa.value)


# --- all together -----------------------------------------------------------------------------------------------------


def test_index_agreement_of_four_cases_by_hand():
    first, second = np.array([0.02, 0.10, 0.25, 0.30]), np.array([0.04, 0.10, 0.15, 0.40])
    result = index_agreement(first, second)
    assert result.cases == 4
    assert result.mean_error == pytest.approx(-0.005)
    assert result.mean_absolute_error == pytest.approx(0.055)
    assert result.rmse == pytest.approx(np.sqrt((0.02**2 + 0.1**2 + 0.1**2) / 4))
    # Ranges G1 G2 G3 G3 and G2 G2 G2 G3.
    assert result.same_range.value == 0.5
    assert result.table == ((0, 1, 0), (0, 1, 0), (0, 1, 1))
    assert result.kappa_linear == cohen_kappa(result.table, "linear")
    assert result.kappa_quadratic == cohen_kappa(result.table, "quadratic")
    assert result.icc == icc(np.column_stack([first, second]))
    assert result.bland_altman == bland_altman(first, second)


def test_index_agreement_without_ranges_has_no_kappa():
    result = index_agreement([0.1, 0.2, 0.3], [0.1, 0.2, 0.4], None)
    assert (result.same_range, result.table, result.kappa_linear, result.kappa_quadratic) == (None, (), None, None)


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10])
def test_index_agreement_says_how_few_cases_limit_it(n):
    first = np.linspace(0.1, 0.5, n)
    result = index_agreement(first, first[::-1])
    assert (result.icc is None) == (n < 3)
    assert (result.bland_altman is None) == (n < 2)
    assert bool(result.few_cases) == (n < FEW_CASES)
    if n < FEW_CASES:
        assert result.few_cases.startswith(f"Only {n} case")


def test_index_agreement_refuses_what_is_not_a_fraction():
    for first, second in (([], []), ([0.1, 0.2], [0.1]), ([0.1, 20], [0.1, 0.2]), ([np.nan], [0.1])):
        with pytest.raises(ValueError, match="expected"):
            index_agreement(first, second)


@settings(max_examples=40)
@given(indices.flatmap(lambda a: st.tuples(st.just(a), arrays(np.float64, len(a), elements=st.floats(0, 1)))))
def test_index_agreement_is_json_and_its_errors_fit_together(pair):
    result = index_agreement(*pair, NET)
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    assert set(record) == {
        "cases", "icc_2_1", "mean_error", "standard_deviation", "limits_of_agreement", "rmse", "mean_absolute_error",
        "same_range", "kappa", "ranges", "few_cases",
    }  # fmt: skip
    assert abs(result.mean_error) <= result.mean_absolute_error + 1e-12
    assert result.mean_absolute_error <= result.rmse + 1e-12
    assert sum(map(sum, result.table)) == result.cases
    assert record["ranges"]["names"] == list(NET.names)
    # RMSE^2 = bias^2 + the variance about it.
    sd = result.bland_altman.sd
    assert result.rmse**2 == pytest.approx(result.mean_error**2 + sd**2 * (result.cases - 1) / result.cases)
