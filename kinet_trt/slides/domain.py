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
"""Number of tiles that are checked: those with most nuclei, as they are most likely to show tissue."""


def domain_warning(slide: Slide, plan: Plan, results: ResultsDB, mpp: float) -> str:
    """Return a warning if most of the checked tiles are unlike the training data, else an empty string.

    Parameters
    ----------
    slide, plan, results
        A slide whose tiles are counted.
    mpp
        The model's um/px.

    Raises
    ------
    KinetError
        If a tile can no longer be read.
    """
    votes, checked = Counter[Cause](), 0
    across, down = plan.model_per_slide
    for number in results.fullest(CHECKED_TILES):
        tile, nuclei = plan.tile_of(number), results.tile(number)
        x, y = rescale(nuclei.x, across) - tile.window_left, rescale(nuclei.y, down) - tile.window_top
        inside = replace(nuclei, x=x, y=y)
        signs = measure_field(Frame(read_window(slide, plan, number), mpp), inside, mpp)
        if signs is not None:
            checked += 1
            votes.update(find_causes(signs))
    return describe(tuple(cause for cause, n in votes.items() if 2 * n > checked), plan.mpp, slide=True)
