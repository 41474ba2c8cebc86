"""Images and slides of one case, pooled: ``kinet-trt count --together``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinet_trt.core.hot_spot import HotSpot
from kinet_trt.core.ki67 import NET, Bands, Ki67, Statement
from kinet_trt.core.result import CountResult
from kinet_trt.core.stain_scoring import HScore


@dataclass(frozen=True)
class PooledCount:
    """Sum of several results.

    The hot spot is the one with the highest index; ``unlike`` are the images that are unlike the training data.
    """

    images: int
    counts: dict[str, int]
    hot_spot: HotSpot | None
    hot_spot_image: Path | None
    unlike: tuple[Path, ...]
    positive_above: float | None = None
    h_score: HScore | None = None

    @classmethod
    def of(cls, results: Sequence[CountResult]) -> PooledCount:
        """Return the sum of results."""
        counts = Counter[str]()
        for result in results:
            counts.update(result.counts)
        spots = [(result.hot_spot, result.image) for result in results if result.hot_spot]
        spot, image = max(spots, key=lambda pair: pair[0].ki67.index or 0.0, default=(None, None))
        unlike = tuple(result.image for result in results if result.unlike)
        cut = next((result.positive_above for result in results), None)
        h_score = HScore.total([result.h_score for result in results if result.h_score])
        return cls(len(results), dict(counts), spot, image, unlike, cut, h_score)

    @property
    def ki67(self) -> Ki67:
        """Index of all nuclei."""
        return Ki67.from_counts(self.counts)

    def statement(self, bands: Bands | None = NET) -> Statement:
        """Return the index and its grade range; no range if an image is unlike the training data."""
        number = len(self.unlike)
        no_range = (
            f"No grade range is given, because {number} of the {self.images} images "
            f"{'looks' if number == 1 else 'look'} unlike the model's training data."
        )
        return Statement(self.ki67, self.hot_spot.ki67 if self.hot_spot else None, bands, no_range if number else "")

    def record(self) -> dict[str, Any]:
        """Return the member ``together`` of the JSON."""
        spot = self.hot_spot
        return {
            "images": self.images,
            "counts": self.counts,
            "ki67_index": self.ki67.index,
            "interval": self.ki67.interval,
            "hot_spot": {"image": str(self.hot_spot_image), **spot.record()} if spot else None,
            "unlike": [str(image) for image in self.unlike],
            "positive_above": self.positive_above,
            "h_score": self.h_score.record() if self.h_score else None,
        }
