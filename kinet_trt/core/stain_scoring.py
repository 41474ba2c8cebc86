"""Classes and H-score of tumour nuclei by the optical density of DAB (`kinet_trt.quality.dab`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.hot_spot import tumor_nuclei

MAX_DENSITY = 3.0
"""Largest cut-off; 8-bit pixels have optical densities up to 2.4."""
H_CUTS = (0.2, 0.4, 0.6)
"""Default cut-offs of 1+, 2+ and 3+: those of QuPath for the mean of DAB in a nucleus (Bankhead et al. 2017)."""
INTENSITIES = ("0", "1+", "2+", "3+")


@dataclass(frozen=True)
class HScore:
    """H-score: 1 x % of 1+ nuclei + 2 x % of 2+ + 3 x % of 3+, from 0 to 300 (McCarty et al. 1985).

    Attributes
    ----------
    cuts
        Lowest optical densities of 1+, 2+ and 3+, ascending.
    counts
        Tumour nuclei of 0, 1+, 2+ and 3+.
    """

    cuts: tuple[float, float, float]
    counts: tuple[int, int, int, int]

    @classmethod
    def of(cls, nuclei: Detections, cuts: tuple[float, float, float] = H_CUTS) -> HScore:
        """Return the score of the tumour nuclei; their ``dab`` must be measured."""
        tumor, _ = tumor_nuclei(nuclei)
        # In float64, because the cut-offs are decimal and float32 values of the same decimals may lie below them.
        intensity = np.digitize(_rounded(tumor), cuts)
        zero, weak, moderate, strong = (int(n) for n in np.bincount(intensity, minlength=4))
        return cls(cuts, (zero, weak, moderate, strong))

    @classmethod
    def total(cls, scores: Sequence[HScore]) -> HScore | None:
        """Return the score of the nuclei of several scores with the same cut-offs; None if there are none."""
        if not scores:
            return None
        zero, weak, moderate, strong = (sum(counts) for counts in zip(*(s.counts for s in scores), strict=True))
        return cls(scores[0].cuts, (zero, weak, moderate, strong))

    @property
    def percentages(self) -> tuple[float, ...] | None:
        """Per cent of the tumour nuclei of 0, 1+, 2+ and 3+; None without any."""
        total = sum(self.counts)
        return tuple(100 * n / total for n in self.counts) if total else None

    @property
    def score(self) -> float | None:
        """The score, 0 to 300; None without tumour nuclei."""
        shares = self.percentages
        return None if shares is None else sum(k * share for k, share in enumerate(shares))

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON: score, cut-offs, nuclei by intensity."""
        return {
            "score": self.score,
            "cuts": list(self.cuts),
            "counts": dict(zip(INTENSITIES, self.counts, strict=True)),
        }

    def sentence(self) -> str:
        """Return the score, the share of each intensity and the cut-offs."""
        if self.score is None or self.percentages is None:
            return "No tumour nuclei were found: there is no H-score."
        shares = ", ".join(f"{name}: {share:.1f}%" for name, share in zip(INTENSITIES, self.percentages, strict=True))
        cuts = f"lowest DAB optical density of 1+, 2+ and 3+: {self.cut_text}"
        return f"H-score {self.score:.1f} ({shares}; {cuts})."

    @property
    def cut_text(self) -> str:
        """Cut-offs for a message."""
        weak, moderate, strong = (f"{cut:g}" for cut in self.cuts)
        return f"{weak}, {moderate} and {strong}"


@dataclass(frozen=True)
class StainRules:
    """What is decided by the optical density of DAB; by default nothing.

    Attributes
    ----------
    positive_above
        A tumour nucleus of this density or more is positive, any other tumour nucleus is negative. None if the classes
        are the network's.
    h_cuts
        Cut-offs of the H-score; None if it is not computed.

    Raises
    ------
    KinetError
        If a cut-off is not between 0 and 3, or those of the H-score do not ascend.
    """

    positive_above: float | None = None
    h_cuts: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        cuts = self.h_cuts or ()
        for cut in (*([] if self.positive_above is None else [self.positive_above]), *cuts):
            if not (math.isfinite(cut) and 0 <= cut <= MAX_DENSITY):
                raise KinetError(f"DAB optical density: expected a number from 0 to {MAX_DENSITY:g}, found {cut:g}")
        if any(low >= high for low, high in pairwise(cuts)):
            raise KinetError(f"H-score: expected ascending cut-offs, found {', '.join(f'{cut:g}' for cut in cuts)}")

    def classify(self, nuclei: Detections) -> Detections:
        """Return the nuclei with classes by :attr:`positive_above`; other classes than tumour stay.

        Raises a KinetError if the model has not both classes of tumour nuclei, a ValueError if ``dab`` was not
        measured.
        """
        if self.positive_above is None:
            return nuclei
        if missing := {"positive", "negative"} - {*nuclei.classes}:
            raise KinetError(
                f"positive by density: expected a model with the classes positive and negative, found one without "
                f"{' and '.join(sorted(missing))}. Count without a cut-off"
            )
        positive, negative = nuclei.classes.index("positive"), nuclei.classes.index("negative")
        above = np.where(_rounded(nuclei) >= self.positive_above, positive, negative)
        is_tumor = np.isin(nuclei.cls, (positive, negative))
        return replace(nuclei, cls=np.where(is_tumor, above, nuclei.cls).astype(np.uint8))

    def h_score(self, nuclei: Detections) -> HScore | None:
        """Return the H-score if it is computed."""
        return None if self.h_cuts is None else HScore.of(nuclei, self.h_cuts)


def positive_sentence(positive_above: float) -> str:
    """Return the sentence that states how positive nuclei were decided."""
    return (
        f"Positive and negative tumour nuclei are decided by the DAB optical density, positive from {positive_above:g} "
        "on, and not by the network."
    )


def _rounded(nuclei: Detections) -> NDArray[np.float64]:
    """Return the densities as the decimal numbers that files contain, float64 [n]."""
    if nuclei.dab is None:
        raise ValueError("expected nuclei with dab, found none: measure it with kinet_trt.measure_dab")
    density: NDArray[np.float64] = nuclei.dab.astype(np.float64).round(4)
    return density
