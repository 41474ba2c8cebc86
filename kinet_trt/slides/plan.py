"""Plan of a count: level, scaling and tiles of a slide, the same in every process.

A slide is counted like one image at the model's scale. The coarsest level that is not coarser than the model's um/px is
scaled like a frame (`kinet_trt.slides.resample`) and split into tiles (`kinet_trt.inference.tiling`). Nuclei in the
core of a tile are counted; the network runs on its window, the core with a halo. Tiles of glass, and tiles outside of
the region, are left out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from kinet_trt.core.errors import EngineError, ImageError, KinetError
from kinet_trt.core.frame import MIN_SIDE
from kinet_trt.inference.counter import Threshold
from kinet_trt.inference.tiling import Tile, spans
from kinet_trt.models.card import ModelCard
from kinet_trt.quality.dab import frame_white
from kinet_trt.slides.region import Region
from kinet_trt.slides.resample import Scaling
from kinet_trt.slides.slide import Slide
from kinet_trt.slides.tissue import Thumbnail, read_thumbnail

VERSION = 2
"""Version of tiling, scaling and measurement. It is part of the identity: tiles of two versions are never mixed."""
SCALE_TOLERANCE = 0.01
"""Relative difference of um/px below which a level is not scaled."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Level, scaling, tiles and model of a count.

    A plan contains plain values only and can be sent to another process, which opens slide and model by their paths.

    Attributes
    ----------
    fingerprint
        Fingerprint of the slide.
    slide_width, slide_height
        Size of level 0, px.
    mpp, mpp_source
        um/px of level 0, and its source (``"file"`` or ``"option"``).
    level
        Index of the level that is read.
    downsample
        px of level 0 per px of that level.
    scaling
        Scaling from that level to model px.
    tile, halo, multiple
        Maximum side of a core (``tile``, not of its window), halo around it, and alignment, model px.
    tiles
        Numbers of the tiles that are counted, ascending: ``row * columns + column`` of the grid.
    region
        Region to count; None for the whole slide.
    classes
        Class names of the model.
    model_sha256, threshold, precision
        Sha256 of the model, minimum peak height and numeric precision.
    white
        White point of the slide, R, G and B from 0 to 255, for the optical density of DAB.
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
    white: tuple[float, float, float]

    @property
    def identity(self) -> str:
        """Sha256 of everything that determines the nuclei, hexadecimal; must be equal to resume a run."""
        parts = {
            "version": VERSION,
            "slide": [self.fingerprint, self.slide_width, self.slide_height],
            "level": [self.level, self.downsample, self.scaling.width, self.scaling.height],
            "tiles": [self.tile, self.halo, self.multiple],
            "numbers": hashlib.sha256(np.asarray(self.tiles, "<i8").tobytes()).hexdigest(),
            "region": self.region.sha256 if self.region else None,
            "model": [self.model_sha256, list(self.classes), repr(self.threshold), self.precision],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Start and end (exclusive) of each row of cores, model px."""
        return spans(_padded(self.scaling.height, self.multiple), self.tile, self.halo, self.multiple)

    @property
    def columns(self) -> list[tuple[int, int]]:
        """Start and end (exclusive) of each column of cores, model px."""
        return spans(_padded(self.scaling.width, self.multiple), self.tile, self.halo, self.multiple)

    def tile_of(self, number: int) -> Tile:
        """Return a tile by its number, model px.

        All windows have the same size, unless the slide is smaller; windows at an edge are shifted inwards.
        """
        rows, columns = self.rows, self.columns
        row, column = divmod(number, len(columns))
        if not 0 <= row < len(rows):
            raise KinetError(f"tile: expected 0 to {len(rows) * len(columns) - 1}, found {number}")
        (top, bottom), (left, right) = rows[row], columns[column]
        window_y, window_x = _window(top, rows, self.halo), _window(left, columns, self.halo)
        return Tile(top, bottom, left, right, *window_y, *window_x)

    @property
    def model_px_per_slide_px(self) -> tuple[float, float]:
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
    thumbnail: Thumbnail | None = None,
    tile: int | None = None,
) -> Plan:
    """Plan the count of a slide.

    Parameters
    ----------
    slide
        An open slide with a known um/px.
    card
        Card of the model.
    threshold
        Minimum peak height.
    precision
        Numeric precision: ``counter.engine.precision``.
    region
        Region to count; None for the whole slide.
    thumbnail
        Thumbnail of the slide; read from the slide if None.
    tile
        Maximum side of the core of a tile, model px; defaults to that of the card, which is never exceeded.

    Raises
    ------
    KinetError
        If the um/px is not known, the slide has no colour or is too small, the threshold is relative, or the model was
        built for frames that are too small for a halo.
    """
    if slide.mpp is None:
        reason = slide.unused_size or "does not state its µm/px"
        raise ImageError(f"the file {reason}, which is required for a slide. Set it (mpp)")
    threshold = threshold if isinstance(threshold, Threshold) else Threshold(float(threshold))
    if threshold.relative:
        raise KinetError(f"threshold {threshold}: expected a number. A slide's highest peak is not known in advance")
    level = _level(slide, card.mpp)
    source = slide.levels[level]
    zoom = slide.mpp * source.downsample / card.mpp
    scaled = abs(zoom - 1) > SCALE_TOLERANCE
    width, height = (max(1, round(n * zoom)) if scaled else n for n in (source.width, source.height))
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"too small: {slide.width} x {slide.height} px at {slide.mpp:g} µm/px is {width} x {height} px at the "
            f"model's {card.mpp:g} µm/px, expected at least {MIN_SIDE} px on the shorter side. Check the µm/px (mpp)"
        )
    if region:
        _check_region(region, slide)
    thumbnail = thumbnail or read_thumbnail(slide, slide.mpp)
    if thumbnail.is_grey and thumbnail.stained().any():
        raise ImageError("the slide has no colour, expected haematoxylin and DAB in RGB")
    scaling = Scaling(source.width, source.height, width, height)
    plan = Plan(
        fingerprint=slide.fingerprint,
        slide_width=slide.width,
        slide_height=slide.height,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        level=level,
        downsample=source.downsample,
        scaling=scaling,
        tile=_core(card, tile),
        halo=card.halo,
        multiple=card.multiple,
        tiles=(),
        region=region,
        classes=card.classes,
        model_sha256=card.model_sha256,
        threshold=threshold.value,
        precision=precision,
        white=frame_white(thumbnail.pixels),
    )
    return replace(plan, tiles=_tissue_tiles(plan, thumbnail))


def _check_region(region: Region, slide: Slide) -> None:
    """Raise a KinetError if a region lies outside of the slide, for example because it is in another unit."""
    left, top, right, bottom = region.bounds
    if right < 0 or bottom < 0 or left > slide.width or top > slide.height:
        raise KinetError(
            f"the region lies outside of the slide: expected px of level 0, {slide.width} x {slide.height}; found "
            f"({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}). Export the regions of this slide"
        )


def _level(slide: Slide, mpp: float) -> int:
    """Return the coarsest level that is not coarser than the model's um/px, or the finest if all are coarser."""
    assert slide.mpp is not None
    limit = mpp / slide.mpp * (1 + SCALE_TOLERANCE)
    fine = [n for n, level in enumerate(slide.levels) if level.downsample <= limit]
    return max(fine, key=lambda n: slide.levels[n].downsample) if fine else 0


def _core(card: ModelCard, tile: int | None) -> int:
    """Return the maximum side of a core: ``tile`` or less, so that its window fits the card and its engine."""
    core = min(card.tile, tile or card.tile)
    if card.profile is None:
        return core
    _, _, (_, *largest) = card.profile
    core = min(core, min(largest) // card.multiple * card.multiple - 2 * card.halo)
    if core < card.multiple:
        raise EngineError(
            f"{card.name} was built for frames of up to {largest[1]} x {largest[0]} px, but tiles of a slide need a "
            f"halo of {card.halo} px on each side. Build it for at least {2 * card.halo + 512} px"
        )
    return core


def _tissue_tiles(plan: Plan, thumbnail: Thumbnail) -> tuple[int, ...]:
    """Return the numbers of the tiles whose core contains tissue and touches the region."""
    wanted = thumbnail.tissue()
    if plan.region:
        wanted &= plan.region.touched_pixels(wanted.shape[0], wanted.shape[1], thumbnail.downsample)
    # Thumbnail px per model px. A thumbnail pixel that a core touches counts.
    scale_y = plan.slide_height / plan.scaling.height / thumbnail.downsample
    scale_x = plan.slide_width / plan.scaling.width / thumbnail.downsample
    rows, columns = (
        [slice(max(0, int(first * scale) - 1), int(last * scale) + 2) for first, last in cores]
        for scale, cores in ((scale_y, plan.rows), (scale_x, plan.columns))
    )
    grid = product(rows, columns)
    return tuple(number for number, (row, column) in enumerate(grid) if wanted[row, column].any())


def _padded(length: int, multiple: int) -> int:
    return length + -length % multiple


def _window(start: int, cores: list[tuple[int, int]], halo: int) -> tuple[int, int]:
    """Return the window of the core that begins at ``start``; the first core is the longest."""
    length = cores[-1][1]
    size = min(length, cores[0][1] + 2 * halo)
    first = min(max(0, start - halo), length - size)
    return first, first + size
