"""The Ki67 index, its confidence interval, and sentences about its grade range."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

Z = 1.959963984540054
"""97.5% quantile of the normal distribution, for a 95% interval."""
MIN_TUMOR_NUCLEI = 500
"""Number of tumour nuclei below which an index is provisional (WHO: 500 to 2,000 cells for NET)."""
MAX_MORE_NUCLEI = 5_000
"""Number of additional nuclei above which further counting is not recommended."""
NO_RANGE = "No grade range is given, because the field looks unlike the model's training data."
"""Sentence in place of the range of an out-of-distribution field (`kinet_trt.quality.domain_check`)."""


@dataclass(frozen=True)
class Bands:
    """Grade ranges and the cut-offs between them.

    Attributes
    ----------
    names
        Names of the ranges, one more than cut-offs.
    cuts
        Cut-offs, ascending fractions.
    inclusive
        True for each cut-off that belongs to the range above it.
    """

    names: tuple[str, ...]
    cuts: tuple[float, ...]
    inclusive: tuple[bool, ...]

    def range_of(self, index: float) -> str:
        """Return the range of an unrounded index."""
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
        Number of positive tumour nuclei, and of all tumour nuclei.
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
        """True with fewer than :data:`MIN_TUMOR_NUCLEI` tumour nuclei."""
        return self.tumor < MIN_TUMOR_NUCLEI

    def sentences(self, bands: Bands | None = NET) -> list[str]:
        """Return sentences about the index, its range and its confidence interval; see :class:`Statement`."""
        return Statement(self, bands=bands).sentences()

    def more_nuclei(self, bands: Bands = NET) -> int | None:
        """Return the number of additional tumour nuclei, at this rate, that bring the interval into one range.

        None if it exceeds :data:`MAX_MORE_NUCLEI`, or without tumour nuclei.
        """
        if self.index is None:
            return None

        def within_one(extra: int) -> bool:
            assert self.index is not None
            low, high = wilson(self.index, self.tumor + extra)
            return bands.range_of(low) == bands.range_of(high)

        more = bisect_left(range(MAX_MORE_NUCLEI + 1), True, key=within_one)
        return more if more <= MAX_MORE_NUCLEI else None


@dataclass(frozen=True)
class Statement:
    """Sentences about the grade ranges of the average and the hot spot. WHO grades by the hot spot."""

    average: Ki67  # of all counted nuclei
    hot_spot: Ki67 | None = None
    bands: Bands | None = NET  # None to omit the ranges
    no_range: str = ""  # sentence that replaces the range; empty if a range is given

    def range_of(self, ki67: Ki67 | None) -> str:
        """Return the range of an index; empty if none is given."""
        if ki67 is None or ki67.index is None or self.bands is None or self.no_range:
            return ""
        return self.bands.range_of(ki67.index)

    @property
    def warning(self) -> str:
        """Sentence to show first: no range is given, or the ranges of hot spot and average differ; else empty."""
        if self.no_range and self.bands and self.average.tumor:
            return self.no_range
        hot, average = self.range_of(self.hot_spot), self.range_of(self.average)
        if not hot or hot == average:
            return ""
        return f"The hot spot lies in the {hot} range, the average in the {average} range: WHO grades by the hot spot."

    @property
    def settled(self) -> bool:
        """True with enough nuclei, and both intervals within the same range."""
        if not self.range_of(self.average):
            return False
        both = [self.average, *([self.hot_spot] if self.hot_spot else [])]
        return len(set().union(*map(self._ranges_of_interval, both))) == 1 and not any(one.provisional for one in both)

    @property
    def notes(self) -> list[str]:
        """Further sentences, to be shown next to the indices, their intervals and :attr:`warning`."""
        if self.average.index is None:
            return []
        notes = []
        if self.average.provisional:
            notes.append(f"Fewer than {MIN_TUMOR_NUCLEI} tumour nuclei: provisional.")
        elif self.hot_spot and self.hot_spot.provisional:
            notes.append(f"The hot spot has fewer than {MIN_TUMOR_NUCLEI} tumour nuclei: provisional.")
        if self.bands is None or self.no_range:
            return notes
        hot, average = self.range_of(self.hot_spot), self.range_of(self.average)
        if not hot:
            notes.append(f"In the {average} range.")
        elif hot == average:
            notes.append(f"The hot spot and the average both lie in the {average} range.")
        if self.settled:
            both = "Both intervals lie" if self.hot_spot else "The interval lies"
            return [*notes, f"{both} within one grade range."]
        if len(self._ranges_of_interval(self.average)) > 1:
            notes.append(self._crossing())
        if self.hot_spot and len(self._ranges_of_interval(self.hot_spot)) > 1:
            notes.append("The interval of the hot spot crosses a grade boundary.")
        return notes

    def sentences(self) -> list[str]:
        """Return all sentences: the indices, :attr:`warning`, then :attr:`notes`."""
        if self.average.index is None:
            return ["No tumour nuclei were found: there is no index."]
        indices = [f"Ki67 index {_figures(self.average)}."]
        if self.hot_spot:
            indices.append(f"Hot spot {_figures(self.hot_spot)}.")
        return [*indices, *filter(None, [self.warning]), *self.notes]

    def _ranges_of_interval(self, ki67: Ki67) -> set[str]:
        """Return the ranges of both ends of an interval."""
        assert self.bands is not None
        assert ki67.interval is not None
        return {self.bands.range_of(end) for end in ki67.interval}

    def _crossing(self) -> str:
        assert self.bands is not None
        more = self.average.more_nuclei(self.bands)
        subject = "The interval of the average" if self.hot_spot else "The interval"
        if more is None:
            return f"{subject} crosses a grade boundary; counting more nuclei is unlikely to settle it."
        # Fewer would leave the index provisional.
        more = max(more, MIN_TUMOR_NUCLEI - self.average.tumor)
        return f"{subject} crosses a grade boundary; at this rate, about {more:,} more tumour nuclei would settle it."


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a proportion of n, within [0, 1]."""
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
