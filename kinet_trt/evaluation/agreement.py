"""Compare two sets of detections of the same frame. A model is judged by its nuclei, not by the error of its maps."""

from __future__ import annotations

from dataclasses import dataclass

from kinet_trt.core.detections import Detections


@dataclass(frozen=True)
class Agreement:
    """Number of nuclei that two sets of detections share (at the same pixel with the same class), and of the others."""

    same: int
    only_first: int
    only_second: int

    @classmethod
    def between(cls, first: Detections, second: Detections) -> Agreement:
        """Compare two sets of detections by pixel and class; scores are ignored."""
        a, b = (set(zip(d.x.tolist(), d.y.tolist(), d.cls.tolist(), strict=True)) for d in (first, second))
        same = len(a & b)
        return cls(same, len(a) - same, len(b) - same)

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.same + other.same, self.only_first + other.only_first, self.only_second + other.only_second
        )

    @property
    def identical(self) -> bool:
        """Whether both sets contain the same nuclei."""
        return self.only_first == 0 and self.only_second == 0

    @property
    def moved(self) -> float:
        """Share of the nuclei of either set that the other lacks; 0 without nuclei."""
        different = self.only_first + self.only_second
        return different / (2 * self.same + different) if different else 0.0
