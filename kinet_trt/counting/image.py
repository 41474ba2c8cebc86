"""Counting one image file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import NO_COLOUR, Frame, fitted_size
from kinet_trt.core.hot_spot import HOT_SPOT, find_hot_spots
from kinet_trt.core.protocols import TumorPoints, count_protocol
from kinet_trt.core.result import CountResult
from kinet_trt.core.stain_scoring import StainRules
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.io.images import read_image
from kinet_trt.quality.dab import measure_dab
from kinet_trt.quality.domain_check import DomainCheck


@dataclass(frozen=True, eq=False, kw_only=True)
class CountedImage(CountResult):
    """Result of counting an image, without its pixels; nuclei in px of the image."""

    detections: Detections
    qupath_type: ClassVar[str] = "annotation"

    def iter_detections(self) -> Iterator[Detections]:
        """Yield all nuclei at once."""
        yield self.detections


def count_image(
    counter: NucleusCounter,
    image: Path,
    mpp: float | None = None,
    hot_spot: int = HOT_SPOT,
    stain: StainRules = StainRules(),  # noqa: B008
    hot_spots: int | None = None,
    protocol: str | None = None,
) -> tuple[CountedImage, Frame]:
    """Count one image file; return the result and the image.

    ``mpp`` defaults to the file's, else the model's. For ``hot_spots`` and ``protocol`` see
    :func:`kinet_trt.counting.run.count_paths`.
    """
    frame = read_image(image)
    if not frame.pixels.any():
        raise ImageError("every pixel is black: the file holds no picture: export it again")
    card = counter.engine.card
    candidates = {"option": mpp, "file": frame.mpp, "model": card.mpp}
    source, used = next((name, value) for name, value in candidates.items() if value is not None)
    remarks = frame.remarks
    try:
        if frame.is_grey:
            fitted_size(frame.height, frame.width, used, card.mpp)  # raises if the image is too small
            found, remarks = Detections.empty(card.classes), (*remarks, NO_COLOUR)
        else:
            found = counter(frame, used)
        if frame.unused_size and source != "option":
            remarks = (f"The file {frame.unused_size}.", *remarks)
        found = stain.classify(measure_dab(Frame(frame.pixels, used), found, card.mpp))
        unlike = DomainCheck(card.mpp)(Frame(frame.pixels, used), found) or None
        spots = find_hot_spots(found, used, hot_spot, hot_spots or 1)
        spot = next(iter(spots), None)
        by_protocol = count_protocol(protocol, spot, TumorPoints.of(found, used)) if protocol else None
    except MemoryError:
        raise ImageError(f"not enough memory for {frame.width} x {frame.height} px: count a region of it") from None
    counted = CountedImage(
        image=image,
        width=frame.width,
        height=frame.height,
        mpp=used,
        mpp_source=source,
        counts=found.counts(),
        hot_spot=spot,
        remarks=(*remarks, unlike) if unlike else remarks,
        unlike=unlike,
        positive_above=stain.positive_above,
        h_score=stain.h_score(found),
        hot_spots=None if hot_spots is None else spots,
        protocol=by_protocol,
        detections=found,
    )
    return counted, frame
