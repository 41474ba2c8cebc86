"""The table of the agreement of two measurements of the index, and the sentences below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kinet_trt.core.errors import printable

if TYPE_CHECKING:
    from kinet_trt.evaluation.cases import PairedCases
    from kinet_trt.evaluation.statistics import Estimate, IndexAgreement


def agreement_rows(agreement: IndexAgreement) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table; differences are percentage points."""
    limits, rows = agreement.bland_altman, []

    def row(name: str, estimate: Estimate | None, scale: float, digits: int, unit: str = "") -> None:
        if estimate is None:
            rows.append([name, "-", ""])
            return
        value, low, high = (f"{scale * v:.{digits}f}{unit}" for v in (estimate.value, estimate.low, estimate.high))
        rows.append([name, value, f"{low} to {high}"])

    row("ICC(2,1), absolute agreement", agreement.icc, 1, 3)
    if limits:
        row("mean error (bias), points", limits.bias, 100, 1)
        row("limits of agreement, lower, points", limits.lower, 100, 1)
        row("limits of agreement, upper, points", limits.upper, 100, 1)
    else:
        rows.append(["mean error (bias), points", f"{100 * agreement.mean_error:.1f}", ""])
    rows.append(["RMSE, points", f"{100 * agreement.rmse:.1f}", ""])
    rows.append(["mean absolute error, points", f"{100 * agreement.mean_absolute_error:.1f}", ""])
    if agreement.ranges:
        row("cases in the same grade range", agreement.same_range, 100, 1, "%")
        row("kappa of the ranges, linear weights", agreement.kappa_linear, 1, 3)
        row("kappa of the ranges, quadratic weights", agreement.kappa_quadratic, 1, 3)
    return [f"agreement of {_cases(agreement.cases)}", "value", "95% interval"], rows


def agreement_remarks(agreement: IndexAgreement, cases: PairedCases, first: str, second: str) -> Iterator[str]:
    """Yield sentences on the largest difference, on what limits the result, and on cases that were left out.

    Parameters
    ----------
    agreement, cases
        The agreement and its cases.
    first, second
        Names of the two measurements.
    """
    i = int(abs(cases.first - cases.second).argmax())
    yield (
        f"Largest difference: {printable(cases.names[i])}, {100 * cases.first[i]:.1f}% ({printable(first)}) and "
        f"{100 * cases.second[i]:.1f}% ({printable(second)})."
    )
    if agreement.few_cases:
        yield agreement.few_cases
    if agreement.ranges and agreement.kappa_linear is None:
        yield "There is no kappa: it needs cases in at least two ranges in both."
    for names, where in (
        (cases.without_index, "without an index, such as fields without tumour nuclei"),
        (cases.only_first, f"in {first} only"),
        (cases.only_second, f"in {second} only"),
    ):
        if names:
            every = f"{', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"
            yield f"Left out: {_cases(len(names))} {where} ({every})."


def _cases(number: int) -> str:
    return f"{number:,} case{'' if number == 1 else 's'}"
