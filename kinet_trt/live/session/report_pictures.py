"""Pictures in the report of a session: progress, groups of fields, fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from kinet_trt.io.overlay import RING_UM
from kinet_trt.live.session.edits import EditedNuclei
from kinet_trt.live.session.export import outlines, states
from kinet_trt.live.session.merge import FieldNuclei
from kinet_trt.live.session.records import Field
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import GOALS, SessionCount, Summary
from kinet_trt.report.drawings import (
    class_legend,
    cross,
    css_class,
    dot,
    mark,
    outlined,
    photo,
    plus,
    scale_bar,
    shrunk,
    symbol,
)

MOSAIC = 1400
"""Longer side of a mosaic, px."""


def progress(summary: Summary) -> Markup:
    """Return a drawing of the progress towards :data:`GOALS`."""
    rows = []
    for k, (goal, share) in enumerate(zip(GOALS, summary.progress, strict=True)):
        y = 4 + 24 * k
        rows.append(
            f'<rect class="track" x="10" y="{y}" width="400" height="14" rx="3"/>'
            f'<rect class="done" x="10" y="{y}" width="{400 * share:.1f}" height="14" rx="3"/>'
            f'<text x="420" y="{y + 12}">{min(summary.ki67.tumor, goal):,} of {goal:,} tumour nuclei</text>'
        )
    return Markup(  # noqa: S704 - numbers
        f'<svg class="scale" viewBox="0 0 640 50" role="img" aria-label="{summary.ki67.tumor:,} tumour nuclei of the '
        f'{" and ".join(f"{goal:,}" for goal in GOALS)} recommended">{"".join(rows)}</svg>'
    )


def mosaic(store: Store, counted: SessionCount, group: int, fields: Sequence[Field], summary: Summary) -> Markup:
    """Return a drawing of a group of aligned fields with their numbers, the hot spot and a scale bar."""
    at = counted.layout.placed
    left, top = min(at[f.id].x for f in fields), min(at[f.id].y for f in fields)
    right = max(at[f.id].x + f.width * f.mpp for f in fields)
    bottom = max(at[f.id].y + f.height * f.mpp for f in fields)
    step = max((right - left) / MOSAIC, (bottom - top) / MOSAIC, min(f.mpp for f in fields))
    canvas = np.full((math.ceil((bottom - top) / step), math.ceil((right - left) / step), 3), 236, np.uint8)
    frames, numbers = [], []
    # The first field is drawn last, on top.
    for field in reversed(fields):
        x, y = at[field.id].x - left, at[field.id].y - top
        width, height = field.width * field.mpp, field.height * field.mpp
        column, row = round(x / step), round(y / step)
        size = (max(1, round(width / step)), max(1, round(height / step)))
        small = np.asarray(cv2.resize(store.fields.pixels(field.id), size, interpolation=cv2.INTER_AREA), np.uint8)
        to = canvas[row : row + size[1], column : column + size[0]]
        to[...] = small[: to.shape[0], : to.shape[1]]
        frames.append(f'<rect class="frame" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>')
        font = min(width, height) / 6
        numbers.append(
            f'<text class="number" x="{x + width / 2:.1f}" y="{y + height / 2:.1f}" font-size="{font:.1f}">'
            f"{field.number}</text>"
        )
    spot = summary.hot_spot
    circle = (
        f'<circle class="spot" cx="{spot.x - left:.1f}" cy="{spot.y - top:.1f}" r="{spot.radius:.1f}"/>'
        if spot and spot.group == group
        else ""
    )
    span_x, span_y = right - left, bottom - top
    ruler, length = scale_bar(span_x, span_y)
    return Markup(  # noqa: S704 - numbers
        f'<figure><svg viewBox="0 0 {span_x:.1f} {span_y:.1f}" role="img" aria-label="{len(fields)} aligned fields">'
        f"{photo(canvas, span_x, span_y)}"
        f"{''.join(frames)}{circle}{''.join(numbers)}{ruler}</svg>"
        f"<figcaption>Group {group + 1}: {len(fields)} fields. Scale bar: {length}.</figcaption></figure>"
    )


def field(
    field: Field, nuclei: FieldNuclei, in_session: NDArray[np.bool_], pixels: NDArray[np.uint8], side: int, label: str
) -> Markup:
    """Return a drawing of a field with its nuclei, edits and region; the picture has at most ``side`` px.

    ``in_session``: which nuclei count in the session, bool [n]; ``label``: counts by class, for screen readers.
    """
    edited = nuclei.edited
    radius = max(2.0, RING_UM / field.mpp)
    exists = ~edited.removed
    shapes = []
    for c, name in enumerate(edited.classes):
        if points := _points(edited, in_session & (edited.cls == c)):
            shapes.append(outlined(mark(name, points, radius), css_class(name)))
    if away := _points(edited, exists & ~in_session):
        shapes.append(f'<path class="away" d="{dot(away, radius * 0.38)}"/>')
    state = states(edited)
    for which, draw, size in (
        (exists & (state == "added"), plus, radius * 0.7),
        (exists & np.isin(state, ("reclassified", "confirmed")), dot, radius * 0.25),
        (state == "removed", cross, radius * 0.6),
    ):
        if points := _points(edited, which):
            shapes.append(outlined(draw(points, size), "edited"))
    for ring in outlines(field.region):
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in ring)
        shapes.append(f'<polygon class="region" points="{corners}"/>')
    return Markup(  # noqa: S704 - numbers and an escaped label
        f'<svg viewBox="-0.5 -0.5 {field.width} {field.height}" role="img" aria-label="Field {field.number}: '
        f'{escape(label)}">{photo(shrunk(pixels, side), field.width, field.height, -0.5)}{"".join(shapes)}</svg>'
    )


def legend(classes: Iterable[str]) -> list[tuple[Markup, str]]:
    """Return the symbols of the fields and their meaning."""
    return [
        *class_legend(classes),
        (symbol(dot([(0, 0)], 2.5), "away"), "not counted here: counted in another field, or outside the region"),
        (symbol(plus([(0, 0)], 6), "edited"), "added by hand"),
        (symbol(dot([(0, 0)], 2.5), "edited"), "class set by hand"),
        (symbol(cross([(0, 0)], 5), "edited"), "removed by hand"),
    ]


def _points(nuclei: EditedNuclei, which: NDArray[np.bool_]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(nuclei.x[which], nuclei.y[which], strict=True)]
