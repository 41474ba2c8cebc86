"""Plot the agreement of two measurements of the index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinet_trt.core.notice import NOTICE
from kinet_trt.evaluation.cases import PairedCases
from kinet_trt.evaluation.figures import encode
from kinet_trt.evaluation.statistics import Estimate, IndexAgreement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR = "#1f4e9c"


def agreement_plot(
    cases: PairedCases, agreement: IndexAgreement, first: str, second: str, target: str = ".png"
) -> bytes:
    """Draw a scatter plot with the line of identity, and a Bland-Altman plot with its intervals.

    Needs matplotlib (extra ``eval``).

    Parameters
    ----------
    cases
        The pairs.
    agreement
        Their agreement.
    first, second
        Names of the two measurements.
    target
        Name of the file, .png or .svg.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    scatter, difference = figure.subplots(1, 2)
    _draw_scatter(scatter, cases, agreement, first, second)
    _draw_differences(difference, cases, agreement, f"{_short(first, 24)} - {_short(second, 24)}")
    figure.supxlabel(NOTICE, fontsize=7, color="0.4")
    return encode(figure, target)


def _draw_scatter(axes: Axes, cases: PairedCases, agreement: IndexAgreement, first: str, second: str) -> None:
    x, y = 100 * cases.second, 100 * cases.first
    limit = 1.05 * max(1.0, float(x.max()), float(y.max()))
    axes.plot([0, limit], [0, limit], "-", color="0.5", lw=1, label="identity")
    axes.plot(x, y, "o", color=_COLOUR, alpha=0.6, ms=5)
    axes.set(xlim=(-0.02 * limit, limit), ylim=(-0.02 * limit, limit), aspect="equal")
    axes.set(xlabel=f"{_short(second)}, Ki67 index, %", ylabel=f"{_short(first)}, Ki67 index, %")
    value = agreement.icc
    axes.set_title(
        f"{agreement.cases} cases" + (f", ICC(2,1) {value.value:.3f} ({_interval(value, 1, 3)})" if value else ""),
        fontsize=10,
    )
    axes.legend(loc="upper left", fontsize=8)
    axes.grid(alpha=0.3)


def _draw_differences(axes: Axes, cases: PairedCases, agreement: IndexAgreement, difference: str) -> None:
    axes.plot(
        50 * (cases.first + cases.second), 100 * (cases.first - cases.second), "o", color=_COLOUR, alpha=0.6, ms=5
    )
    axes.axhline(0, color="0.5", lw=1)
    if result := agreement.bland_altman:
        for estimate, style, name in (
            (result.upper, "--", "upper limit"),
            (result.bias, "-", "bias"),
            (result.lower, "--", "lower limit"),
        ):
            label = f"{name} {100 * estimate.value:+.1f} ({_interval(estimate, 100, 1)})"
            (line,) = axes.plot(
                [0, 1], [100 * estimate.value] * 2, style, transform=axes.get_yaxis_transform(), label=label
            )
            axes.axhspan(100 * estimate.low, 100 * estimate.high, color=line.get_color(), alpha=0.12, lw=0)
        axes.legend(fontsize=8)
    axes.set(xlabel="mean of both, %", ylabel=f"{difference}, percentage points")
    axes.set_title("Bland-Altman, 95% limits of agreement", fontsize=10)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)


def _interval(estimate: Estimate, scale: float, digits: int) -> str:
    return f"{scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f}"


def _short(name: str, length: int = 40) -> str:
    """Return a name for an axis; matplotlib reads $ as mathematics."""
    return (name if len(name) <= length else f"{name[: length - 3]}...").replace("$", r"\$")
