"""Counting files and folders, and the tables and JSON of such a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import csv_text
from kinet_trt.core.frame import Frame
from kinet_trt.core.hot_spot import HOT_SPOT
from kinet_trt.core.protocols import check_protocol
from kinet_trt.core.result import CountResult
from kinet_trt.core.stain_scoring import StainRules
from kinet_trt.counting.find import find_images
from kinet_trt.counting.geojson_and_overlays import Outputs
from kinet_trt.counting.image import count_image
from kinet_trt.counting.pooled import PooledCount
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.io.json_stream import json_parts
from kinet_trt.io.overlay import draw
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.io.tables import Row, encode, to_csv, to_plain
from kinet_trt.slides.count import TileCounter, count_slide
from kinet_trt.slides.heatmap import heat_map
from kinet_trt.slides.region import Region
from kinet_trt.slides.slide import is_slide
from kinet_trt.slides.tissue import Thumbnail

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of the JSON; within a version keys are only ever added."""


@dataclass(frozen=True, eq=False)
class CountRun:
    """Results of counting several files.

    Attributes
    ----------
    counter
        The model, its engine and threshold.
    results
        One per file that was counted, in order.
    errors
        Files that could not be counted, or whose outputs could not be written, and a message for each.
    pooled
        Sum of the results; None if the files are not of one case.
    """

    counter: NucleusCounter
    results: tuple[CountResult, ...]
    errors: tuple[tuple[Path, str], ...] = ()
    pooled: PooledCount | None = None

    def to_json(self) -> Iterator[str]:
        """Yield the parts of the JSON, schema 1."""
        engine = self.counter.engine
        document = {
            "schema": SCHEMA,
            "model": {
                "name": engine.card.name,
                "sha256": engine.card.model_sha256,
                "classes": list(engine.card.classes),
                "mpp": engine.card.mpp,
                "network": engine.card.network,
                "runtime": engine.runtime,
                "notice": engine.card.notice,
            },
            **({"together": self.pooled.record()} if self.pooled else {}),
            "fields": map(self._record, self.results),
            "errors": [{"image": str(image), "message": message} for image, message in self.errors],
        }
        yield from json_parts(document)
        yield "\n"

    def _record(self, result: CountResult) -> dict[str, Any]:
        threshold = self.counter.threshold
        return {
            "image": str(result.image),
            "width": result.width,
            "height": result.height,
            "mpp": result.mpp,
            "mpp_source": result.mpp_source,
            "threshold": str(threshold) if threshold.relative else threshold.value,
            "precision": self.counter.engine.precision,
            "counts": result.counts,
            "ki67_index": result.ki67.index,
            "interval": result.ki67.interval,
            "hot_spot": result.hot_spot.record() if result.hot_spot else None,
            "unlike": result.unlike,
            "positive_above": result.positive_above,
            "h_score": result.h_score.record() if result.h_score else None,
            "hot_spots": None if result.hot_spots is None else [spot.record() for spot in result.hot_spots],
            "protocol": result.protocol.record() if result.protocol else None,
            "remarks": list(result.remarks),
            **result.extra_record(),
            "detections": (record for part in result.iter_detections() for record in part.records()),
        }

    def to_csv(self) -> Iterator[str]:
        """Yield the parts of a CSV table with one row per nucleus.

        The column ``positive_above`` is only there if classes were decided by the density of DAB.
        """
        with_cut = any(result.positive_above is not None for result in self.results)
        yield csv_text([["image", "x", "y", "class", "score", "dab_od", *(["positive_above"] if with_cut else [])]])
        for result in self.results:
            cut = [result.positive_above] if with_cut else []
            for part in result.iter_detections():
                yield csv_text([str(result.image), *record.values(), *cut] for record in part.records())

    def summary(self, target: str) -> str | bytes:
        """Return a table with one row per image; see :mod:`kinet_trt.io.tables`.

        Parameters
        ----------
        target
            Name of a ``.csv`` or ``.xlsx`` file; ``-`` for CSV, ``plain`` for tab-separated text. The pooled counts are
            the last row, or a sheet of a workbook.
        """
        rows = [self._row(result) for result in self.results]
        total = self._pooled_row(self.pooled, rows) if self.pooled else None
        if target.lower().endswith(".xlsx"):
            return encode(rows, Path(target), total)
        rows += [total] if total else []
        return to_plain(rows) if target == "plain" else to_csv(rows)

    @property
    def _model(self) -> str:
        return f"{self.counter.engine.card.name}, {self.counter.engine.precision}"

    def _row(self, result: CountResult) -> Row:
        return Row(
            picture=str(result.image),
            counts=result.counts,
            hot_spot=result.hot_spot.ki67 if result.hot_spot else None,
            mpp=result.mpp,
            mpp_known=HOW_KNOWN[result.mpp_source],
            model=self._model,
            warnings=result.remarks,
            positive_above=result.positive_above,
            h_score=result.h_score,
            protocol=result.protocol,
        )

    def _pooled_row(self, pooled: PooledCount, rows: Sequence[Row]) -> Row:
        scales = {(row.mpp, row.mpp_known) for row in rows}
        mpp, known = scales.pop() if len(scales) == 1 else (None, "several")
        warning = pooled.statement(None).no_range
        return Row(
            picture="together",
            counts=pooled.counts,
            hot_spot=pooled.hot_spot.ki67 if pooled.hot_spot else None,
            mpp=mpp,
            mpp_known=known,
            model=self._model,
            warnings=(warning,) if warning else (),
            positive_above=pooled.positive_above,
            h_score=pooled.h_score,
            protocol=pooled.protocol,
        )


def count_paths(
    paths: str | Path | Sequence[str | Path],
    counter: NucleusCounter | None = None,
    mpp: float | None = None,
    *,
    region: Region | None = None,
    hot_spot: int = HOT_SPOT,
    pool: bool = False,
    positive_above: float | None = None,
    h_cuts: tuple[float, float, float] | None = None,
    hot_spots: int | None = None,
    protocol: str | None = None,
) -> CountRun:
    """Count the images and slides that paths, folders and glob patterns name.

    Parameters
    ----------
    paths
        One or several.
    counter
        An open model; defaults to the built-in one.
    mpp
        um/px; defaults to each file's, else the model's (a slide must have its own).
    region
        Region to count, slides only; None for all.
    hot_spot
        Hot-spot size in tumour nuclei.
    pool
        Add up the results: the images are of one case.
    positive_above
        DAB optical density from which tumour nuclei are positive, below it negative; None for the network's classes.
    h_cuts
        Cut-offs of the H-score, such as :data:`kinet_trt.core.stain_scoring.H_CUTS`; None for no H-score.
    hot_spots
        Number of hot spots that do not overlap, best first, in ``hot_spots`` of the results; None for none there.
    protocol
        Counting protocol, one of :data:`kinet_trt.core.protocols.NAMES`; None for none.

    Raises
    ------
    KinetError
        If a folder or pattern contains no image, there is no such protocol or its hot spot has another size, or a
        density is not from 0 to 3. A file that cannot be counted is in ``errors`` of the result.
    """
    several = [paths] if isinstance(paths, (str, Path)) else paths
    files = find_images([Path(path) for path in several], slides=True)
    stain = StainRules(positive_above, h_cuts)
    check_protocol(protocol, hot_spot)
    return count_files(
        files,
        counter or NucleusCounter(),
        mpp,
        region=region,
        hot_spot=hot_spot,
        stain=stain,
        hot_spots=hot_spots,
        protocol=protocol,
        pool=pool,
    )


def count_files(
    files: Iterable[Path],
    counter: NucleusCounter,
    mpp: float | None = None,
    *,
    region: Region | None = None,
    hot_spot: int = HOT_SPOT,
    stain: StainRules = StainRules(),  # noqa: B008
    hot_spots: int | None = None,
    protocol: str | None = None,
    pool: bool = False,
    outputs: Outputs | None = None,
    on_counted: Callable[[CountResult, Frame | Thumbnail], None] | None = None,
    tile_counter: TileCounter | None = None,
    on_tiles: Callable[[int, int], None] = lambda _done, _total: None,
    notify: Callable[[str], None] = log.info,
) -> CountRun:
    """Count image files and slides. A file that cannot be counted does not affect the others.

    ``mpp`` defaults to each file's, else the model's; a slide must have its own. With a region, which is for slides,
    images are errors. ``pool`` adds up the results: the files are of one case. ``on_counted`` is called after each file
    with its result and its pixels, of a slide a thumbnail. For ``tile_counter``, ``on_tiles``,
    ``notify`` and Ctrl-C see :func:`kinet_trt.slides.count.count_slide`.
    """
    results: list[CountResult] = []
    errors: list[tuple[Path, str]] = []

    def count(file: Path) -> tuple[CountResult, Frame | Thumbnail, Callable[[], NDArray[np.uint8]]]:
        if is_slide(file):
            slide, small = count_slide(
                counter,
                file,
                mpp,
                region=region,
                hot_spot=hot_spot,
                stain=stain,
                hot_spots=hot_spots,
                protocol=protocol,
                tile_counter=tile_counter,
                report=on_tiles,
                notify=notify,
            )
            return slide, small, lambda: heat_map(slide, small)
        if region:
            raise KinetError("a region is for slides only, and this is an image")
        image, frame = count_image(counter, file, mpp, hot_spot, stain, hot_spots, protocol)
        return image, frame, lambda: draw(frame, image.detections, image.mpp)

    for file in files:
        try:
            result, pixels, overlay = count(file)
            results.append(result)
            if on_counted:
                on_counted(result, pixels)
            if outputs:
                outputs.write(result, overlay)
        except KinetError as error:
            errors.append((file, str(error)))
    return CountRun(counter, tuple(results), tuple(errors), PooledCount.of(results) if pool else None)
