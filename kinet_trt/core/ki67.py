"""The Ki67 index: the share of positive tumour nuclei, its uncertainty, and the sentences that describe it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Z = 1.959963984540054
"""97.5% quantile of the normal distribution, for a 95% interval."""
MIN_TUMOR_NUCLEI = 500
"""Tumour nuclei below which an index is called provisional (WHO: at least 500 to 2,000 cells for NET)."""
MAX_MORE_NUCLEI = 5_000
"""Counting more additional nuclei than this is not worthwhile."""
NO_RANGE = "No grade range is given, because the field looks unlike the model's training data."
"""Said instead of a range where a field is unlike the training data (`kinet_trt.quality.domain_check`)."""


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

    def range_of(self, index: float) -> str:
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
    def from_counts(cls, counts: Mapping[str, int]) -> Ki67:
        """Return the index of nuclei by class."""
        positive, negative = counts.get("positive", 0), counts.get("negative", 0)
        return cls(positive, positive + negative)

    of = from_counts  # its name in 0.1

    @property
    def index(self) -> float | None:
        """Positive / tumor, a fraction; None without tumour nuclei."""
        return self.positive / self.tumor if self.tumor else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% Wilson score interval (Wilson 1927), fractions; None without tumour nuclei."""
        return wilson(self.positive / self.tumor, self.tumor) if self.tumor else None

    @property
    def provisional(self) -> bool:
        """Whether there are fewer than :data:`MIN_TUMOR_NUCLEI` tumour nuclei."""
        return self.tumor < MIN_TUMOR_NUCLEI

    def sentences(self, bands: Bands | None = NET) -> list[str]:
        """Return sentences on the index, its range and its uncertainty; see :class:`Statement`."""
        return Statement(self, bands=bands).sentences()

    def more_nuclei(self, bands: Bands = NET) -> int | None:
        """Return how many more tumour nuclei, at this rate, bring the whole interval into one range.

        None where that takes more than :data:`MAX_MORE_NUCLEI`, and without tumour nuclei.
        """
        if self.index is None:
            return None

        def within_one(extra: int) -> bool:
            assert self.index is not None
            low, high = wilson(self.index, self.tumor + extra)
            return bands.range_of(low) == bands.range_of(high)

        if not within_one(MAX_MORE_NUCLEI):
            return None
        low, high = -1, MAX_MORE_NUCLEI
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if within_one(middle) else (middle, high)
        return high


@dataclass(frozen=True)
class Statement:
    """What a result says about the grade: ranges of the average and of the hot spot, never a diagnosis.

    WHO grades by the hot spot, so where there is one, its range is stated beside that of the average.

    Attributes
    ----------
    average
        Index of everything that was counted.
    hot_spot
        Index of the hot spot; None where there is none.
    bands
        Grade ranges; None: ranges are not mentioned.
    no_range
        Why no range is given, a sentence; empty where one is.
    """

    average: Ki67
    hot_spot: Ki67 | None = None
    bands: Bands | None = NET
    no_range: str = ""

    def range_of(self, ki67: Ki67 | None) -> str:
        """Return the range of one of the two indices; empty where none is given."""
        if ki67 is None or ki67.index is None or self.bands is None or self.no_range:
            return ""
        return self.bands.range_of(ki67.index)

    @property
    def warning(self) -> str:
        """What to read first: that no range is given, or that hot spot and average differ in it; else empty."""
        if self.no_range and self.bands and self.average.tumor:
            return self.no_range
        hot, average = self.range_of(self.hot_spot), self.range_of(self.average)
        if not hot or hot == average:
            return ""
        return f"The hot spot lies in the {hot} range, the average in the {average} range: WHO grades by the hot spot."

    @property
    def settled(self) -> bool:
        """Whether there are enough nuclei, and both intervals lie within one and the same range."""
        if not self.range_of(self.average):
            return False
        both = [self.average, *([self.hot_spot] if self.hot_spot else [])]
        return len(set().union(*map(self._reaches, both))) == 1 and not any(one.provisional for one in both)

    @property
    def notes(self) -> list[str]:
        """What there is to say beside the indices, their intervals and :attr:`warning`."""
        if self.average.index is None:
            return []
        said = []
        if self.average.provisional:
            said.append(f"Fewer than {MIN_TUMOR_NUCLEI} tumour nuclei: provisional.")
        elif self.hot_spot and self.hot_spot.provisional:
            said.append(f"The hot spot has fewer than {MIN_TUMOR_NUCLEI} tumour nuclei: provisional.")
        if self.bands is None or self.no_range:
            return said
        hot, average = self.range_of(self.hot_spot), self.range_of(self.average)
        if not hot:
            said.append(f"In the {average} range.")
        elif hot == average:
            said.append(f"The hot spot and the average both lie in the {average} range.")
        if self.settled:
            both = "Both intervals lie" if self.hot_spot else "The interval lies"
            return [*said, f"{both} within one grade range."]
        if len(self._reaches(self.average)) > 1:
            said.append(self._crossing())
        if self.hot_spot and len(self._reaches(self.hot_spot)) > 1:
            said.append("The interval of the hot spot crosses a grade boundary.")
        return said

    def sentences(self) -> list[str]:
        """Return everything there is to say, the indices first, then :attr:`warning`."""
        if self.average.index is None:
            return ["No tumour nuclei were found: there is no index."]
        indices = [f"Ki67 index {_figures(self.average)}."]
        if self.hot_spot:
            indices.append(f"Hot spot {_figures(self.hot_spot)}.")
        return [*indices, *filter(None, [self.warning]), *self.notes]

    def _reaches(self, ki67: Ki67) -> set[str]:
        """Return the ranges that the ends of an interval lie in."""
        assert self.bands is not None
        assert ki67.interval is not None
        return {self.bands.range_of(end) for end in ki67.interval}

    def _crossing(self) -> str:
        assert self.bands is not None
        more = self.average.more_nuclei(self.bands)
        what = "The interval of the average" if self.hot_spot else "The interval"
        if more is None:
            return f"{what} crosses a grade boundary; counting more nuclei is unlikely to settle it."
        # While the index is provisional, fewer than these would leave it so.
        more = max(more, MIN_TUMOR_NUCLEI - self.average.tumor)
        return f"{what} crosses a grade boundary; at this rate, about {more:,} more tumour nuclei would settle it."


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share of n, within [0, 1]."""
    centre = share + Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _figures(ki67: Ki67) -> str:
    assert ki67.index is not None
    assert ki67.interval is not None
    low, high = ki67.interval
    return (
        f"{_percent(ki67.index)} ({ki67.positive:,} of {ki67.tumor:,} tumour nuclei; "
        f"95% interval {_percent(low)} to {_percent(high)})"
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"
