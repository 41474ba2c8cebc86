"""Merge overlapping fields into one list in which each nucleus occurs once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.live.session.edits import EditedNuclei
from kinet_trt.live.session.layout import Layout
from kinet_trt.live.session.pairing import pair
from kinet_trt.live.session.region import contains
from kinet_trt.live.session.registration import MATCH_UM

_COLUMNS = ("group", "x", "y", "cls", "field", "nucleus", "seen", "corrected")  # of `Merged`
_MERGED = np.dtype(list(zip(_COLUMNS, ("i4", "f8", "f8", "u1", "i8", "i8", "i4", "?"), strict=True)))
_MIN_STEP_UM, _MAX_PIXELS = 0.5, 1 << 22  # of the canvas on which areas are added


@dataclass(frozen=True, eq=False)
class FieldNuclei:
    """A field with its nuclei in one reading, as input of :func:`merge`."""

    id: int
    width: int  # px
    height: int
    mpp: float  # um/px
    edited: EditedNuclei
    region: NDArray[np.bool_] | None = None  # region that counts, [height, width]; None if the whole field counts

    def in_region(self) -> NDArray[np.bool_]:
        """Return the mask of its nuclei, removed ones included, that lie in its region, bool [n]."""
        return contains(self.region, self.width, self.height, self.edited.x, self.edited.y)

    def detections(self) -> Detections:
        """Return the nuclei that count in this field, whether or not another field shows them too."""
        return self.edited.detections(self.in_region())


@dataclass(frozen=True, eq=False)
class Merged:
    """Nuclei of a session, each once."""

    group: NDArray[np.int32]  # number of its group of aligned fields, [n]
    x: NDArray[np.float64]  # centre in its group, um
    y: NDArray[np.float64]
    cls: NDArray[np.uint8]  # index in `classes`
    field: NDArray[np.int64]  # id of the field it is taken from
    nucleus: NDArray[np.int64]  # its number in that field
    seen: NDArray[np.int32]  # number of fields that show it
    corrected: NDArray[np.bool_]  # set by an edit
    classes: tuple[str, ...]
    counted: Mapping[int, NDArray[np.bool_]]  # by field: mask of its nuclei that are in this list
    repeats: int  # number of sightings left out because another field shows the same nucleus

    def __len__(self) -> int:
        return len(self.x)

    def counts(self) -> dict[str, int]:
        """Return the number of nuclei of each class, zeros included."""
        numbers = np.bincount(self.cls, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, numbers, strict=True)}


def merge(fields: Sequence[FieldNuclei], layout: Layout, radius: float = MATCH_UM) -> Merged:
    """Count each nucleus of several fields, in the order of capture, once.

    Sightings of one nucleus, at most one per field, are grouped if they lie within ``radius`` um of the mean of the
    others; its position is their mean. Among the fields that show that position within their region, the one that shows
    it furthest from its edge decides whether there is a nucleus and of which class, since the network sees most context
    there. Within the radius of the edge, where that field may miss the nucleus, another field's sighting is enough.
    Edits take precedence: the last edit of any sighting decides.
    """
    classes = tuple(dict.fromkeys([*CLASSES, *(name for field in fields for name in field.edited.classes)]))
    groups = _by_group(fields, layout)
    parts = [_decide(group, _gather(group, layout, radius, classes), layout, radius) for group in groups]
    merged = np.concatenate([np.empty(0, _MERGED), *parts])
    counted = {}
    for field in fields:
        counted[field.id] = np.zeros(len(field.edited), np.bool_)
        counted[field.id][merged["nucleus"][merged["field"] == field.id]] = True
    total = sum(int((field.in_region() & ~field.edited.removed).sum()) for field in fields)
    columns: dict[str, Any] = {name: np.ascontiguousarray(merged[name]) for name in _COLUMNS}
    return Merged(**columns, classes=classes, counted=counted, repeats=max(0, total - len(merged)))


def _by_group(fields: Sequence[FieldNuclei], layout: Layout) -> list[list[FieldNuclei]]:
    groups: dict[int, list[FieldNuclei]] = {}
    for field in fields:
        groups.setdefault(layout.placed[field.id].group, []).append(field)
    return [groups[number] for number in sorted(groups)]


@dataclass(frozen=True, eq=False)
class _Sightings:
    """Sightings in the fields of a group, removed nuclei included, by nucleus.

    Per sighting: ``owner`` and ``number``: index of its field and number in it; ``nucleus``: index of its nucleus;
    ``cls``: its class in the session's classes; ``in_region``: whether it is in its field's region; ``removed``,
    ``last_edit``: as in :class:`EditedNuclei`. Per nucleus: ``x``, ``y``: mean position, um.
    """

    owner: NDArray[np.intp]
    number: NDArray[np.intp]
    nucleus: NDArray[np.intp]
    cls: NDArray[np.intp]
    in_region: NDArray[np.bool_]
    removed: NDArray[np.bool_]
    last_edit: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def _gather(fields: Sequence[FieldNuclei], layout: Layout, radius: float, classes: tuple[str, ...]) -> _Sightings:
    """Find the sightings of each nucleus in the fields of a group, field by field."""
    sum_x, sum_y, seen = np.empty(0), np.empty(0), np.empty(0)
    parts: list[tuple[NDArray[Any], ...]] = []
    for index, field in enumerate(fields):
        edited = field.edited
        # Leave out nuclei whose addition was undone.
        number = np.flatnonzero(~edited.removed | (edited.last_edit >= 0))
        x, y = (positions[number] for positions in _positions(field, layout))
        # Compare only with nuclei near this field: constant time per field.
        mean_x, mean_y = sum_x / seen, sum_y / seen
        near = np.empty(0, np.intp)
        if len(x):
            near = np.flatnonzero(
                (mean_x >= x.min() - radius)
                & (mean_x <= x.max() + radius)
                & (mean_y >= y.min() - radius)
                & (mean_y <= y.max() + radius)
            )
        new, known, _ = pair(x, y, mean_x[near], mean_y[near], radius)
        nucleus = np.full(len(x), -1, np.intp)
        nucleus[new] = near[known]
        fresh = nucleus < 0
        nucleus[fresh] = len(seen) + np.arange(int(fresh.sum()))
        zeros = np.zeros(int(fresh.sum()))
        sum_x, sum_y, seen = (np.concatenate([old, zeros]) for old in (sum_x, sum_y, seen))
        sum_x[nucleus] += x
        sum_y[nucleus] += y
        seen[nucleus] += 1
        translate = np.array([classes.index(name) for name in edited.classes], np.intp)
        owner, cls = np.full(len(x), index, np.intp), translate[edited.cls[number]]
        in_region = field.in_region()[number]
        parts.append((owner, number, nucleus, cls, in_region, edited.removed[number], edited.last_edit[number]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _Sightings(*[*columns, sum_x / seen, sum_y / seen])


def _decide(fields: Sequence[FieldNuclei], seen: _Sightings, layout: Layout, radius: float) -> NDArray[np.void]:
    """Return the nuclei of a group of fields that count, `_MERGED` [n]."""
    n = len(seen.x)
    # For each nucleus the field that shows it furthest from the edge.
    depth, deciding_field = np.full(n, -np.inf), np.full(n, -1, np.intp)
    for index, field in enumerate(fields):
        at = layout.placed[field.id]
        width, height = field.width * field.mpp, field.height * field.mpp
        x, y = seen.x - at.x, seen.y - at.y
        margin = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y))
        better = np.flatnonzero((margin >= 0) & (margin > depth))
        if field.region is not None:
            px, py = x[better] / field.mpp - 0.5, y[better] / field.mpp - 0.5
            better = better[contains(field.region, field.width, field.height, px, py)]
        depth[better], deciding_field[better] = margin[better], index
    # For each nucleus the deciding sighting, by rank: the last edit; the field chosen above; at an edge any other.
    is_deciding = seen.owner == deciding_field[seen.nucleus]
    at_edge = depth[seen.nucleus] < radius
    rank = np.where(is_deciding, 1.0, np.where(at_edge & seen.in_region, 0.0, -1.0))
    is_edited = (seen.last_edit >= 0) & (seen.in_region | is_deciding)
    rank = np.where(is_edited, 2.0 + seen.last_edit, rank)
    order = np.lexsort((-seen.owner, rank, seen.nucleus))
    last = order[np.flatnonzero(np.append(np.diff(seen.nucleus[order]) > 0, True))] if len(order) else order
    chosen = last[(rank[last] >= 0) & ~seen.removed[last]]
    nucleus = seen.nucleus[chosen]
    times = np.bincount(seen.nucleus[~seen.removed], minlength=n)
    merged = np.empty(len(chosen), _MERGED)
    merged["group"] = layout.placed[fields[0].id].group
    merged["x"], merged["y"] = seen.x[nucleus], seen.y[nucleus]
    merged["cls"] = seen.cls[chosen]
    merged["field"] = np.array([field.id for field in fields])[seen.owner[chosen]]
    merged["nucleus"] = seen.number[chosen]
    merged["seen"] = np.maximum(times[nucleus], 1)
    merged["corrected"] = seen.last_edit[chosen] >= 0
    return merged


def _positions(field: FieldNuclei, layout: Layout) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions of a field's nuclei in its group, um."""
    at = layout.placed[field.id]
    x = (field.edited.x.astype(np.float64) + 0.5) * field.mpp + at.x
    y = (field.edited.y.astype(np.float64) + 0.5) * field.mpp + at.y
    return x, y


def area_mm2(fields: Sequence[FieldNuclei], layout: Layout) -> float:
    """Return the counted area of the fields, mm2, with overlaps counted once."""
    total = 0.0
    for group in _by_group(fields, layout):
        if len(group) == 1:
            field = group[0]
            pixels = field.width * field.height if field.region is None else int(field.region.sum())
            total += pixels * field.mpp**2 / 1e6
        else:
            total += _union(group, layout) / 1e6
    return total


def _union(fields: Sequence[FieldNuclei], layout: Layout) -> float:
    """Return the area of the union of fields, um2, from an antialiased drawing of all fields."""
    boxes = [
        (at.x, at.y, at.x + field.width * field.mpp, at.y + field.height * field.mpp)
        for field in fields
        for at in (layout.placed[field.id],)
    ]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    step = max(_MIN_STEP_UM, math.sqrt((right - left) * (bottom - top) / _MAX_PIXELS))
    canvas = np.zeros((math.ceil((bottom - top) / step) + 2, math.ceil((right - left) / step) + 2), np.float32)
    for field, (x0, y0, x1, y1) in zip(fields, boxes, strict=True):
        columns, rows = math.ceil((x1 - x0) / step) + 2, math.ceil((y1 - y0) / step) + 2
        column, row = math.floor((x0 - left) / step), math.floor((y0 - top) / step)
        if field.region is None:
            # Fraction of each pixel of the canvas that lies between two edges of the field.
            column_shares = _covered((x0 - left) / step - column, (x1 - left) / step - column, columns)
            row_shares = _covered((y0 - top) / step - row, (y1 - top) / step - row, rows)
            drawn = np.outer(row_shares, column_shares).astype(np.float32)
        else:
            scale = step / field.mpp
            # From canvas pixels, which start at integers, to px of the field, whose centres are at integers.
            shrunk = cv2.blur(field.region.astype(np.float32), (max(1, round(scale)),) * 2)
            move = np.array(
                [
                    [scale, 0.0, ((column + 0.5) * step - (x0 - left)) / field.mpp - 0.5],
                    [0.0, scale, ((row + 0.5) * step - (y0 - top)) / field.mpp - 0.5],
                ]
            )
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            drawn = np.asarray(cv2.warpAffine(shrunk, move, (columns, rows), flags=flags), np.float32)
        to = canvas[row : row + rows, column : column + columns]
        np.maximum(to, drawn[: to.shape[0], : to.shape[1]], out=to)
    return float(canvas.sum(dtype=np.float64)) * step * step


def _covered(start: float, stop: float, n: int) -> NDArray[np.float64]:
    """Return, for each of n unit intervals from 0, the fraction that lies between start and stop."""
    edge = np.arange(n)
    return np.asarray(np.clip(np.minimum(edge + 1, stop) - np.maximum(edge, start), 0, 1), np.float64)
