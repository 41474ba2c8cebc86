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
_OPACITY = 0.6  # of the colours over the slide
_LEGEND_HEIGHT = 70  # px
_DARK, _WHITE = (40, 40, 40), 255


def heat_map(counted: CountedSlide, thumbnail: Thumbnail) -> NDArray[np.uint8]:
    """Draw two panels over the thumbnail of a slide: the Ki67 index, and all nuclei per mm2.

    Glass is not coloured. A white ring marks the hot spot, a dark outline the region. Each panel has a colour scale,
    and at most :data:`MAX_SIDE` px on its longer side. The nuclei are read once, row by row. Returns RGB, uint8.
    """
    rows, columns = thumbnail.pixels.shape[:2]
    factor = min(1.0, MAX_SIDE / max(rows, columns))
    width, height = max(1, round(columns * factor)), max(1, round(rows * factor))
    downsample = thumbnail.downsample * columns / width  # px of level 0
    slide = cv2.resize(thumbnail.pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    positive, tumor, total = _densities(counted, width, height, downsample)
    index = np.divide(positive, tumor, out=np.zeros_like(tumor), where=tumor > 0)
    tissue = cv2.resize(thumbnail.tissue().astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA) > 0
    visible = tissue & (tumor >= MIN_TUMOR_DENSITY)
    index_max = max(0.10, float(np.quantile(index[visible], 0.99)) if visible.any() else 0.0)
    density_max = max(100.0, float(total.max(initial=0)))
    panels = [
        _panel(slide, index / index_max, visible, "Ki67 index", f"{100 * index_max:.0f}%"),
        _panel(slide, total / density_max, tissue, "nuclei per mm2", f"{density_max:,.0f}"),
    ]
    for panel in panels:
        _draw_outlines(panel[:height], counted, downsample)
    gap = np.full((panels[0].shape[0], 10, 3), _WHITE, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _densities(counted: CountedSlide, width: int, height: int, downsample: float) -> Sequence[NDArray[np.float32]]:
    """Return positive, tumour and all nuclei per mm2, smoothed, float32 [height, width]."""
    maps = [np.zeros((height, width), np.float32) for _ in range(3)]
    classes = counted.plan.classes
    class_sets = [("positive",), ("positive", "negative"), classes]
    for part in counted.iter_detections():
        column = np.clip(((part.x + 0.5) / downsample).astype(np.intp), 0, width - 1)
        row = np.clip(((part.y + 0.5) / downsample).astype(np.intp), 0, height - 1)
        for density, names in zip(maps, class_sets, strict=True):
            matching = np.isin(part.cls, [classes.index(name) for name in names if name in classes])
            np.add.at(density, (row[matching], column[matching]), 1)
    mpp = downsample * counted.mpp
    per_mm2 = (1000 / mpp) ** 2
    sigma = SMOOTHING_UM / mpp
    return [np.asarray(cv2.GaussianBlur(density, (0, 0), sigma) * per_mm2, np.float32) for density in maps]


def _panel(
    slide: NDArray[np.uint8], values: NDArray[np.floating], visible: NDArray[np.bool_], title: str, scale_max: str
) -> NDArray[np.uint8]:
    """Return the slide with a map of values from 0 to 1 over it, and a colour scale up to ``scale_max`` below."""
    heat = _coloured(np.clip(values * 255, 0, 255).astype(np.uint8))
    mixed = slide.copy()
    mixed[visible] = np.rint(_OPACITY * heat[visible] + (1 - _OPACITY) * slide[visible]).astype(np.uint8)
    legend = np.full((_LEGEND_HEIGHT, slide.shape[1], 3), _WHITE, np.uint8)
    length = min(256, max(1, slide.shape[1] - 20))
    legend[30:42, 10 : 10 + length] = _coloured(np.linspace(0, 255, length).astype(np.uint8)[None])
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    for text, position in ((title, (10, 22)), ("0", (10, 60)), (scale_max, (max(24, length - 30), 60))):
        cv2.putText(legend, text, position, font, size, _DARK, 1, cv2.LINE_AA)
    return np.concatenate([mixed, legend])


def _coloured(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), np.uint8)


def _draw_outlines(panel: NDArray[np.uint8], counted: CountedSlide, downsample: float) -> None:
    if counted.plan.region:
        for shape in counted.plan.region.counted:
            for ring in shape:
                points = np.clip(np.rint((ring + 0.5) / downsample), -1e6, 1e6).astype(np.int32)
                cv2.polylines(panel, [points], isClosed=True, color=_DARK, thickness=2, lineType=cv2.LINE_AA)
    spots = [counted.hot_spot] if counted.hot_spot else []
    for spot in [*spots, *(spot for _, spot in counted.counted_fields() if spot not in spots)]:
        centre = round((spot.x + 0.5) / downsample), round((spot.y + 0.5) / downsample)
        radius = max(3, math.ceil(spot.radius / counted.mpp / downsample))
        cv2.circle(panel, centre, radius + 1, _DARK, 3, cv2.LINE_AA)
        cv2.circle(panel, centre, radius + 1, (255, 255, 255), 1, cv2.LINE_AA)
