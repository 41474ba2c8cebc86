"""Counting a slide: an interrupted run is resumed."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.hot_spot import HOT_SPOT, HotSpot, find_disc
from kinet_trt.core.ki67 import NET, NO_RANGE, Bands, Ki67, Statement
from kinet_trt.core.user_folders import user_cache
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.slides.domain import unlike
from kinet_trt.slides.plan import Plan, make_plan
from kinet_trt.slides.region import Region
from kinet_trt.slides.results_db import SUFFIX, Ledger
from kinet_trt.slides.slide import Slide, open_slide
from kinet_trt.slides.tiles import count_tiles
from kinet_trt.slides.tissue import Thumbnail, thumbnail

log = logging.getLogger(__name__)

KEPT_DAYS = 30
"""Days after which unused counted tiles are deleted."""
COARSE = 1.5
"""Ratio of the slide's finest um/px to the model's above which a nucleus shows too little detail."""
_MOST_CENTRES = 20_000

Work = Callable[[Slide, Plan, Sequence[int]], Iterable[tuple[int, Detections]]]
"""Counts tiles of a slide by their numbers; a tile that comes twice is stored once."""


@dataclass(frozen=True, eq=False)
class CountedSlide:
    """Result of counting a slide. Its nuclei stay on disk, and :meth:`bands` reads them.

    Attributes
    ----------
    image
        The file.
    width, height
        Of level 0, px.
    mpp, mpp_source
        um/px that was used, and its source: ``"option"`` or ``"file"``.
    format
        File format, in words.
    plan
        The tiles that were counted.
    counts
        Nuclei by class.
    area_mm2
        Approximate area of the counted tissue, mm2: what is darker than glass in a small picture of the slide.
    hot_spot
        None with fewer tumour nuclei than a hot spot has.
    ledger
        File of the counted tiles.
    resumed
        Number of tiles counted by an earlier run.
    remarks
        Warnings and notes, one sentence each.
    unlike
        The warning among them that the tissue is unlike the training data: no grade range is then given. None: no such
        warning.
    """

    image: Path
    width: int
    height: int
    mpp: float
    mpp_source: str
    format: str
    plan: Plan
    counts: dict[str, int]
    area_mm2: float
    hot_spot: HotSpot | None
    ledger: Path
    resumed: int
    remarks: tuple[str, ...] = ()
    unlike: str | None = None

    @property
    def ki67(self) -> Ki67:
        """The index of the slide."""
        return Ki67.from_counts(self.counts)

    def statement(self, bands: Bands | None = NET) -> Statement:
        """Return the index and its grade range."""
        return Statement(
            self.ki67, self.hot_spot.ki67 if self.hot_spot else None, bands, NO_RANGE if self.unlike else ""
        )

    def bands(self) -> Iterator[Detections]:
        """Yield all nuclei in raster order, px of level 0, one row of tiles at a time.

        Raises
        ------
        KinetError
            If the file of counted tiles can no longer be read.
        """
        with Ledger(self.ledger, self.plan) as ledger:
            yield from ledger.bands()


def count_slide(
    counter: NucleusCounter,
    path: Path,
    mpp: float | None = None,
    *,
    region: Region | None = None,
    hot_spot: int = HOT_SPOT,
    folder: Path | None = None,
    work: Work | None = None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
    tell: Callable[[str], None] = log.info,
) -> tuple[CountedSlide, Thumbnail]:
    """Count a slide; an earlier run with the same slide, model, threshold and region is resumed.

    Parameters
    ----------
    counter
        An open model with an absolute threshold.
    path
        The file, or the folder of an OME-Zarr.
    mpp
        um/px of level 0; overrides the file's.
    region
        Area to count; None: all.
    hot_spot
        Hot-spot size in tumour nuclei.
    folder
        Folder for counted tiles; None: :func:`state_folder`.
    work
        Counts the missing tiles, in any order; None: :func:`kinet_trt.slides.tiles.count_tiles` in this process.
    report
        Called after each tile with the number of counted tiles and of all tiles.
    tell
        Called with a sentence on where the tiles are kept, and how many were counted before.

    Returns
    -------
    counted, small
        The result, and a small picture of the slide.

    Raises
    ------
    KinetError
        If it cannot be read or counted; the tiles counted so far are kept, and the next run resumes.
    KeyboardInterrupt
        On Ctrl-C; its message says how to resume.
    """
    folder = folder or state_folder()
    _prune(folder)
    with open_slide(path, mpp) as slide:
        small = thumbnail(slide, slide.mpp) if slide.mpp else None
        card = counter.engine.card
        plan = make_plan(slide, card, counter.threshold, counter.engine.precision, region, small)
        assert small is not None  # make_plan has refused a slide without um/px
        state = state_path(folder, path, plan)
        with Ledger(state, plan) as ledger:
            missing, total = ledger.missing(), len(plan.tiles)
            resumed = total - len(missing)
            if resumed:
                tell(f"{path}: {resumed:,} of {total:,} tiles were counted before and are read from {state}")
            elif missing:
                tell(f"{path}: {total:,} tiles; they are kept in {state}")
            report(resumed, total)
            done = resumed
            try:
                for number, nuclei in (
                    work(slide, plan, missing) if work else count_tiles(slide, plan, missing, counter)
                ):
                    done += ledger.land(number, nuclei)
                    report(done, total)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"{path}: interrupted after {done:,} of {total:,} tiles. Run the same command again to resume: the "
                    f"counted tiles are kept in {state}"
                ) from None
            if still := ledger.missing():
                raise KinetError(f"{len(still):,} of {total:,} tiles were not counted: run the command again to resume")
            state.touch()
            counts, spot = _sum_up(ledger, plan, hot_spot)
            warning = unlike(slide, plan, ledger, card.mpp) or None
            remarks = [*slide.remarks, *_remarks(plan, card.mpp), *([warning] if warning else [])]
        counted = CountedSlide(
            image=path,
            width=slide.width,
            height=slide.height,
            mpp=plan.mpp,
            mpp_source=plan.mpp_source,
            format=slide.format,
            plan=plan,
            counts=counts,
            area_mm2=_area(small, plan),
            hot_spot=spot,
            ledger=state,
            resumed=resumed,
            remarks=tuple(remarks),
            unlike=warning,
        )
        return counted, small


def state_folder() -> Path:
    """Return the folder for counted tiles: ``slides`` in the user's cache (``~/.cache/kinet-trt`` on Linux)."""
    return (user_cache() or Path(tempfile.gettempdir()) / "kinet-trt") / "slides"


def state_path(folder: Path, slide: Path, plan: Plan) -> Path:
    """Return the file for the tiles of a slide: the slide's stem and the first digits of the plan's identity."""
    return folder / f"{slide.stem[:80]}-{plan.identity[:16]}{SUFFIX}"


def _prune(folder: Path) -> None:
    """Delete the tiles of slides that were not counted again for a month; errors are ignored."""
    try:
        for old in folder.glob(f"*{SUFFIX}"):
            if time.time() - old.stat().st_mtime > KEPT_DAYS * 86_400:
                for name in (old.name, f"{old.name}-wal", f"{old.name}-shm", f"{old.name}.lock"):
                    old.with_name(name).unlink(missing_ok=True)
    except OSError as error:
        log.info("old tiles in %s were not deleted: %s", folder, error)


def _sum_up(ledger: Ledger, plan: Plan, n: int) -> tuple[dict[str, int], HotSpot | None]:
    """Return the counts and the hot spot, with 9 bytes of memory per tumour nucleus."""
    counts = dict.fromkeys(plan.classes, 0)
    tumor = [plan.classes.index(name) for name in ("positive", "negative") if name in plan.classes]
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]] = []
    for band in ledger.bands():
        for name, number in band.counts().items():
            counts[name] += number
        own = band.where(np.isin(band.cls, tumor))
        positive = np.asarray([name == "positive" for name in plan.classes])[own.cls]
        parts.append((own.x, own.y, positive))
    if not parts:
        return counts, None
    x, y, hits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    # Enough centres for discs that overlap well, few enough to stay within seconds.
    step = max(1, n // 10, -(-len(x) // _MOST_CENTRES))
    spot = find_disc(x * np.float32(plan.mpp), y * np.float32(plan.mpp), hits, n, step)
    if spot is None:
        return counts, None
    centre = spot.centre
    return counts, HotSpot(float(x[centre]), float(y[centre]), spot.radius, Ki67(spot.positive, n))


def _area(small: Thumbnail, plan: Plan) -> float:
    """Return the area of the counted tissue, mm2, without cells that only touch it."""
    cells = small.stained()
    if plan.region:
        rows, columns = np.nonzero(cells)
        cells = plan.region.holds((columns + 0.5) * small.cell - 0.5, (rows + 0.5) * small.cell - 0.5)
    return float(np.count_nonzero(cells) * (small.cell * plan.mpp / 1000) ** 2)


def _remarks(plan: Plan, mpp: float) -> Iterator[str]:
    finest = plan.mpp * plan.downsample
    if finest > COARSE * mpp:
        yield (
            f"The slide's finest level has {finest:.3g} um/px, the model was trained at {mpp:g}: nuclei may be missed "
            "or misclassified."
        )
    if not plan.tiles:
        yield "No tissue was found: check the stain, and that a region lies on tissue."
