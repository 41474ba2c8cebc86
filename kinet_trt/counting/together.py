"""Pictures and slides of one case, pooled: ``kinet-trt count --together``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinet_trt.core.hot_spot import HotSpot
from kinet_trt.core.ki67 import NET, Bands, Ki67, Statement

if TYPE_CHECKING:
    from kinet_trt.counting.pictures import Counted
    from kinet_trt.slides.count import CountedSlide


@dataclass(frozen=True)
class Together:
    """The sum of several images.

    Attributes
    ----------
    images
        How many.
    counts
        Nuclei by class.
    hot_spot, hot_spot_image
        The hot spot with the highest index among those of the images, and its image; None where no image
        has one.
    unlike
        Images that are unlike the training data.
    """

    images: int
    counts: dict[str, int]
    hot_spot: HotSpot | None
    hot_spot_image: Path | None
    unlike: tuple[Path, ...]

    @classmethod
    def of(cls, counted: Sequence[Counted | CountedSlide]) -> Together:
        """Add up what was counted."""
        counts = Counter[str]()
        for one in counted:
            counts.update(one.counts)
        spots = [(one.hot_spot, one.image) for one in counted if one.hot_spot]
        spot, image = max(spots, key=lambda pair: pair[0].ki67.index or 0.0, default=(None, None))
        return cls(len(counted), dict(counts), spot, image, tuple(one.image for one in counted if one.unlike))

    @property
    def ki67(self) -> Ki67:
        """The index of all nuclei."""
        return Ki67.from_counts(self.counts)

    def statement(self, bands: Bands | None = NET) -> Statement:
        """Return what they say about the grade: no range where an image is unlike the training data."""
        number = len(self.unlike)
        no_range = (
            f"No grade range is given, because {number} of the {self.images} images "
            f"{'looks' if number == 1 else 'look'} unlike the model's training data."
        )
        return Statement(self.ki67, self.hot_spot.ki67 if self.hot_spot else None, bands, no_range if number else "")

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        interval, spot = self.ki67.interval, self.hot_spot
        return {
            "images": self.images,
            "counts": self.counts,
            "ki67_index": self.ki67.index,
            "interval": list(interval) if interval else None,
            "hot_spot": {"image": str(self.hot_spot_image), **spot.record()} if spot else None,
            "unlike": [str(image) for image in self.unlike],
        }
