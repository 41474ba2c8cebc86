"""Plan: what of a slide is looked at, decided once and the same everywhere.

A slide is counted as one picture at the model's scale would be: the level nearest the model's um/px, not coarser where
there is such a level, is scaled as a frame is (`kinet_trt.slides.resample`), and looked at in tiles by the ownership
rule of `kinet_trt.inference.tiling`. Tiles of glass, and those outside of the region, are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kinet_trt.core.errors import EngineError, ImageError, KinetError
from kinet_trt.core.frame import MIN_SIDE
from kinet_trt.inference.counter import Threshold
from kinet_trt.inference.tiling import Tile, spans
from kinet_trt.models.card import ModelCard
from kinet_trt.slides.region import Region
from kinet_trt.slides.resample import Scaling
from kinet_trt.slides.slide import Slide
from kinet_trt.slides.tissue import Thumbnail, thumbnail

VERSION = 1
"""Of how slides are cut and scaled; part of the identity, so that another version's tiles are not mixed in."""
SAME_SCALE = 0.01
"""Difference of um/px below which a level is not scaled."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The level, scaling, tiles and model with which a slide is counted.

    Contains only plain values and can be sent to another process, which opens slide and model by their paths.

    Attributes
    ----------
    fingerprint
        Of the slide.
    slide_width, slide_height
        Of level 0, px.
    mpp, mpp_source
        um/px of level 0, and its source.
    level
        The level that is read.
    downsample
        px of level 0 per px of that level, along one side.
    scaling
        Scaling from that level to model px.
    tile, halo, multiple
        Largest side of a core, margin around it, and alignment, model px.
    tiles
        Numbers of the tiles that are counted, ascending: ``row * columns + column`` of the grid.
    region
        Region to count; None: everything.
    classes
        Of the model.
    model_sha256, threshold, precision
        Of the counter.
    """

    fingerprint: str
    slide_width: int
    slide_height: int
    mpp: float
    mpp_source: str
    level: int
    downsample: float
    scaling: Scaling
    tile: int
    halo: int
    multiple: int
    tiles: tuple[int, ...]
    region: Region | None
    classes: tuple[str, ...]
    model_sha256: str
    threshold: float
    precision: str

    @property
    def identity(self) -> str:
        """A sha256 of everything that determines the nuclei, hexadecimal; a resumed run must have the same."""
        deciding = {
            "version": VERSION,
            "slide": [self.fingerprint, self.slide_width, self.slide_height],
            "level": [self.level, self.downsample, self.scaling.width, self.scaling.height],
            "tiles": [self.tile, self.halo, self.multiple],
            "numbers": hashlib.sha256(np.asarray(self.tiles, "<i8").tobytes()).hexdigest(),
            "region": self.region.sha256 if self.region else None,
            "model": [self.model_sha256, list(self.classes), repr(self.threshold), self.precision],
        }
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    @property
    def rows(self) -> list[tuple[int, int]]:
        """First and last + 1 row of the cores of each row of tiles, model px."""
        return spans(_padded(self.scaling.height, self.multiple), self.tile, self.halo, self.multiple)

    @property
    def columns(self) -> list[tuple[int, int]]:
        """First and last + 1 column of the cores of each column of tiles, model px."""
        return spans(_padded(self.scaling.width, self.multiple), self.tile, self.halo, self.multiple)

    def tile_of(self, number: int) -> Tile:
        """Return a tile by its number, model px.

        All windows of a slide have one size, as long as it is larger than that: at an edge they reach further inwards.
        """
        rows, columns = self.rows, self.columns
        row, column = divmod(number, len(columns))
        if not 0 <= row < len(rows):
            raise KinetError(f"tile: expected 0 to {len(rows) * len(columns) - 1}, found {number}")
        (top, bottom), (left, right) = rows[row], columns[column]
        down = _window(top, rows[0][1], _padded(self.scaling.height, self.multiple), self.halo)
        across = _window(left, columns[0][1], _padded(self.scaling.width, self.multiple), self.halo)
        return Tile(top, bottom, left, right, *down, *across)

    @property
    def model_per_slide(self) -> tuple[float, float]:
        """Model px per px of level 0, in x and in y."""
        scaling = self.scaling
        return (
            scaling.width / scaling.source_width / self.downsample,
            scaling.height / scaling.source_height / self.downsample,
        )


def make_plan(
    slide: Slide,
    card: ModelCard,
    threshold: Threshold | float,
    precision: str,
    region: Region | None = None,
    small: Thumbnail | None = None,
) -> Plan:
    """Plan the count of a slide: which level and tiles are read, and how they are scaled.

    Parameters
    ----------
    slide
        An open slide whose um/px is known.
    card
        Of the model.
    threshold
        Minimum height of a peak.
    precision
        Precision of the computation: ``counter.engine.precision``.
    region
        Region to count; None: everything.
    small
        ``thumbnail(slide, slide.mpp)`` if it was computed before.

    Raises
    ------
    KinetError
        If the um/px is not known, the slide has no colour or is too small, the threshold is relative, or the model was
        built for windows that leave no core.
    """
    if slide.mpp is None:
        why = slide.unused_size or "does not state its um/px"
        raise ImageError(f"the file {why}, and a slide is not counted without: give it (mpp)")
    threshold = threshold if isinstance(threshold, Threshold) else Threshold(float(threshold))
    if threshold.relative:
        raise KinetError(
            f"threshold {threshold}: a slide is counted tile by tile, and its largest value is known only at the "
            "end: give a number"
        )
    level = _level(slide, card.mpp)
    of = slide.levels[level]
    zoom = slide.mpp * of.downsample / card.mpp
    scaled = abs(zoom - 1) > SAME_SCALE
    width, height = (max(1, round(n * zoom)) if scaled else n for n in (of.width, of.height))
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"too small: {slide.width} x {slide.height} px at {slide.mpp:g} um/px is {width} x {height} px at the "
            f"model's {card.mpp:g} um/px; the shorter side must have at least {MIN_SIDE}: check the um/px (mpp)"
        )
    if region:
        _check_region(region, slide)
    small = small or thumbnail(slide, slide.mpp)
    if small.is_grey and small.stained().any():
        raise ImageError("the slide has no colour: expected haematoxylin and DAB, in RGB")
    scaling = Scaling(of.width, of.height, width, height)
    tile = _core(card)
    numbers = _bearing(slide, scaling, tile, card.halo, card.multiple, small, region)
    return Plan(
        fingerprint=slide.fingerprint,
        slide_width=slide.width,
        slide_height=slide.height,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        level=level,
        downsample=of.downsample,
        scaling=scaling,
        tile=tile,
        halo=card.halo,
        multiple=card.multiple,
        tiles=tuple(numbers),
        region=region,
        classes=card.classes,
        model_sha256=card.model_sha256,
        threshold=threshold.value,
        precision=precision,
    )


def _check_region(region: Region, slide: Slide) -> None:
    """Raise a KinetError if a region lies beside the slide: it is then another slide's, or in another unit."""
    left, top, right, bottom = region.bounds
    if right < 0 or bottom < 0 or left > slide.width or top > slide.height:
        raise KinetError(
            f"the region lies outside of the slide: expected px of level 0, {slide.width} x {slide.height}; found "
            f"({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}): export the areas that were drawn on this slide"
        )


def _level(slide: Slide, mpp: float) -> int:
    """Return the coarsest level that is not coarser than the model's um/px; where all are, the finest."""
    assert slide.mpp is not None
    limit = mpp / slide.mpp * (1 + SAME_SCALE)
    fine = [n for n, level in enumerate(slide.levels) if level.downsample <= limit]
    return max(fine, key=lambda n: slide.levels[n].downsample) if fine else 0


def _core(card: ModelCard) -> int:
    """Return the largest side of a core, so that its window fits what an engine was built for."""
    if card.profile is None:
        return card.tile
    (_, *_), (_, *_), (_, *largest) = card.profile
    core = min(card.tile, min(largest) // card.multiple * card.multiple - 2 * card.halo)
    if core < card.multiple:
        raise EngineError(
            f"{card.name} was built for frames of up to {largest[0]} x {largest[1]} px, a slide's windows have "
            f"{card.halo} px on each side about their core: build it for at least {2 * card.halo + 512} px"
        )
    return core


def _bearing(
    slide: Slide, scaling: Scaling, tile: int, halo: int, multiple: int, small: Thumbnail, region: Region | None
) -> Sequence[int]:
    """Return the numbers of the tiles whose core bears tissue, and touches the region."""
    wanted = small.tissue()
    if region:
        wanted &= region.touched_cells(wanted.shape[0], wanted.shape[1], small.cell)
    rows = spans(_padded(scaling.height, multiple), tile, halo, multiple)
    columns = spans(_padded(scaling.width, multiple), tile, halo, multiple)
    # Cells per model px; a cell that a core only grazes counts.
    down = slide.height / scaling.height / small.cell
    across = slide.width / scaling.width / small.cell
    found = []
    for row, (top, bottom) in enumerate(rows):
        for column, (left, right) in enumerate(columns):
            part = wanted[
                max(0, int(top * down) - 1) : int(bottom * down) + 2,
                max(0, int(left * across) - 1) : int(right * across) + 2,
            ]
            if part.any():
                found.append(row * len(columns) + column)
    return found


def _padded(length: int, multiple: int) -> int:
    return length + -length % multiple


def _window(start: int, core: int, length: int, halo: int) -> tuple[int, int]:
    size = min(length, core + 2 * halo)
    first = min(max(0, start - halo), length - size)
    return first, first + size
