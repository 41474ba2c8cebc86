"""Does a slide look like the training data? `kinet_trt.quality.domain_check` judges some of its tiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.quality.domain_check import Cause, describe, find_causes, measure_field
from kinet_trt.slides.plan import Plan
from kinet_trt.slides.results_db import Ledger
from kinet_trt.slides.slide import Slide
from kinet_trt.slides.tiles import window

JUDGED = 5
"""Tiles that are looked at: those with most nuclei are the surest to show tissue."""


def unlike(slide: Slide, plan: Plan, ledger: Ledger, mpp: float) -> str:
    """Say in which way most of the tiles are unlike the training data; empty where they are not.

    Parameters
    ----------
    slide, plan, ledger
        A slide that is counted.
    mpp
        The model's um/px.

    Raises
    ------
    KinetError
        If a tile cannot be read any more.
    """
    tally, judged = Counter[Cause](), 0
    for number in ledger.fullest(JUDGED):
        tile, nuclei = plan.tile_of(number), ledger.tile(number)
        across, down = plan.model_per_slide
        x, y = rescale(nuclei.x, across) - tile.window_left, rescale(nuclei.y, down) - tile.window_top
        inside = replace(nuclei, x=x, y=y)
        signs = measure_field(Frame(window(slide, plan, number), mpp), inside, mpp)
        if signs is not None:
            judged += 1
            tally.update(find_causes(signs))
    return describe(tuple(cause for cause, n in tally.items() if 2 * n > judged), plan.mpp, slide=True)
