"""Agreement of two measurements of the same cases: ICC, Bland-Altman, errors, Cohen's kappa of the grade ranges.

The functions take arrays and need only NumPy. Quantiles of F and t are computed here, because SciPy is not a dependency
of the package: bisection of the regularized incomplete beta function, which is evaluated by its continued fraction.

References
----------
- P. E. Shrout, J. L. Fleiss. Intraclass correlations: uses in assessing rater reliability. Psychological Bulletin
  86:420-428, 1979.
- K. O. McGraw, S. P. Wong. Forming inferences about some intraclass correlation coefficients. Psychological
  Methods 1:30-46, 1996; correction 1:390.
- J. M. Bland, D. G. Altman. Statistical methods for assessing agreement between two methods of clinical
  measurement. Lancet 327:307-310, 1986.
- J. M. Bland, D. G. Altman. Measuring agreement in method comparison studies. Statistical Methods in Medical
  Research 8:135-160, 1999.
- J. Cohen. Weighted kappa: nominal scale agreement with provision for scaled disagreement or partial credit.
  Psychological Bulletin 70:213-220, 1968.
- J. L. Fleiss, J. Cohen, B. S. Everitt. Large sample standard errors of kappa and weighted kappa. Psychological
  Bulletin 72:323-327, 1969.
- NIST Digital Library of Mathematical Functions, section 8.17.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinet_trt.core.ki67 import NET, Bands, Z, wilson

FEW_CASES = 10
"""Number of cases below which results carry a warning."""
MIN_ICC_CASES = 3
"""Number of cases below which there is no ICC."""

Weights = Literal["none", "linear", "quadratic"]


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95% confidence interval.

    Attributes
    ----------
    value
        The estimate.
    low, high
        Ends of the interval.
    """

    value: float
    low: float
    high: float

    def record(self) -> dict[str, Any]:
        """Return the JSON members ``value`` and ``interval``."""
        return {"value": self.value, "interval": [self.low, self.high]}


@dataclass(frozen=True)
class BlandAltman:
    """Bias and limits of agreement, in the unit of the measurements.

    Attributes
    ----------
    bias
        Mean difference, first minus second.
    sd
        Standard deviation of the differences (divisor n - 1).
    lower, upper
        Limits of agreement: bias -+ 1.96 standard deviations.
    """

    bias: Estimate
    sd: float
    lower: Estimate
    upper: Estimate


@dataclass(frozen=True)
class IndexAgreement:
    """Agreement of two measurements of the index, fractions; differences are first minus second.

    Attributes
    ----------
    cases
        Number of cases.
    icc
        ICC(2,1); None with fewer than three cases, or if the cases do not differ.
    mean_error, mean_absolute_error, rmse
        Mean, mean absolute and root mean square difference.
    bland_altman
        Bias and limits of agreement; None with one case.
    same_range
        Share of the cases in the same grade range, with its Wilson interval; None without ranges.
    ranges
        Names of the ranges.
    table
        Cases by range of the first (rows) and of the second measurement (columns).
    kappa_linear, kappa_quadratic
        Cohen's weighted kappa of the ranges; None without ranges, or if one of the measurements
        puts all cases in one range.
    """

    cases: int
    icc: Estimate | None
    mean_error: float
    mean_absolute_error: float
    rmse: float
    bland_altman: BlandAltman | None
    same_range: Estimate | None
    ranges: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    kappa_linear: Estimate | None
    kappa_quadratic: Estimate | None

    @property
    def few_cases(self) -> str:
        """Warning about the small number of cases; empty with :data:`FEW_CASES` or more."""
        if self.cases >= FEW_CASES:
            return ""
        noun = "case" if self.cases == 1 else "cases"
        missing = "" if self.cases >= MIN_ICC_CASES else f" An ICC needs at least {MIN_ICC_CASES} cases."
        return (
            f"Only {self.cases} {noun}: with fewer than {FEW_CASES}, the intervals are wide, and their assumption of "
            f"normally distributed differences cannot be checked.{missing}"
        )

    def record(self) -> dict[str, Any]:
        """Return the agreement as JSON members; fractions."""
        limits = self.bland_altman
        return {
            "cases": self.cases,
            "icc_2_1": _record(self.icc),
            "mean_error": limits.bias.record() if limits else {"value": self.mean_error, "interval": None},
            "standard_deviation": limits.sd if limits else None,
            "limits_of_agreement": {"lower": limits.lower.record(), "upper": limits.upper.record()} if limits else None,
            "rmse": self.rmse,
            "mean_absolute_error": self.mean_absolute_error,
            "same_range": _record(self.same_range),
            "kappa": {"linear": _record(self.kappa_linear), "quadratic": _record(self.kappa_quadratic)},
            "ranges": {"names": list(self.ranges), "table": [list(row) for row in self.table]},
            "few_cases": self.few_cases or None,
        }


def index_agreement(first: ArrayLike, second: ArrayLike, bands: Bands | None = NET) -> IndexAgreement:
    """Compare two measurements of the Ki67 index of the same cases.

    Parameters
    ----------
    first, second
        Indices as fractions, float64 [cases]; ``second`` is the reference where there is one.
    bands
        Grade ranges; None to omit them.

    Raises
    ------
    ValueError
        If the arrays are empty, of different length, or contain anything but fractions.
    """
    a, b = _paired(first, second, minimum=1)
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1:
        raise ValueError(
            f"expected indices as fractions from 0 to 1, found {min(a.min(), b.min())} to {max(a.max(), b.max())}"
        )
    n, difference = len(a), a - b
    names, table = bands.names if bands else (), np.zeros((0, 0), np.int64)
    same = None
    if bands:
        table = np.zeros((len(names), len(names)), np.int64)
        np.add.at(table, tuple([names.index(bands.range_of(value)) for value in values] for values in (a, b)), 1)
        share = float(np.trace(table)) / n
        same = Estimate(share, *wilson(share, n))
    return IndexAgreement(
        cases=n,
        icc=icc(np.column_stack([a, b])),
        mean_error=float(difference.mean()),
        mean_absolute_error=float(np.abs(difference).mean()),
        rmse=float(np.sqrt((difference**2).mean())),
        bland_altman=bland_altman(a, b) if n > 1 else None,
        same_range=same,
        ranges=names,
        table=tuple(tuple(int(count) for count in row) for row in table),
        kappa_linear=cohen_kappa(table, "linear") if bands else None,
        kappa_quadratic=cohen_kappa(table, "quadratic") if bands else None,
    )


def icc(ratings: ArrayLike) -> Estimate | None:
    """Return ICC(2,1): two-way random effects, absolute agreement, single measurement.

    With the mean squares of a two-way analysis of variance, MSR of the n cases, MSC of the k readings and MSE of the
    residuals, it is (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n) (Shrout and Fleiss 1979). The interval is
    that of ICC(A,1) of McGraw and Wong (1996); in its degrees of freedom, a negative ICC is replaced by 0.

    Parameters
    ----------
    ratings
        One row per case, one column per reading, [n, k].

    Returns
    -------
    Estimate or None
        None with fewer than three cases, or if every reading gives all cases the same value.

    Raises
    ------
    ValueError
        If there are fewer than two columns, or values that are not finite.
    """
    x = np.asarray(ratings, np.float64)
    if x.ndim != 2 or x.shape[1] < 2 or not np.isfinite(x).all():
        raise ValueError(f"expected finite readings [cases, 2 or more], found an array of shape {x.shape}")
    n, k = x.shape
    if n < MIN_ICC_CASES or not np.ptp(x, axis=0).any():
        return None
    if not np.ptp(x, axis=1).any():
        return Estimate(1.0, 1.0, 1.0)
    rows, columns, mean = x.mean(axis=1), x.mean(axis=0), x.mean()
    residuals = x - rows[:, None] - columns + mean
    msr = k * float(((rows - mean) ** 2).sum()) / (n - 1)
    msc = n * float(((columns - mean) ** 2).sum()) / (k - 1)
    mse = float((residuals**2).sum()) / ((n - 1) * (k - 1))
    value = (msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n)
    # Degrees of freedom by Satterthwaite: McGraw and Wong's a and b, times MSC and MSE; both scaled by n (1 - ICC).
    rho = max(0.0, value)
    a, b = k * rho * msc, (n * (1 - rho) + k * rho * (n - 1)) * mse
    df = (a + b) ** 2 / (a**2 / (k - 1) + b**2 / ((n - 1) * (k - 1)))
    rest = k * msc + (k * n - k - n) * mse
    lower, upper = f_quantile(0.975, n - 1, df), f_quantile(0.975, df, n - 1)
    return Estimate(
        value,
        n * (msr - lower * mse) / (lower * rest + n * msr),
        n * (upper * msr - mse) / (rest + n * upper * msr),
    )


def bland_altman(first: ArrayLike, second: ArrayLike) -> BlandAltman:
    """Return the bias and the limits of agreement.

    The intervals are from the t distribution with n - 1 degrees of freedom. The standard error of the bias is
    s / sqrt(n), that of a limit s sqrt(1 / n + 1.96^2 / (2 (n - 1))) (Bland and Altman 1986, 1999); the second is
    approximate, and too narrow with few cases.

    Parameters
    ----------
    first, second
        Measurements of the same cases, [n], at least two.

    Raises
    ------
    ValueError
        If the lengths differ, or values are not finite.
    """
    a, b = _paired(first, second, minimum=2)
    n = len(a)
    bias, sd = float((a - b).mean()), float((a - b).std(ddof=1))
    t = t_quantile(0.975, n - 1)

    def estimate(value: float, error: float) -> Estimate:
        return Estimate(value, value - t * error, value + t * error)

    error = sd * math.sqrt(1 / n + Z * Z / (2 * (n - 1)))
    return BlandAltman(
        estimate(bias, sd / math.sqrt(n)), sd, estimate(bias - Z * sd, error), estimate(bias + Z * sd, error)
    )


def cohen_kappa(table: ArrayLike, weights: Weights | NDArray[np.float64] = "none") -> Estimate | None:
    """Return Cohen's kappa, weighted or not, with its large-sample interval.

    Kappa is (po - pe) / (1 - pe), where po and pe are the weighted shares of agreement, observed and by chance
    (Cohen 1968). The standard error is that of Fleiss, Cohen and Everitt (1969); the interval is cut to [-1, 1].

    Parameters
    ----------
    table
        Counts by category of the first (rows) and of the second reading (columns), [k, k].
    weights
        Weights of agreement, 1 on the diagonal: ``"none"`` (0 elsewhere), ``"linear"`` (1 - |i - j| / (k - 1)),
        ``"quadratic"`` (1 - (i - j)^2 / (k - 1)^2), or an array [k, k].

    Returns
    -------
    Estimate or None
        None without counts, or if one of the readings puts all of them in one category: kappa is then 0 or undefined,
        however well they agree.

    Raises
    ------
    ValueError
        If the table is not square, contains negative counts, or the weights have another shape.
    """
    counts = np.asarray(table, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(f"expected a square table of counts, found one of shape {counts.shape}")
    agreement = _agreement_weights(weights, len(counts)) if isinstance(weights, str) else weights
    if agreement.shape != counts.shape:
        raise ValueError(f"expected weights of shape {counts.shape}, found {agreement.shape}")
    n = float(counts.sum())
    if n == 0:
        return None
    p = counts / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    if min(np.count_nonzero(rows), np.count_nonzero(columns)) < 2:
        return None
    observed, chance = float((agreement * p).sum()), float(rows @ agreement @ columns)
    kappa = (observed - chance) / (1 - chance)
    mean_weights = (agreement @ columns)[:, None] + rows @ agreement
    spread = float((p * (agreement - mean_weights * (1 - kappa)) ** 2).sum())
    variance = (spread - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    error = Z * math.sqrt(max(0.0, variance))
    return Estimate(kappa, max(-1.0, kappa - error), min(1.0, kappa + error))


def f_quantile(p: float, df1: float, df2: float) -> float:
    """Return a quantile of the F distribution; relative error below 1e-6 up to 5,000 degrees of freedom.

    Parameters
    ----------
    p
        Probability, between 0 and 1.
    df1, df2
        Degrees of freedom of the numerator and the denominator, above 0; need not be integers.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    if not (0 < p < 1 and min(df1, df2) > 0):
        raise ValueError(f"expected 0 < p < 1 and degrees of freedom above 0, found p {p}, {df1} and {df2}")
    low, high = 0.0, 1.0
    for _ in range(52):  # to the last bit of x
        middle = (low + high) / 2
        low, high = (middle, high) if _incomplete_beta(middle, df1 / 2, df2 / 2) < p else (low, middle)
    x = (low + high) / 2
    return df2 * x / (df1 * (1 - x))


def t_quantile(p: float, df: float) -> float:
    """Return a quantile of Student's t, p above 0.5: the root of the F quantile at 2p - 1 with 1 and df."""
    return math.sqrt(f_quantile(2 * p - 1, 1, df))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), 0 < x < 1, by its continued fraction 8.17.22."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges slowly there; 8.17.4
        return 1 - _incomplete_beta(1 - x, b, a)
    fraction = 1.0
    for i in range(40 + 4 * math.ceil(math.sqrt(max(a, b))), 0, -1):
        m = i // 2
        if i % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + term / fraction
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / (a * fraction)


def _agreement_weights(weights: Weights, k: int) -> NDArray[np.float64]:
    if weights == "none":
        return np.eye(k)
    distance = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / max(1, k - 1)
    return np.asarray(1 - distance ** {"linear": 1, "quadratic": 2}[weights])


def _paired(first: ArrayLike, second: ArrayLike, minimum: int) -> Sequence[NDArray[np.float64]]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < minimum or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            f"expected finite measurements of the same cases, at least {minimum}, found shapes {a.shape} and {b.shape}"
        )
    return a, b


def _record(estimate: Estimate | None) -> dict[str, Any] | None:
    return estimate.record() if estimate else None
