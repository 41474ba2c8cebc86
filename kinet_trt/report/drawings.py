"""Drawings of a report: pixels as embedded JPEG, everything else as SVG, which prints sharply."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import cv2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from kinet_trt.core.detections import NAMES
from kinet_trt.core.ki67 import Bands, Ki67
from kinet_trt.io.overlay import round_length

_BIN, _MIN_DENSITY, _MAX_DENSITY = 0.05, 0.6, 2.5
"""Width of a bin, and smallest and largest end of the scale of the histogram, optical density."""
SHAPES = ("positive", "negative", "non_tumor")
"""Classes with a shape and a colour of their own."""


def interval(ki67: Ki67, bands: Bands | None, highest: float) -> Markup:
    """Return a drawing of the index and its interval, on a scale with the bands that reaches ``highest``."""
    if ki67.index is None or ki67.interval is None:
        return Markup()
    low, high = ki67.interval
    top = min(1.0, max(0.25 if bands else 0.1, math.ceil(highest * 1.15 * 20) / 20))
    width, left = 620.0, 10.0

    def at(value: float) -> float:
        return left + width * value / top

    parts = []
    cuts = [0.0, *(c for c in (bands.cuts if bands else ()) if c < top), top]
    for k, (start, stop) in enumerate(pairwise(cuts)):
        parts.append(f'<rect class="band" x="{at(start):.1f}" y="24" width="{at(stop) - at(start):.1f}" height="34"/>')
        if bands:
            middle = (at(start) + at(stop)) / 2
            parts.append(f'<text x="{middle:.1f}" y="16" text-anchor="middle">{escape(bands.names[k])}</text>')
    parts += [f'<path class="cut" d="M{at(cut):.1f} 20V62"/>' for cut in cuts[1:-1]]
    parts.append(f'<rect class="span" x="{at(low):.1f}" y="30" width="{max(2, at(high) - at(low)):.1f}" height="22"/>')
    parts.append(f'<path class="point" d="M{at(ki67.index):.1f} 29l7 12l-7 12l-7 -12z"/>')
    for tick in cuts if at(cuts[1]) - left > 50 else cuts[1:]:
        anchor = "start" if tick == 0 else "end" if tick == top else "middle"
        parts.append(f'<text x="{at(tick):.1f}" y="76" text-anchor="{anchor}">{100 * tick:g}%</text>')
    return Markup(  # noqa: S704 - numbers and escaped names
        f'<svg class="scale" viewBox="0 0 640 84" role="img" aria-label="Index {percent(ki67.index)}, 95% interval '
        f'{interval_text(ki67)}">{"".join(parts)}</svg>'
    )


def density_histogram(density: Mapping[str, NDArray[np.floating]]) -> Markup:
    """Return histograms of optical densities by class, one below the other, each with a scale of its own.

    Densities below the first bin or above the last are in these.
    """
    widest = max((float(values.max()) for values in density.values() if len(values)), default=0.0)
    top = min(_MAX_DENSITY, max(_MIN_DENSITY, math.ceil(widest / _BIN) * _BIN))
    bins = round(top / _BIN)
    left, width, height, gap = 150.0, 480.0, 60.0, 14.0
    parts, words = [], []
    for row, (name, values) in enumerate(density.items()):
        numbers = np.bincount(np.clip((values / _BIN + 1e-4).astype(np.intp), 0, bins - 1), minlength=bins)
        base, most = (row + 1) * height + row * gap, max(1, int(numbers.max()))
        for number, at in zip(numbers, left + width / bins * np.arange(bins), strict=True):
            if number:
                tall = (height - 4) * number / most
                parts.append(
                    f'<rect class="bin {css_class(name)}" x="{at + 0.5:.1f}" y="{base - tall:.1f}" '
                    f'width="{width / bins - 1:.1f}" height="{tall:.1f}"/>'
                )
        label = NAMES.get(name, name)
        parts.append(f'<path class="axis" d="M{left:.0f} {base:.0f}h{width:.0f}"/>')
        parts.append(f'<text x="0" y="{base - 24:.0f}">{escape(label)}</text>')
        parts.append(f'<text x="0" y="{base - 8:.0f}">highest bar: {numbers.max():,}</text>')
        words.append(f"{len(values):,} {label}")
    bottom = len(density) * (height + gap) + 4
    parts += [
        f'<text x="{left + width * tick / top:.1f}" y="{bottom:.0f}" text-anchor="middle">{tick:.1f}</text>'
        for tick in np.arange(0, top + _BIN / 2, 0.2 if top <= 1.2 else 0.5)
    ]
    return Markup(  # noqa: S704 - numbers and escaped names
        f'<svg class="scale" viewBox="0 0 640 {bottom + 8:.0f}" role="img" aria-label="DAB optical density of '
        f'{escape(" and ".join(words))} nuclei">{"".join(parts)}</svg>'
    )


def scale_bar(width: float, height: float, mpp: float = 1.0) -> tuple[str, str]:
    """Return a scale bar of a round length for a picture, SVG, and its length as text.

    ``width`` and ``height`` are those of the picture, in units of ``mpp`` µm.
    """
    length = round_length(width * mpp / 5)
    bar = (
        f'<rect class="bar" x="{width * 0.02:.1f}" y="{height - width * 0.02:.1f}" width="{length / mpp:.1f}" '
        f'height="{width * 0.006:.2f}"/>'
    )
    return bar, f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm"


def outlined(path: str, css: str) -> str:
    """Return a path in the colour of a CSS class on a white outline."""
    return f'<path class="case" d="{path}"/><path class="mark {css}" d="{path}"/>'


def mark(name: str, places: Iterable[tuple[float, float]], r: float) -> str:
    """Return a path with the shape of a class at each place: circle, square, triangle; a diamond for other classes."""
    if name == "positive":
        return dot(places, r)
    if name == "negative":
        s = 0.86 * r
        return "".join(f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z" for x, y in places)
    if name == "non_tumor":
        w, h = 1.05 * r, 1.8 * r
        return "".join(f"M{x:.1f} {y - 1.15 * r:.1f}l{w:.1f} {h:.1f}h{-2 * w:.1f}z" for x, y in places)
    return "".join(f"M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z" for x, y in places)


def dot(places: Iterable[tuple[float, float]], r: float) -> str:
    """Return a path of discs."""
    return "".join(
        f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0"
        for x, y in places
    )


def plus(places: Iterable[tuple[float, float]], r: float) -> str:
    """Return a path of upright crosses."""
    return "".join(f"M{x - r:.1f} {y:.1f}h{2 * r:.1f}M{x:.1f} {y - r:.1f}v{2 * r:.1f}" for x, y in places)


def cross(places: Iterable[tuple[float, float]], r: float) -> str:
    """Return a path of slanted crosses."""
    return "".join(
        f"M{x - r:.1f} {y - r:.1f}l{2 * r:.1f} {2 * r:.1f}M{x - r:.1f} {y + r:.1f}l{2 * r:.1f} {-2 * r:.1f}"
        for x, y in places
    )


def symbol(path: str, css: str) -> Markup:
    """Return a symbol for a legend, from a path within -10 to 10."""
    return Markup(f'<svg viewBox="-10 -10 20 20" aria-hidden="true">{outlined(path, css)}</svg>')  # noqa: S704


def class_legend(classes: Iterable[str]) -> list[tuple[Markup, str]]:
    """Return the symbols of classes of nuclei and the names of the classes."""
    return [(symbol(mark(name, [(0, 0)], 7), css_class(name)), NAMES.get(name, name)) for name in classes]


def css_class(name: str) -> str:
    """Return the CSS class of a class of nuclei."""
    return name if name in SHAPES else "other"


def shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a picture whose longer side has at most ``side`` px."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def photo(pixels: NDArray[np.uint8], width: float, height: float, corner: float = 0.0) -> str:
    """Return an SVG image of RGB pixels, scaled to a size; ``corner`` is x and y of its upper left corner."""
    return (
        f'<image x="{corner:g}" y="{corner:g}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" '
        f'href="{data_uri(pixels)}"/>'
    )


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return RGB pixels as the data URI of a JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 86])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def percent(share: float | None) -> str:
    """Return a fraction in percent with one decimal."""
    return "–" if share is None else f"{100 * share:.1f}%"


def interval_text(ki67: Ki67) -> str:
    """Return the interval of an index as text."""
    assert ki67.interval is not None
    low, high = ki67.interval
    return f"{100 * low:.1f}% to {100 * high:.1f}%"
