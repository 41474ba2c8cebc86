"""One list of nuclei of overlapping fields, each nucleus once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES
from kinet_trt.live.session.edits import EditedNuclei
from kinet_trt.live.session.pairing import pair
from kinet_trt.live.session.region import holds
from kinet_trt.live.session.registration import MATCH_UM, Layout

_FINEST_UM, _MOST_PIXELS = 0.5, 1 << 22  # of the canvas on which areas are added up


@dataclass(frozen=True, eq=False)
class FieldNuclei:
    """A field as it is merged.

    Attributes
    ----------
    field
        Which.
    width, height
        px.
    mpp
        um/px.
    answer
        Its nuclei in one reading.
    region
        What counts of it, bool [height, width]; None: all.
    """

    field: int
    width: int
    height: int
    mpp: float
    answer: EditedNuclei
    region: NDArray[np.bool_] | None = None

    def inside(self) -> NDArray[np.bool_]:
        """Return which of its nuclei, removed ones included, lie in its region, bool [n]."""
        return holds(self.region, self.width, self.height, self.answer.x, self.answer.y)


@dataclass(frozen=True, eq=False)
class Merged:
    """The nuclei of a session, each once.

    Attributes
    ----------
    place
        The place of each, int32 [n].
    x, y
        um in its place, float64 [n].
    cls
        Index in ``classes``, uint8 [n].
    field
        The field that decides on it, int64 [n].
    nucleus
        Its number there, int64 [n].
    seen
        In how many fields it was seen, int32 [n].
    corrected
        Whether a person decided, bool [n].
    classes
        Class names.
    counted
        By field: which of its nuclei stand in this list, bool [nuclei of the field].
    repeats
        Nuclei that would have been counted more than once: what fields hold beyond this list.
    """

    place: NDArray[np.int32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    cls: NDArray[np.uint8]
    field: NDArray[np.int64]
    nucleus: NDArray[np.int64]
    seen: NDArray[np.int32]
    corrected: NDArray[np.bool_]
    classes: tuple[str, ...]
    counted: Mapping[int, NDArray[np.bool_]]
    repeats: int

    def __len__(self) -> int:
        return len(self.x)

    def counts(self) -> dict[str, int]:
        """Return the number of nuclei of each class, zeros included."""
        numbers = np.bincount(self.cls, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, numbers, strict=True)}


def merge(field_nuclei: Sequence[FieldNuclei], layout: Layout, radius: float = MATCH_UM) -> Merged:
    """Count each nucleus of several fields once.

    Sightings of one nucleus in several fields, at most one a field, are gathered; the nucleus stands at their mean. Of
    the fields that show that place (and count it: their region), the one that shows it furthest from its edge decides
    whether there is a nucleus and of which class: the network sees most there. Where the edge is nearer than the
    radius, so that a nucleus may have slipped out of the picture, another field's sighting counts. A person's word
    goes before any field's: the last correction of any sighting decides.

    Parameters
    ----------
    field_nuclei
        The fields, in the order of capture.
    layout
        Where they lie.
    radius
        Largest distance of a sighting from the others' mean, um.
    """
    classes = tuple(dict.fromkeys([*CLASSES, *(name for piece in field_nuclei for name in piece.answer.classes)]))
    gathered = [_gather(group, layout, radius, classes) for group in _by_place(field_nuclei, layout)]
    parts = [
        _decide(group, seen, layout, radius)
        for group, seen in zip(_by_place(field_nuclei, layout), gathered, strict=True)
    ]
    counted = {piece.field: np.zeros(len(piece.answer), np.bool_) for piece in field_nuclei}
    total = 0
    for piece in field_nuclei:
        total += int((piece.inside() & ~piece.answer.removed).sum())
    columns = [np.concatenate([part[k] for part in parts]) if parts else np.empty(0) for k in range(8)]
    place, x, y, cls, field, nucleus, seen_in, corrected = columns
    for name, number in zip(field.astype(np.int64), nucleus.astype(np.int64), strict=True):
        counted[int(name)][number] = True
    return Merged(
        *(place.astype(np.int32), x.astype(np.float64), y.astype(np.float64), cls.astype(np.uint8)),
        *(field.astype(np.int64), nucleus.astype(np.int64), seen_in.astype(np.int32), corrected.astype(np.bool_)),
        *(classes, counted, max(0, total - len(x))),
    )


def _by_place(field_nuclei: Sequence[FieldNuclei], layout: Layout) -> list[list[FieldNuclei]]:
    groups: dict[int, list[FieldNuclei]] = {}
    for piece in field_nuclei:
        groups.setdefault(layout.placed[piece.field].place, []).append(piece)
    return [groups[place] for place in sorted(groups)]


@dataclass(frozen=True, eq=False)
class _Sightings:
    """All nuclei of a place's fields, removed ones included, and which of them are the same.

    ``owner`` and ``number``: index of the field in its group and number there; ``group``: which nucleus it is;
    ``x``, ``y``: mean of each nucleus, um; ``cls``: class of each sighting, in the session's classes; ``inside``: in
    its field's region; ``removed``, ``touched``: as in :class:`EditedNuclei`.
    """

    owner: NDArray[np.intp]
    number: NDArray[np.intp]
    group: NDArray[np.intp]
    cls: NDArray[np.intp]
    inside: NDArray[np.bool_]
    removed: NDArray[np.bool_]
    touched: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def _gather(field_nuclei: Sequence[FieldNuclei], layout: Layout, radius: float, classes: tuple[str, ...]) -> _Sightings:
    """Find the sightings of one nucleus in the fields of a place, field by field."""
    sum_x, sum_y, seen = np.empty(0), np.empty(0), np.empty(0)
    parts: list[tuple[NDArray[Any], ...]] = []
    for index, piece in enumerate(field_nuclei):
        answer = piece.answer
        # A nucleus that was added and undone was never there.
        number = np.flatnonzero(~answer.removed | (answer.touched >= 0))
        x, y = (places[number] for places in _places(piece, layout))
        # Only nuclei about this field can be met; looking them all through would grow with the session.
        mean_x, mean_y = sum_x / seen, sum_y / seen
        near = np.empty(0, np.intp)
        if len(x):
            near = np.flatnonzero(
                (mean_x >= x.min() - radius)
                & (mean_x <= x.max() + radius)
                & (mean_y >= y.min() - radius)
                & (mean_y <= y.max() + radius)
            )
        mine, known, _ = pair(x, y, mean_x[near], mean_y[near], radius)
        group = np.full(len(x), -1, np.intp)
        group[mine] = near[known]
        fresh = group < 0
        group[fresh] = len(seen) + np.arange(int(fresh.sum()))
        grown = np.zeros(int(fresh.sum()))
        sum_x, sum_y, seen = (np.concatenate([old, grown]) for old in (sum_x, sum_y, seen))
        sum_x[group] += x
        sum_y[group] += y
        seen[group] += 1
        translate = np.array([classes.index(name) for name in answer.classes], np.intp)
        owner, cls, inside = np.full(len(x), index, np.intp), translate[answer.cls[number]], piece.inside()[number]
        parts.append((owner, number, group, cls, inside, answer.removed[number], answer.touched[number]))
    owner, number, group, cls, inside, removed, touched = (np.concatenate(c) for c in zip(*parts, strict=True))
    return _Sightings(owner, number, group, cls, inside, removed, touched, sum_x / seen, sum_y / seen)


def _decide(
    field_nuclei: Sequence[FieldNuclei], seen: _Sightings, layout: Layout, radius: float
) -> list[NDArray[np.float64]]:
    """Return place, x, y, class, field, number, sightings and corrected of the nuclei that count."""
    n = len(seen.x)
    # The field that shows each nucleus furthest from its own edge.
    depth, judge = np.full(n, -np.inf), np.full(n, -1, np.intp)
    for index, piece in enumerate(field_nuclei):
        at = layout.placed[piece.field]
        width, height = piece.width * piece.mpp, piece.height * piece.mpp
        x, y = seen.x - at.x, seen.y - at.y
        own = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y))
        better = np.flatnonzero((own >= 0) & (own > depth))
        if piece.region is not None:
            px, py = x[better] / piece.mpp - 0.5, y[better] / piece.mpp - 0.5
            better = better[holds(piece.region, piece.width, piece.height, px, py)]
        depth[better], judge[better] = own[better], index
    # For each nucleus the sighting that decides, by rank: a person's last word; the judge; at an edge any other.
    judged = seen.owner == judge[seen.group]
    edge = depth[seen.group] < radius
    rank = np.where(judged, 1.0, np.where(edge & seen.inside, 0.0, -1.0))
    by_person = (seen.touched >= 0) & (seen.inside | judged)
    rank = np.where(by_person, 2.0 + seen.touched, rank)
    order = np.lexsort((-seen.owner, rank, seen.group))
    last = order[np.flatnonzero(np.append(np.diff(seen.group[order]) > 0, True))] if len(order) else order
    chosen = last[(rank[last] >= 0) & ~seen.removed[last]]
    group = seen.group[chosen]
    times = np.bincount(seen.group[~seen.removed], minlength=n)
    fields = np.array([piece.field for piece in field_nuclei], np.float64)
    place = layout.placed[field_nuclei[0].field].place
    return [
        np.full(len(chosen), place, np.float64),
        seen.x[group],
        seen.y[group],
        seen.cls[chosen].astype(np.float64),
        fields[seen.owner[chosen]],
        seen.number[chosen].astype(np.float64),
        np.maximum(times[group], 1).astype(np.float64),
        (seen.touched[chosen] >= 0).astype(np.float64),
    ]


def _places(piece: FieldNuclei, layout: Layout) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nuclei of a field, um in its place."""
    at = layout.placed[piece.field]
    x = (piece.answer.x.astype(np.float64) + 0.5) * piece.mpp + at.x
    y = (piece.answer.y.astype(np.float64) + 0.5) * piece.mpp + at.y
    return x, y


def area_mm2(field_nuclei: Sequence[FieldNuclei], layout: Layout) -> float:
    """Return the area that the fields count, mm2, where they overlap once."""
    total = 0.0
    for group in _by_place(field_nuclei, layout):
        if len(group) == 1:
            piece = group[0]
            pixels = piece.width * piece.height if piece.region is None else int(piece.region.sum())
            total += pixels * piece.mpp**2 / 1e6
        else:
            total += _union(group, layout) / 1e6
    return total


def _union(field_nuclei: Sequence[FieldNuclei], layout: Layout) -> float:
    """Return the area of overlapping fields, um2: each is drawn on one canvas, soft at its edge."""
    boxes = [
        (at.x, at.y, at.x + piece.width * piece.mpp, at.y + piece.height * piece.mpp)
        for piece in field_nuclei
        for at in (layout.placed[piece.field],)
    ]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    step = max(_FINEST_UM, math.sqrt((right - left) * (bottom - top) / _MOST_PIXELS))
    canvas = np.zeros((math.ceil((bottom - top) / step) + 2, math.ceil((right - left) / step) + 2), np.float32)
    for piece, (x0, y0, x1, y1) in zip(field_nuclei, boxes, strict=True):
        columns, rows = math.ceil((x1 - x0) / step) + 2, math.ceil((y1 - y0) / step) + 2
        column, row = math.floor((x0 - left) / step), math.floor((y0 - top) / step)
        if piece.region is None:
            # How much of each square of the canvas lies between two edges.
            across = _covered((x0 - left) / step - column, (x1 - left) / step - column, columns)
            down = _covered((y0 - top) / step - row, (y1 - top) / step - row, rows)
            drawn = np.outer(down, across).astype(np.float32)
        else:
            scale = step / piece.mpp
            # Squares of the canvas to px of the field; px centres are integers, squares begin at them.
            shrunk = cv2.blur(piece.region.astype(np.float32), (max(1, round(scale)),) * 2)
            move = np.array(
                [
                    [scale, 0.0, ((column + 0.5) * step - (x0 - left)) / piece.mpp - 0.5],
                    [0.0, scale, ((row + 0.5) * step - (y0 - top)) / piece.mpp - 0.5],
                ]
            )
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            drawn = np.asarray(cv2.warpAffine(shrunk, move, (columns, rows), flags=flags), np.float32)
        to = canvas[row : row + rows, column : column + columns]
        np.maximum(to, drawn[: to.shape[0], : to.shape[1]], out=to)
    return float(canvas.sum(dtype=np.float64)) * step * step


def _covered(start: float, stop: float, n: int) -> NDArray[np.float64]:
    """Return how much of each of n unit steps lies between start and stop."""
    edge = np.arange(n)
    return np.asarray(np.clip(np.minimum(edge + 1, stop) - np.maximum(edge, start), 0, 1), np.float64)
