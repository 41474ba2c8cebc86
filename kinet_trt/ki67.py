"""The Ki67 index: share of positive tumour nuclei, how sure it is, and what it would take to be surer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Z = 1.959963984540054
"""97.5% quantile of the normal distribution, for a 95% interval."""
ENOUGH = 500
"""Tumour cells below which an index is called provisional (WHO: at least 500 to 2,000 cells for NET)."""
HOPELESS = 5_000
"""More cells than this are not worth counting."""


@dataclass(frozen=True)
class Bands:
    """Grade bands: names of the ranges between cut-offs.

    Attributes
    ----------
    names
        One more than there are cut-offs.
    cuts
        Ascending fractions. A value belongs to the band above a cut-off when it is at least the cut-off (or, with
        ``inclusive`` False at that cut, only when it lies above it).
    inclusive
        For each cut-off whether it belongs to the band above.
    """

    names: tuple[str, ...]
    cuts: tuple[float, ...]
    inclusive: tuple[bool, ...]

    def of(self, index: float) -> str:
        """Return the band of an unrounded index."""
        above = sum(index >= cut if own else index > cut for cut, own in zip(self.cuts, self.inclusive, strict=True))
        return self.names[above]


NET = Bands(("G1", "G2", "G3"), (0.03, 0.20), (True, False))
"""Neuroendocrine tumours: G1 below 3%, G2 3 to 20%, G3 above 20% (WHO 2019)."""


@dataclass(frozen=True)
class Ki67:
    """A Ki67 index.

    Attributes
    ----------
    positive, tumor
        Positive tumour nuclei, and all tumour nuclei; non-tumour nuclei are left out.
    """

    positive: int
    tumor: int

    def __post_init__(self) -> None:
        if not 0 <= self.positive <= self.tumor:
            raise ValueError(f"expected 0 <= positive <= tumor, found {self.positive} of {self.tumor}")

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Ki67:
        """Return the index of counts by class."""
        positive, negative = counts.get("positive", 0), counts.get("negative", 0)
        return cls(positive, positive + negative)

    @property
    def index(self) -> float | None:
        """Positive / tumor, a fraction; None without tumour nuclei."""
        return self.positive / self.tumor if self.tumor else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% Wilson score interval (Wilson 1927), fractions; None without tumour nuclei."""
        return wilson(self.positive / self.tumor, self.tumor) if self.tumor else None

    def sentences(self, bands: Bands | None = NET) -> list[str]:
        """Return what is to be said of the index: the range it lies in and how sure that is; never a diagnosis."""
        if self.index is None or self.interval is None:
            return ["No tumour nuclei were found: there is no index."]
        low, high = self.interval
        said = [
            f"Ki67 index {_percent(self.index)} ({self.positive} of {self.tumor}; "
            f"95% interval {_percent(low)} to {_percent(high)})."
        ]
        if self.tumor < ENOUGH:
            said.append(f"Fewer than {ENOUGH} tumour nuclei: provisional.")
        if bands is None:
            return said
        said.append(f"In the {bands.of(self.index)} range.")
        if bands.of(low) != bands.of(high):
            more = self.more_cells(bands)
            said.append(
                "The interval spans a cut-off: counting more will not decide."
                if more is None
                else f"The interval spans a cut-off: about {more:,} more tumour nuclei at this rate would decide."
            )
        return said

    def more_cells(self, bands: Bands = NET) -> int | None:
        """Return how many more tumour nuclei at this rate put the whole interval into one band; None: over 5,000."""
        if self.index is None:
            return None

        def decided(extra: int) -> bool:
            assert self.index is not None
            low, high = wilson(self.index, self.tumor + extra)
            return bands.of(low) == bands.of(high)

        if not decided(HOPELESS):
            return None
        low, high = -1, HOPELESS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decided(middle) else (middle, high)
        return high


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share of n, within [0, 1]."""
    centre = share + Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"
