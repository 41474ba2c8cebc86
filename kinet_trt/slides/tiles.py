"""Tiles of a slide: their pixels at the model's scale, and the nuclei that they own.

What a tile gives depends on its arguments alone: any process that opens the same slide and model gives the same. A
nucleus belongs to the one tile whose core holds its peak, and neighbouring windows hold the same pixels where they
overlap, so in FP32 no nucleus is lost or counted twice at a seam, at any scale, and a slide's nuclei are those of one
picture of it (`NucleusCounter` on the whole level). In other precisions, what a core shows may depend on its window in
the last bits: there the counts agree within 0.1%.
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
from kinet_trt.slides.plan import Plan
from kinet_trt.slides.slide import Slide

READ_AHEAD = 2
"""Windows that are read and scaled while the network looks at another: at most so many wait in memory."""


def check(slide: Slide, plan: Plan, counter: NucleusCounter) -> None:
    """Raise a KinetError unless a plan was made for this slide and this counter."""
    card = counter.engine.card
    for what, planned, found in (
        ("the slide", plan.fingerprint, slide.fingerprint),
        ("the model", plan.model_sha256, card.model_sha256),
        ("the threshold", str(plan.threshold), str(counter.threshold.value)),
        ("the precision", plan.precision, counter.engine.precision),
    ):
        if planned != found:
            raise KinetError(f"{what} is not the plan's: expected {planned[:12]}, found {found[:12]}")
    if counter.threshold.relative:
        raise KinetError("a slide needs an absolute threshold")


def count_tiles(
    slide: Slide, plan: Plan, numbers: Sequence[int], counter: NucleusCounter
) -> Iterator[tuple[int, Detections]]:
    """Count tiles of a slide.

    Parameters
    ----------
    slide
        Open; the one that the plan was made for.
    plan
        The plan.
    numbers
        Numbers of the tiles, from ``plan.tiles``.
    counter
        With the plan's model, threshold and precision.

    Yields
    ------
    number, nuclei
        In the order of ``numbers``; px of level 0, in raster order.

    Raises
    ------
    KinetError
        If slide or counter do not match the plan, or a tile cannot be decoded.
    """
    check(slide, plan, counter)
    ahead: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()
    waiting = iter(numbers)
    with ThreadPoolExecutor(1, "read") as reader:
        try:
            while True:
                for number in islice(waiting, READ_AHEAD + 1 - len(ahead)):
                    ahead.append((number, reader.submit(window, slide, plan, number)))
                if not ahead:
                    return
                number, pixels = ahead.popleft()
                yield number, find(counter, plan, number, pixels.result())
        finally:
            for _, pixels in ahead:
                pixels.cancel()


def window(slide: Slide, plan: Plan, number: int) -> NDArray[np.uint8]:
    """Read the window of a tile at the model's scale, RGB uint8 [H, W, 3].

    Raises
    ------
    ImageError
        If it cannot be decoded.
    """
    tile = plan.tile_of(number)
    return plan.scaling.window(
        lambda x, y, width, height: slide.read(plan.level, x, y, width, height),
        tile.window_left,
        tile.window_top,
        tile.window_right - tile.window_left,
        tile.window_bottom - tile.window_top,
    )


def find(counter: NucleusCounter, plan: Plan, number: int, pixels: NDArray[np.uint8]) -> Detections:
    """Return the nuclei that a tile owns, px of level 0, in raster order.

    Parameters
    ----------
    counter
        The plan's.
    plan, number
        Which tile.
    pixels
        Its :func:`window`.
    """
    own = plan.tile_of(number).own(find_nuclei(counter.engine, pixels, counter.threshold.value))
    own = own.where((own.x < plan.scaling.width) & (own.y < plan.scaling.height))
    own = own.where(np.lexsort((own.x, own.y)))
    across, down = plan.model_per_slide
    found = replace(own, x=rescale(own.x, 1 / across), y=rescale(own.y, 1 / down))
    return found.where(plan.region.contains(found.x, found.y)) if plan.region else found
