"""Tiles of a slide: their pixels at the model's scale, and their nuclei.

The result for a tile depends on the arguments alone: every process that opens the same slide and model computes the
same. A nucleus belongs to the tile whose core contains its peak (the rule of `kinet_trt.inference.tiling`), and the
pixels of neighbouring windows are equal where they overlap. In FP32, no nucleus is lost or counted twice at a seam, and
the nuclei of a slide equal those of the whole level as one image. In other precisions, maps may depend on the window in
the last bits: counts agree within 0.1%.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.geometry import rescale
from kinet_trt.inference.counter import NucleusCounter, find_nuclei
from kinet_trt.quality.dab import dab_at
from kinet_trt.slides.plan import Plan
from kinet_trt.slides.slide import Slide

READ_AHEAD = 2
"""Number of windows that are read and scaled ahead of the network."""


def check_plan(slide: Slide, plan: Plan, counter: NucleusCounter) -> None:
    """Raise a KinetError unless a plan was made for this slide and this counter."""
    card = counter.engine.card
    for name, planned, found in (
        ("the slide", plan.fingerprint, slide.fingerprint),
        ("the model", plan.model_sha256, card.model_sha256),
        ("the threshold", str(plan.threshold), str(counter.threshold.value)),
        ("the precision", plan.precision, counter.engine.precision),
    ):
        if planned != found:
            raise KinetError(f"{name} differs from the plan's: expected {planned[:12]}, found {found[:12]}")
    if counter.threshold.relative:
        raise KinetError("threshold: expected an absolute threshold for a slide, found a relative one")


def count_tiles(
    slide: Slide, plan: Plan, numbers: Sequence[int], counter: NucleusCounter
) -> Iterator[tuple[int, Detections]]:
    """Count tiles of a slide.

    Parameters
    ----------
    slide
        The open slide of the plan.
    plan
        The plan.
    numbers
        Numbers from ``plan.tiles``.
    counter
        A counter with the model, threshold and precision of the plan.

    Yields
    ------
    number, nuclei
        One item per tile, in the order of ``numbers``; its nuclei are in raster order, px of level 0.

    Raises
    ------
    KinetError
        If slide or counter do not match the plan, or a tile cannot be decoded.
    """
    check_plan(slide, plan, counter)
    ahead: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()
    remaining = iter(numbers)
    with ThreadPoolExecutor(1, "read") as reader:
        try:
            while True:
                for number in islice(remaining, READ_AHEAD + 1 - len(ahead)):
                    ahead.append((number, reader.submit(read_window, slide, plan, number)))
                if not ahead:
                    return
                number, pixels = ahead.popleft()
                yield number, count_window(counter, plan, number, pixels.result())
        finally:
            for _, pixels in ahead:
                pixels.cancel()


def read_window(slide: Slide, plan: Plan, number: int) -> NDArray[np.uint8]:
    """Read the window of a tile at the model's scale, RGB uint8 [H, W, 3]."""
    tile = plan.tile_of(number)
    return plan.scaling.window(
        lambda x, y, width, height: slide.read(plan.level, x, y, width, height),
        tile.window_left,
        tile.window_top,
        tile.window_right - tile.window_left,
        tile.window_bottom - tile.window_top,
    )


def count_window(counter: NucleusCounter, plan: Plan, number: int, pixels: NDArray[np.uint8]) -> Detections:
    """Return the nuclei in a tile's core and the counted region, px of level 0; ``pixels`` is its window."""
    tile = plan.tile_of(number)
    nuclei = tile.keep_core(find_nuclei(counter.engine, pixels, counter.threshold.value))
    nuclei = nuclei.where((nuclei.x < plan.scaling.width) & (nuclei.y < plan.scaling.height))
    nuclei = nuclei.where(np.lexsort((nuclei.x, nuclei.y)))
    x, y = nuclei.x - tile.window_left, nuclei.y - tile.window_top
    nuclei = replace(nuclei, dab=dab_at(pixels, x, y, counter.card.mpp, plan.white))
    scale_x, scale_y = plan.model_px_per_slide_px
    found = replace(nuclei, x=rescale(nuclei.x, 1 / scale_x), y=rescale(nuclei.y, 1 / scale_y))
    return found.where(plan.region.contains(found.x, found.y)) if plan.region else found
