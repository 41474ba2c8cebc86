"""Domain check of a slide: `kinet_trt.quality.domain_check` on some of its tiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.quality.domain_check import Cause, describe, find_causes, measure_field
from kinet_trt.slides.plan import Plan
from kinet_trt.slides.results_db import ResultsDB
from kinet_trt.slides.slide import Slide
from kinet_trt.slides.tiles import read_window

CHECKED_TILES = 5
"""Number of tiles to check: those with the most nuclei, because they are most likely to show tissue."""


def domain_warning(slide: Slide, plan: Plan, results: ResultsDB, mpp: float) -> str:
    """Return a warning if most of the checked tiles are out-of-distribution, else an empty string.

    Parameters
    ----------
    slide, plan, results
        A slide, its plan and its counted tiles.
    mpp
        The model's um/px.

    Raises
    ------
    KinetError
        If a tile cannot be read.
    """
    cause_counts, checked = Counter[Cause](), 0
    scale_x, scale_y = plan.model_per_slide
    for number in results.tiles_with_most_nuclei(CHECKED_TILES):
        tile, nuclei = plan.tile_of(number), results.tile(number)
        x, y = rescale(nuclei.x, scale_x) - tile.window_left, rescale(nuclei.y, scale_y) - tile.window_top
        in_window = replace(nuclei, x=x, y=y)
        features = measure_field(Frame(read_window(slide, plan, number), mpp), in_window, mpp)
        if features is not None:
            checked += 1
            cause_counts.update(find_causes(features))
    return describe(tuple(cause for cause, n in cause_counts.items() if 2 * n > checked), plan.mpp, slide=True)
