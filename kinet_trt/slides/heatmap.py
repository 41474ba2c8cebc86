"""Heat map of a counted slide: Ki67 index and density of nuclei."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.slides.count import CountedSlide
from kinet_trt.slides.tissue import Thumbnail

MAX_SIDE = 2_000
"""Longer side of a panel, px."""
SMOOTHING_UM = 100.0
"""Standard deviation of the Gaussian that smooths index and density, um."""
MIN_TUMOR_DENSITY = 100.0
"""Tumour nuclei per mm2 below which no index is shown."""
_OPACITY = 0.6  # of the map over the slide
_LEGEND_HEIGHT = 70  # px
_INK, _PAPER = (40, 40, 40), 255


def heat_map(counted: CountedSlide, small: Thumbnail) -> NDArray[np.uint8]:
    """Draw two panels over the slide: the Ki67 index, and all nuclei per mm2.

    Glass is not coloured. A white ring marks the hot spot, a dark line the region. Each panel has its own colour scale.

    Parameters
    ----------
    counted
        The slide; its nuclei are read once, row by row.
    small
        Its thumbnail.

    Returns
    -------
    NDArray
        RGB, uint8; each panel at most 2,000 px a side.
    """
    rows, columns = small.pixels.shape[:2]
    factor = min(1.0, MAX_SIDE / max(rows, columns))
    width, height = max(1, round(columns * factor)), max(1, round(rows * factor))
    cell = small.cell * columns / width  # px of level 0
    slide = cv2.resize(small.pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    positive, tumor, total = _densities(counted, width, height, cell)
    index = np.divide(positive, tumor, out=np.zeros_like(tumor), where=tumor > 0)
    tissue = cv2.resize(small.tissue().astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA) > 0
    shown = tissue & (tumor >= MIN_TUMOR_DENSITY)
    top = max(0.10, float(np.quantile(index[shown], 0.99)) if shown.any() else 0.0)
    highest = max(100.0, float(total.max(initial=0)))
    panels = [
        _panel(slide, index / top, shown, "Ki67 index", f"{100 * top:.0f}%"),
        _panel(slide, total / highest, tissue, "nuclei per mm2", f"{highest:,.0f}"),
    ]
    for panel in panels:
        _draw_outlines(panel[:height], counted, cell)
    gap = np.full((panels[0].shape[0], 10, 3), _PAPER, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _densities(counted: CountedSlide, width: int, height: int, cell: float) -> Sequence[NDArray[np.float32]]:
    """Return positive, tumour and all nuclei per mm2, smoothed, float32 [height, width]."""
    maps = [np.zeros((height, width), np.float32) for _ in range(3)]
    classes = counted.plan.classes
    chosen = [("positive",), ("positive", "negative"), classes]
    for part in counted.iter_detections():
        column = np.clip(((part.x + 0.5) / cell).astype(np.intp), 0, width - 1)
        row = np.clip(((part.y + 0.5) / cell).astype(np.intp), 0, height - 1)
        for density, names in zip(maps, chosen, strict=True):
            kept = np.isin(part.cls, [classes.index(name) for name in names if name in classes])
            np.add.at(density, (row[kept], column[kept]), 1)
    um = cell * counted.mpp
    per_mm2 = (1000 / um) ** 2
    sigma = SMOOTHING_UM / um
    return [np.asarray(cv2.GaussianBlur(density, (0, 0), sigma) * per_mm2, np.float32) for density in maps]


def _panel(
    slide: NDArray[np.uint8], share: NDArray[np.floating], shown: NDArray[np.bool_], title: str, top: str
) -> NDArray[np.uint8]:
    """Return the slide with a map over it, and a colour scale from 0 to ``top`` below."""
    heat = _coloured(np.clip(share * 255, 0, 255).astype(np.uint8))
    mixed = slide.copy()
    mixed[shown] = np.rint(_OPACITY * heat[shown] + (1 - _OPACITY) * slide[shown]).astype(np.uint8)
    legend = np.full((_LEGEND_HEIGHT, slide.shape[1], 3), _PAPER, np.uint8)
    length = min(256, max(1, slide.shape[1] - 20))
    legend[30:42, 10 : 10 + length] = _coloured(np.linspace(0, 255, length).astype(np.uint8)[None])
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    for text, at in ((title, (10, 22)), ("0", (10, 60)), (top, (max(24, length - 30), 60))):
        cv2.putText(legend, text, at, font, size, _INK, 1, cv2.LINE_AA)
    return np.concatenate([mixed, legend])


def _coloured(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), np.uint8)


def _draw_outlines(panel: NDArray[np.uint8], counted: CountedSlide, cell: float) -> None:
    if counted.plan.region:
        for shape in counted.plan.region.counted:
            for ring in shape:
                points = np.clip(np.rint((ring + 0.5) / cell), -1e6, 1e6).astype(np.int32)
                cv2.polylines(panel, [points], isClosed=True, color=_INK, thickness=2, lineType=cv2.LINE_AA)
    if spot := counted.hot_spot:
        centre = round((spot.x + 0.5) / cell), round((spot.y + 0.5) / cell)
        radius = max(3, math.ceil(spot.radius / counted.mpp / cell))
        cv2.circle(panel, centre, radius + 1, _INK, 3, cv2.LINE_AA)
        cv2.circle(panel, centre, radius + 1, (255, 255, 255), 1, cv2.LINE_AA)
