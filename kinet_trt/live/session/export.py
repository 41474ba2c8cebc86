"""Export of a session: tables of nuclei and of fields, GeoJSON with pictures for QuPath, figures of fields."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import NAMES, Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.hot_spot import HOT_SPOT, find_hot_spot
from kinet_trt.io import overlay
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.io.tables import Row
from kinet_trt.live.session.edits import EditedNuclei
from kinet_trt.live.session.merge import FieldNuclei
from kinet_trt.live.session.records import Field, Session
from kinet_trt.live.session.region import Polygon, Region
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import SessionCount, summarise

COLUMNS = ("field", "nucleus", "x", "y", "place", "x_um", "y_um", "class", "model_class", "score", "by", "counted")


def file_name(session: Session, content: str) -> str:
    """Return a file name with case, date and content, such as ``Case-12_2026-11-28_nuclei.csv``."""
    case = re.sub(r"[^\w.-]+", "-", session.title).strip("-._")[:60] or f"session-{session.id}"
    return f"{case}_{datetime.fromtimestamp(session.created):%Y-%m-%d}_{content}"


def states(edited: EditedNuclei) -> NDArray[np.str_]:
    """Return the state of each nucleus: ``model``, ``removed``, ``added``, ``confirmed`` or ``reclassified``."""
    conditions = [edited.last_edit < 0, edited.removed, edited.model_cls < 0, edited.model_cls == edited.cls]
    return np.select(conditions, ["model", "removed", "added", "confirmed"], "reclassified")


def nuclei_csv(counted: SessionCount) -> str:
    """Return a CSV with one row per nucleus and field, removed ones included.

    ``counted`` is 1 for the nuclei of the session.

    ``x`` and ``y`` are px of the field, pixel centres at integers; ``x_um`` and ``y_um`` um from the corner of the
    first field of the group of aligned fields, whose number is ``place``; ``model_class`` and ``score`` are empty for
    added nuclei.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for field, nuclei in zip(counted.fields, counted.field_nuclei, strict=True):
        edited, at = nuclei.edited, counted.layout.placed[field.id]
        own, state = counted.merged.counted[field.id], states(edited)
        for k in np.flatnonzero(~edited.removed | (edited.last_edit >= 0)):
            by_model = edited.model_cls[k] >= 0
            x, y = float(edited.x[k]), float(edited.y[k])
            table.writerow(
                [
                    *(field.number, int(k), round(x, 2), round(y, 2), at.group + 1),
                    *(round((x + 0.5) * field.mpp + at.x, 2), round((y + 0.5) * field.mpp + at.y, 2)),
                    edited.classes[edited.cls[k]],
                    edited.classes[edited.model_cls[k]] if by_model else "",
                    round(min(max(float(edited.score[k]), -65504.0), 65504.0), 4) if by_model else "",
                    *(state[k], int(own[k])),
                ]
            )
    return text.getvalue()


def summary_rows(counted: SessionCount, session: Session, hot_spot: int = HOT_SPOT) -> tuple[list[Row], Row]:
    """Return one row per field, and one for the session, with nuclei in overlaps counted once."""
    rows = [
        _row(field, nuclei, session, hot_spot, counted.domain_warnings.get(field.id, ""))
        for field, nuclei in zip(counted.fields, counted.field_nuclei, strict=True)
    ]
    summary = summarise(counted, hot_spot=hot_spot)
    scales = {(row.mpp, row.mpp_known) for row in rows}
    mpp, known = scales.pop() if len(scales) == 1 else (None, "several")
    total = Row(
        picture=f"all {len(rows)} fields, overlaps counted once",
        counts=summary.counts,
        hot_spot=summary.hot_spot.ki67 if summary.hot_spot else None,
        mpp=mpp,
        mpp_known=known,
        model="; ".join(dict.fromkeys(row.model for row in rows)),
        warnings=(*filter(None, [summary.statement.warning]), *summary.cautions),
        case=session.title,
    )
    return rows, total


def _row(field: Field, nuclei: FieldNuclei, session: Session, hot_spot: int, domain_warning: str) -> Row:
    counted = nuclei.detections()
    spot = find_hot_spot(counted, field.mpp, hot_spot)
    return Row(
        picture=f"field {field.number}",
        counts=counted.counts(),
        hot_spot=spot.ki67 if spot else None,
        mpp=field.mpp,
        mpp_known=HOW_KNOWN[field.mpp_source],
        model=f"{field.model.card.name}, {field.model.precision}",
        warnings=_warnings(field, domain_warning),
        case=session.title,
    )


def _warnings(field: Field, domain_warning: str) -> tuple[str, ...]:
    """Return the warnings that belong to the numbers of a field."""
    assumed = "The pixel size is only assumed." if field.mpp_source == "model" else ""
    region = "Limited to a region." if field.region is not None else ""
    return tuple(filter(None, (domain_warning, assumed, region)))


def geojson(nuclei: FieldNuclei, region: Region | None, counted: NDArray[np.bool_]) -> str:
    """Return the nuclei of a field as a GeoJSON FeatureCollection for QuPath, to be opened with the field's picture.

    The region is an annotation. ``counted``: which nuclei count in the session, bool [n].
    """
    edited = nuclei.edited
    areas: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x + 0.5, y + 0.5] for x, y in (*ring, ring[0])]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Region*"}},
        }
        for ring in outlines(region)
    ]
    kept = np.flatnonzero(~edited.removed)
    score = np.nan_to_num(edited.score[kept])
    points = Detections(edited.x[kept], edited.y[kept], edited.cls[kept], score, edited.classes).features()
    for k, point in zip(kept, points, strict=True):
        measurements = point["properties"]["measurements"]
        measurements["counted"] = int(counted[k])
        if edited.model_cls[k] < 0:  # added by a person
            del measurements["score"]
    return json.dumps({"type": "FeatureCollection", "features": areas + points}, allow_nan=False)


def outlines(region: Region | None) -> list[list[tuple[float, float]]]:
    """Return the outlines of a region, px of the frame; for a mask with holes the outer ones."""
    if region is None:
        return []
    if isinstance(region, Polygon):
        return [list(region.points)]
    found, _ = cv2.findContours(region.inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = [np.asarray(ring, float).reshape(-1, 2) for ring in found]
    return [[(float(x), float(y)) for x, y in ring] for ring in rings if len(ring) > 2]


def write_geojson(store: Store, counted: SessionCount, folder: Path, *, force: bool = False) -> list[Path]:
    """Write ``field-001.geojson`` and its picture ``field-001.png`` for each field; return the paths.

    KinetError if a file exists and ``force`` is False, or cannot be written.
    """
    names = [f"field-{field.number:03d}" for field in counted.fields]
    targets = [folder / f"{name}{suffix}" for name in names for suffix in (".png", ".geojson")]
    existing = [path for path in targets if os.path.lexists(path)]
    if existing and not force:
        raise KinetError(f"{existing[0]} exists already ({len(existing)} such files): force replaces them")
    for field, nuclei, name in zip(counted.fields, counted.field_nuclei, names, strict=True):
        write_atomic(folder / f"{name}.png", store.fields.png(field.id))
        drawn = geojson(nuclei, field.region, counted.merged.counted[field.id])
        write_atomic(folder / f"{name}.geojson", drawn)
    return targets


def figure(store: Store, counted: SessionCount, field: int) -> bytes:
    """Return a field, by its number in the session, with its nuclei, legend and scale bar as PNG."""
    known = {one.number: (one, nuclei) for one, nuclei in zip(counted.fields, counted.field_nuclei, strict=True)}
    if field not in known:
        raise KinetError(f"expected a field of this session, found number {field}")
    one, nuclei = known[field]
    edited, own = nuclei.edited, counted.merged.counted[one.id]
    by_hand = edited.last_edit >= 0
    marks = []
    for small, hand in ((True, False), (False, False), (False, True)):
        kind = ~edited.removed & (~own if small else own & (by_hand == hand))
        for k, name in enumerate(edited.classes):
            chosen = kind & (edited.cls == k)
            if not chosen.any():
                continue
            words = NAMES.get(name, name)
            words = f"{words}, not counted here" if small else f"{words}, set by hand" if hand else words
            places = np.stack([edited.x[chosen], edited.y[chosen]], axis=1).astype(float)
            marks.append(overlay.Marks(words, name, places, small, hand))
    ki67 = nuclei.detections().ki67
    caption = [f"Field {one.number}", f"{datetime.fromtimestamp(one.time):%Y-%m-%d %H:%M}", f"{one.mpp:.4g} µm/px"]
    if ki67.index is not None and ki67.interval is not None:
        low, high = ki67.interval
        caption.append(
            f"Ki67 index {100 * ki67.index:.1f}% ({ki67.positive:,} of {ki67.tumor:,} tumour nuclei; 95% interval "
            f"{100 * low:.1f}% to {100 * high:.1f}%)"
        )
    caption += _warnings(one, counted.domain_warnings.get(one.id, ""))
    drawn = overlay.figure(store.fields.pixels(one.id), marks, one.mpp, " · ".join(caption), outlines(one.region))
    return overlay.to_png(drawn)
