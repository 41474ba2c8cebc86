"""Counting a slide. An interrupted run is resumed."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.core.hot_spot import HOT_SPOT, HotSpot, hot_spots_of, tumor_nuclei
from kinet_trt.core.protocols import TumorPoints, count_protocol
from kinet_trt.core.result import CountResult
from kinet_trt.core.stain_scoring import HScore, StainRules
from kinet_trt.core.user_folders import user_cache
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.quality.domain_check import Cause, describe, find_causes, measure_field
from kinet_trt.slides.plan import Plan, make_plan
from kinet_trt.slides.region import Region
from kinet_trt.slides.results_db import SUFFIX, ResultsDB
from kinet_trt.slides.slide import Slide, open_slide
from kinet_trt.slides.tiles import count_tiles, read_window
from kinet_trt.slides.tissue import Thumbnail, read_thumbnail

log = logging.getLogger(__name__)

KEPT_DAYS = 30
"""Days after which counted tiles that were not used are deleted."""
COARSE = 1.5
"""Ratio of a slide's finest um/px to the model's above which a warning is given."""
CHECKED_TILES = 5
"""Number of tiles for the domain check: those with the most nuclei, which are most likely to show tissue."""
_MAX_CENTRES = 20_000

TileCounter = Callable[[Slide, Plan, Sequence[int]], Iterable[tuple[int, Detections]]]
"""Counts tiles of a slide by their numbers; a tile that is returned twice is saved once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CountedSlide(CountResult):
    """Result of counting a slide. Its nuclei stay on disk, and :meth:`iter_detections` reads them.

    Attributes
    ----------
    format
        Name of the file format.
    plan
        The tiles that were counted.
    area_mm2
        Approximate area of the counted tissue, mm2: thumbnail pixels that are darker than glass.
    tiles_file
        File of the counted tiles.
    resumed
        Number of tiles counted by an earlier run.
    """

    format: str
    plan: Plan
    area_mm2: float
    tiles_file: Path
    resumed: int
    qupath_type: ClassVar[str] = "detection"

    def iter_detections(self) -> Iterator[Detections]:
        """Yield all nuclei in raster order, px of level 0, one row of tiles at a time.

        Raises
        ------
        KinetError
            If the file of counted tiles can no longer be read.
        """
        rules = StainRules(self.positive_above)
        with ResultsDB(self.tiles_file, self.plan) as results:
            yield from map(rules.classify, results.iter_detections())

    bands = iter_detections  # name before 0.2

    def extra_record(self) -> dict[str, Any]:
        """Return the member ``slide`` of the JSON."""
        plan = self.plan
        return {
            "slide": {
                "format": self.format,
                "level": plan.level,
                "level_mpp": plan.mpp * plan.downsample,
                "tiles": len(plan.tiles),
                "tiles_left_out": len(plan.rows) * len(plan.columns) - len(plan.tiles),
                "tissue_mm2": round(self.area_mm2, 4),
                "hot_spot": self.hot_spot.record() if self.hot_spot else None,
            }
        }


def count_slide(
    counter: NucleusCounter,
    path: Path,
    mpp: float | None = None,
    *,
    region: Region | None = None,
    hot_spot: int = HOT_SPOT,
    stain: StainRules = StainRules(),  # noqa: B008
    hot_spots: int | None = None,
    protocol: str | None = None,
    folder: Path | None = None,
    tile_counter: TileCounter | None = None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
    notify: Callable[[str], None] = log.info,
) -> tuple[CountedSlide, Thumbnail]:
    """Count a slide; an earlier run with the same slide, model, threshold, region and tile is resumed.

    Parameters
    ----------
    counter
        An open model with an absolute threshold.
    path
        The file, or the folder of an OME-Zarr.
    mpp
        um/px of level 0; overrides the file's.
    region
        Region to count; None for the whole slide.
    hot_spot
        Hot-spot size in tumour nuclei.
    stain
        What is decided by the density of DAB. The tiles have the network's classes, so that another cut-off needs no
        new count.
    hot_spots
        Number of hot spots that do not overlap, best first; None for :attr:`CountResult.hot_spot` alone.
    protocol
        Counting protocol, one of :data:`kinet_trt.core.protocols.NAMES`; None for none.
    folder
        Folder for counted tiles; defaults to :func:`cache_folder`.
    tile_counter
        Counts the missing tiles, in any order; defaults to :func:`kinet_trt.slides.tiles.count_tiles` in this process.
    report
        Called after each tile with the number of counted tiles and of all tiles.
    notify
        Called with a message that names the file of counted tiles and their number.

    Returns
    -------
    counted, thumbnail
        The result, and a thumbnail of the slide.

    Raises
    ------
    KinetError
        If the slide cannot be read or counted; counted tiles are kept, and the next run resumes.
    KeyboardInterrupt
        On Ctrl-C; the message describes how to resume.
    """
    folder = folder or cache_folder()
    _delete_old(folder)
    with open_slide(path, mpp) as slide:
        thumbnail = read_thumbnail(slide, slide.mpp) if slide.mpp else None
        card = counter.engine.card
        plan = make_plan(slide, card, counter.threshold, counter.engine.precision, region, thumbnail, counter.tile)
        assert thumbnail is not None  # make_plan rejects a slide without um/px
        tiles_file = tiles_path(folder, path, plan)
        with ResultsDB(tiles_file, plan) as results:
            missing, total = results.missing(), len(plan.tiles)
            resumed = done = total - len(missing)
            if resumed:
                notify(f"{path}: {resumed:,} of {total:,} tiles were counted before and are read from {tiles_file}")
            elif missing:
                notify(f"{path}: {total:,} tiles; they are kept in {tiles_file}")
            report(done, total)
            count = tile_counter or (lambda slide, plan, numbers: count_tiles(slide, plan, numbers, counter))
            try:
                for number, nuclei in count(slide, plan, missing):
                    done += results.save(number, nuclei)
                    report(done, total)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"{path}: interrupted after {done:,} of {total:,} tiles. Run the same command again to resume: the "
                    f"counted tiles are kept in {tiles_file}"
                ) from None
            if left := results.missing():
                raise KinetError(f"{len(left):,} of {total:,} tiles were not counted. Run the command again to resume")
            tiles_file.touch()
            counts, points, h_score = _sum_up(results, plan, stain)
            spots = _hot_spots(points, hot_spot, hot_spots or 1)
            spot = next(iter(spots), None)
            warning = _domain_warning(slide, plan, results, card.mpp) or None
        counted = CountedSlide(
            image=path,
            width=slide.width,
            height=slide.height,
            mpp=plan.mpp,
            mpp_source=plan.mpp_source,
            counts=counts,
            hot_spot=spot,
            remarks=(*slide.remarks, *_remarks(plan, card.mpp), *([warning] if warning else [])),
            unlike=warning,
            positive_above=stain.positive_above,
            h_score=h_score,
            hot_spots=None if hot_spots is None else spots,
            protocol=count_protocol(protocol, spot, points) if protocol else None,
            format=slide.format,
            plan=plan,
            area_mm2=_area(thumbnail, plan),
            tiles_file=tiles_file,
            resumed=resumed,
        )
        return counted, thumbnail


def cache_folder() -> Path:
    """Return the folder for counted tiles: ``slides`` in the user's cache (``~/.cache/kinet-trt`` on Linux)."""
    return (user_cache() or Path(tempfile.gettempdir()) / "kinet-trt") / "slides"


def tiles_path(folder: Path, slide: Path, plan: Plan) -> Path:
    """Return the file for the tiles of a slide: the slide's stem and the first digits of the plan's identity."""
    return folder / f"{slide.stem[:80]}-{plan.identity[:16]}{SUFFIX}"


def _delete_old(folder: Path) -> None:
    """Delete the tiles of slides that were not counted for `KEPT_DAYS`; ignore errors."""
    try:
        for old in folder.glob(f"*{SUFFIX}"):
            if time.time() - old.stat().st_mtime > KEPT_DAYS * 86_400:
                for name in (old.name, f"{old.name}-wal", f"{old.name}-shm", f"{old.name}.lock"):
                    old.with_name(name).unlink(missing_ok=True)
    except OSError as error:
        log.info("old tiles in %s were not deleted: %s", folder, error)


def _sum_up(results: ResultsDB, plan: Plan, stain: StainRules) -> tuple[dict[str, int], TumorPoints, HScore | None]:
    """Return the counts, the tumour nuclei and the H-score, with 9 bytes of memory per tumour nucleus."""
    counts = Counter(dict.fromkeys(plan.classes, 0))
    empty = TumorPoints.of(Detections.empty(plan.classes), plan.mpp)
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]] = []
    scores: list[HScore] = []
    for row in map(stain.classify, results.iter_detections()):
        counts.update(row.counts())
        tumor, positive = tumor_nuclei(row)
        parts.append((tumor.x, tumor.y, positive))
        if score := stain.h_score(row):
            scores.append(score)
    h_score = HScore.total(scores) or stain.h_score(Detections.empty(plan.classes))
    x, y, hits = (np.concatenate(columns) for columns in zip((empty.x, empty.y, empty.positive), *parts, strict=True))
    return dict(counts), TumorPoints(x, y, hits, plan.mpp), h_score


def _hot_spots(points: TumorPoints, n: int, number: int) -> tuple[HotSpot, ...]:
    step = max(1, -(-len(points.x) // _MAX_CENTRES))  # few enough centres to take only seconds
    return hot_spots_of(points.x, points.y, points.positive, points.mpp, n, number, step)


def _domain_warning(slide: Slide, plan: Plan, results: ResultsDB, mpp: float) -> str:
    """Return a warning if most of the checked tiles are out-of-distribution, else an empty string.

    ``mpp`` is the model's; see `kinet_trt.quality.domain_check`.
    """
    cause_counts, checked = Counter[Cause](), 0
    scale_x, scale_y = plan.model_px_per_slide_px
    for number in results.tiles_with_most_nuclei(CHECKED_TILES):
        tile, nuclei = plan.tile_of(number), results.tile(number)
        x, y = rescale(nuclei.x, scale_x) - tile.window_left, rescale(nuclei.y, scale_y) - tile.window_top
        in_window = replace(nuclei, x=x, y=y)
        features = measure_field(Frame(read_window(slide, plan, number), mpp), in_window, mpp)
        if features is not None:
            checked += 1
            cause_counts.update(find_causes(features))
    return describe(tuple(cause for cause, n in cause_counts.items() if 2 * n > checked), plan.mpp, slide=True)


def _area(thumbnail: Thumbnail, plan: Plan) -> float:
    """Return the area of the counted tissue, mm2, from the thumbnail pixels whose centre is in the region."""
    tissue = thumbnail.stained()
    if plan.region:
        rows, columns = np.nonzero(tissue)
        downsample = thumbnail.downsample
        tissue = plan.region.contains((columns + 0.5) * downsample - 0.5, (rows + 0.5) * downsample - 0.5)
    return float(np.count_nonzero(tissue) * (thumbnail.downsample * plan.mpp / 1000) ** 2)


def _remarks(plan: Plan, mpp: float) -> Iterator[str]:
    finest = plan.mpp * plan.downsample
    if finest > COARSE * mpp:
        yield (
            f"The slide's finest level has {finest:.3g} µm/px, the model was trained at {mpp:g}: nuclei may be missed "
            "or misclassified."
        )
    if not plan.tiles:
        yield "No tissue was found: check the stain, and that a region lies on tissue."
