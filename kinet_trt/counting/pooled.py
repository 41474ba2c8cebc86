"""Images and slides of one case, pooled: ``kinet-trt count --together``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinet_trt.core.hot_spot import HotSpot
from kinet_trt.core.ki67 import NET, Bands, Ki67, Statement
from kinet_trt.core.protocols import ProtocolCount, TumorPoints, count_breast_global, count_hot_spot
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
    hot_spots: tuple[tuple[HotSpot, Path], ...] | None = None
    protocol: ProtocolCount | None = None
    protocol_images: tuple[Path, ...] = ()  # of its fields

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
        protocol, protocol_images = _pooled_protocol(results, spot, image)
        return cls(
            len(results),
            dict(counts),
            spot,
            image,
            unlike,
            cut,
            h_score,
            _pooled_hot_spots(results),
            protocol,
            protocol_images,
        )

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
            "hot_spots": None
            if self.hot_spots is None
            else [{"image": str(image), **spot.record()} for spot, image in self.hot_spots],
            "protocol": self._protocol_record(),
        }

    def _protocol_record(self) -> dict[str, Any] | None:
        if self.protocol is None:
            return None
        record = self.protocol.record()
        named = zip(self.protocol_images, record["fields"], strict=True)
        return {**record, "fields": [{"image": str(image), **field} for image, field in named]}


def _pooled_hot_spots(results: Sequence[CountResult]) -> tuple[tuple[HotSpot, Path], ...] | None:
    """Return the hot spots of all results, best first, as many as one image may have."""
    asked = [(result.hot_spots, result.image) for result in results if result.hot_spots is not None]
    if not asked:
        return None
    number = max(len(spots) for spots, _ in asked)
    found = [(spot, image) for spots, image in asked for spot in spots]
    found.sort(key=lambda pair: (-(pair[0].ki67.index or 0.0), pair[0].radius))
    return tuple(found[:number])


def _pooled_protocol(
    results: Sequence[CountResult], spot: HotSpot | None, image: Path | None
) -> tuple[ProtocolCount | None, tuple[Path, ...]]:
    """Return the result of the protocol for all images together, and the images of its fields."""
    name = next((result.protocol.name for result in results if result.protocol), None)
    if name is None:
        return None, ()
    if name != "breast-global":
        return count_hot_spot(name, spot), (image,) if image else ()
    counted = count_breast_global([TumorPoints.gather(result.iter_detections(), result.mpp) for result in results])
    return counted, tuple(results[field.group].image for field in counted.fields)
