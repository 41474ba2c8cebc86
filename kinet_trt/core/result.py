"""Result of counting one image or slide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kinet_trt.core.detections import Detections
from kinet_trt.core.hot_spot import HotSpot
from kinet_trt.core.ki67 import NET, NO_RANGE, Bands, Ki67, Statement
from kinet_trt.core.protocols import ProtocolCount
from kinet_trt.core.stain_scoring import HScore


@dataclass(frozen=True, eq=False, kw_only=True)
class CountResult(ABC):
    """Common interface of the results of images and slides.

    Attributes
    ----------
    image
        The file.
    width, height
        Size of the image, or of level 0 of the slide, px.
    mpp
        µm/px that was used.
    mpp_source
        Source of ``mpp``: ``"option"``, ``"file"`` or ``"model"``.
    counts
        Nuclei by class.
    hot_spot
        The hot spot; None if there are fewer tumour nuclei than it has.
    remarks
        Warnings and notes, one sentence each.
    unlike
        The warning among them that the tissue is unlike the training data: no grade range is then given. None: no such
        warning.
    positive_above
        DAB optical density from which tumour nuclei are positive; None if the classes are the network's.
    h_score
        H-score of the tumour nuclei; None if it was not asked for.
    hot_spots
        Hot spots that do not overlap, best first; None if they were not asked for.
    protocol
        Result of a counting protocol; None if it was not asked for.
    """

    image: Path
    width: int
    height: int
    mpp: float
    mpp_source: str
    counts: dict[str, int]
    hot_spot: HotSpot | None = None
    remarks: tuple[str, ...] = ()
    unlike: str | None = None
    positive_above: float | None = None
    h_score: HScore | None = None
    hot_spots: tuple[HotSpot, ...] | None = None
    protocol: ProtocolCount | None = None

    qupath_type: ClassVar[str]
    """QuPath's type of the nuclei as objects; see :meth:`Detections.features`."""

    @property
    def ki67(self) -> Ki67:
        """Index of all nuclei."""
        return Ki67.from_counts(self.counts)

    def statement(self, bands: Bands | None = NET) -> Statement:
        """Return the index and its grade range."""
        return Statement(
            self.ki67, self.hot_spot.ki67 if self.hot_spot else None, bands, NO_RANGE if self.unlike else ""
        )

    def counted_fields(self) -> list[tuple[str, HotSpot]]:
        """Return the names and discs of the hot spots and the fields of the protocol that were asked for."""
        fields = [(f"Hot spot {number}", spot) for number, spot in enumerate(self.hot_spots or (), 1)]
        if self.protocol:
            fields += [
                (f"{self.protocol.name}: {field.level}", HotSpot(field.x, field.y, field.radius, field.ki67))
                for field in self.protocol.fields
            ]
        return fields

    @abstractmethod
    def iter_detections(self) -> Iterator[Detections]:
        """Yield all nuclei in raster order, in parts that fit into memory; px of the image, or of level 0."""

    def extra_record(self) -> dict[str, Any]:
        """Return the JSON members that only this kind of result has."""
        return {}
