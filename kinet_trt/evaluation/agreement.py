"""Agreement of two sets of detections of the same frame: never trust a map by its error, count the nuclei."""

from __future__ import annotations

from dataclasses import dataclass

from kinet_trt.core.detections import Detections


@dataclass(frozen=True)
class Agreement:
    """How two sets of detections differ.

    Attributes
    ----------
    same
        Nuclei at the same pixel with the same class in both.
    only_first, only_second
        Nuclei of one set only.
    """

    same: int
    only_first: int
    only_second: int

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.same + other.same, self.only_first + other.only_first, self.only_second + other.only_second
        )

    @property
    def identical(self) -> bool:
        """Whether the detections are the same to the last one."""
        return self.only_first == 0 and self.only_second == 0

    @property
    def moved(self) -> float:
        """Share of the nuclei of either set that the other lacks; 0 when there are none."""
        different = self.only_first + self.only_second
        return different / (2 * self.same + different) if different else 0.0


def compare(first: Detections, second: Detections) -> Agreement:
    """Compare two sets of detections by pixel and class, scores aside."""
    a, b = (set(zip(d.x.tolist(), d.y.tolist(), d.cls.tolist(), strict=True)) for d in (first, second))
    same = len(a & b)
    return Agreement(same, len(a) - same, len(b) - same)
