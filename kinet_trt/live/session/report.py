"""Report of a session: one self-contained HTML file for screen and print.

It contains no path, and no name except those that were typed for it. `kinet_trt.report` has what it shares with the
report of counted files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from kinet_trt.core.errors import KinetError
from kinet_trt.core.ki67 import NET, Bands
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.live.session import report_pictures as pictures
from kinet_trt.live.session.agreement import ReaderAgreement
from kinet_trt.live.session.edits import REVERSALS, Edit, active
from kinet_trt.live.session.merge import FieldNuclei
from kinet_trt.live.session.records import Field, Session
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.stain import dab_density
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import HOT_SPOT, SessionCount, Summary, summarise
from kinet_trt.report import drawings
from kinet_trt.report.page import class_name, moment, named, render, stain_section, typed

MAX_ENTRIES = 300
"""Edits that the table lists."""

# Longer side of a field's picture, px; the smaller one from this number of fields on.
_PICTURE_SIDE, _SMALL_PICTURE_SIDE, _MANY_FIELDS = 960, 640, 24


def build(
    store: Store, session: int, *, bands: Bands | None = NET, hot_spot: int = HOT_SPOT, protocol: str | None = None
) -> str:
    """Return the report of a session, by its id, as HTML.

    ``bands`` are the grade ranges; with None the report mentions none. ``hot_spot`` is the number of tumour nuclei in a
    hot spot; ``protocol`` is one of :data:`kinet_trt.core.protocols.NAMES`.
    """
    live = OpenSession(store, session)
    counted = live.count()
    summary = summarise(counted, hot_spot=hot_spot, bands=bands, protocol=protocol)
    statement = summary.statement
    indices = [ki67 for ki67 in (summary.ki67, statement.hot_spot) if ki67 and ki67.interval]
    highest = max((ki67.interval[1] for ki67 in indices if ki67.interval), default=0.0)
    readings = store.readings.in_session(session)
    ids = {field.id for field in counted.fields}
    fields = [_field(store, counted, *pair) for pair in zip(counted.fields, counted.field_nuclei, strict=True)]
    edits = [one for one in store.edits.in_session(session) if one.reading == readings[0].id and one.field in ids]
    draw_interval = partial(drawings.interval, bands=None if statement.no_range else statement.bands, highest=highest)
    return render(
        "kinet_trt.live.session",
        "session.html.jinja",
        title=live.session.title,
        session=live.session,
        readings=readings,
        times=[field.time for field in counted.fields],
        summary=summary,
        statement=statement,
        hot_spot_size=hot_spot,
        draw_interval=draw_interval,
        progress=pictures.progress(summary),
        entries=_facts(summary),
        mosaics=_mosaics(store, counted, summary),
        fields=fields,
        stain=_stain(fields),
        legend=pictures.legend(dict.fromkeys(n for field in counted.fields for n in field.detections.classes)),
        how_known=HOW_KNOWN,
        notes=store.notes.in_session(session),
        edits=_edits(edits, counted),
        recounts=[(reading, live.agreement(reading)) for reading in readings[1:]],
        class_table=_class_table,
        methods=_methods(counted),
    )


def listing(store: Store) -> list[str]:
    """Return one line per session: its id, start, number of fields and title."""
    lines = []
    for session in store.sessions.all():
        fields = len(store.fields.in_session(session.id))
        unit = "field " if fields == 1 else "fields"
        lines.append(f"{session.id:4d}  {moment(session.created)}  {fields:4d} {unit}  {session.title}")
    return lines or ["This file contains no session."]


def choose(store: Store, session: int | None) -> Session:
    """Return a session by its id, or the only one of a file."""
    if session is not None:
        return store.sessions.get(session)
    known = store.sessions.all()
    if len(known) == 1:
        return known[0]
    if not known:
        raise KinetError(f"{store.path}: expected a session, found none in this file")
    some = "; ".join(f"{one.id} {one.title!r}" for one in known[-8:])
    raise KinetError(
        f"{store.path}: {len(known)} sessions in this file: choose one with --session N ({some}); without -o all are "
        "listed"
    )


# --- contents of the sections -----------------------------------------------------------------------------------------


def _facts(summary: Summary) -> list[tuple[str, str, str]]:
    """Return name, value and comment of the figures below the index."""
    density = f"{summary.ki67.tumor / summary.area_mm2:,.0f} tumour nuclei/mm²" if summary.area_mm2 else ""
    return [
        *((name.capitalize(), f"{number:,}", "nuclei") for name, number in named(summary.counts)),
        ("Tumour nuclei", f"{summary.ki67.tumor:,}", "positive and negative"),
        ("Mean of the fields", drawings.percent(summary.mean_of_fields), "each field has the same weight"),
        ("Fields", f"{summary.fields:,}", f"in {summary.group_count:,} group{'' if summary.group_count == 1 else 's'}"),
        ("Area counted", f"{summary.area_mm2:.3f} mm²", density),
        ("In overlaps", f"{summary.repeats:,}", "(counted once)"),
        ("Corrected by hand", f"{summary.corrected:,}", "nuclei added, confirmed or reclassified"),
    ]


def _mosaics(store: Store, counted: SessionCount, summary: Summary) -> list[Markup]:
    groups: dict[int, list[Field]] = {}
    for field in counted.fields:
        groups.setdefault(counted.layout.placed[field.id].group, []).append(field)
    return [
        pictures.mosaic(store, counted, group, fields, summary) for group, fields in groups.items() if len(fields) > 1
    ]


def _field(store: Store, counted: SessionCount, field: Field, nuclei: FieldNuclei) -> dict[str, Any]:
    counts = ", ".join(f"{number:,} {name}" for name, number in named(nuclei.detections().counts()))
    in_session = counted.merged.counted[field.id]
    pixels = store.fields.pixels(field.id)
    density = dab_density(field, nuclei.edited, pixels)
    side = _SMALL_PICTURE_SIDE if len(counted.fields) > _MANY_FIELDS else _PICTURE_SIDE
    return {
        "field": field,
        "drawing": pictures.field(field, nuclei, in_session, pixels, side, counts),
        "counts": counts,
        "counted": int(in_session.sum()),
        "ki67": nuclei.detections().ki67,
        "density": {
            name: density[in_session & (nuclei.edited.cls == c)] for c, name in enumerate(nuclei.edited.classes)
        },
    }


def _stain(fields: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the histogram and the medians of the density of DAB of tumour nuclei; None without tumour nuclei."""
    density = {
        name: np.concatenate([*(one["density"].get(name, []) for one in fields), []]).astype(np.float32)
        for name in ("positive", "negative")
    }
    return stain_section(density)


def _edits(edits: Sequence[Edit], counted: SessionCount) -> dict[str, Any]:
    """Return the table of edits, and the number of active edits by kind."""
    numbers = {field.id: field.number for field in counted.fields}
    by_field = {one.id: one.edited for one in counted.field_nuclei}
    active_ids = {one.id for one in active(edits)}
    rows = []
    for one in edits[:MAX_ENTRIES]:
        kind = one.kind if one.id in active_ids or one.kind in REVERSALS else f"{one.kind} (undone)"
        number, model, result = "", "", ""
        if one.nucleus >= 0:  # other edits are about the region of the field
            nuclei = by_field[one.field]
            cls = nuclei.model_cls[one.nucleus]
            number, model = str(one.nucleus), class_name(nuclei.classes[cls]) if cls >= 0 else "no nucleus"
            result = class_name(one.cls) if one.cls else "no nucleus" if one.kind == "remove" else ""
        rows.append([moment(one.time), typed(one.reader), numbers[one.field], number, kind, model, result])
    kinds = Counter(one.kind for one in edits if one.id in active_ids)
    return {
        "rows": rows,
        "more": len(edits) - len(rows),
        "active": {kind: kinds[kind] for kind in ("add", "remove", "reclassify")},
        "undone": sum(one.kind not in REVERSALS and one.id not in active_ids for one in edits),
    }


def _class_table(agreement: ReaderAgreement) -> list[list[str]]:
    return [
        [class_name(name), *(f"{number:,}" for number in row)]
        for name, row in zip(agreement.classes, agreement.table, strict=True)
    ]


def _methods(counted: SessionCount) -> dict[str, Any]:
    models: dict[tuple[str, ...], list[int]] = {}
    pixel_sizes: dict[tuple[str, str], list[int]] = {}
    for field in counted.fields:
        card = field.model.card
        key = (card.name, card.model_sha256, card.network, field.model.runtime, field.model.precision)
        models.setdefault((*key, str(field.threshold)), []).append(field.number)
        pixel_sizes.setdefault((f"{field.mpp:.4g}", HOW_KNOWN[field.mpp_source]), []).append(field.number)
    return {
        "models": [[name, *rest, _ranges(numbers)] for (name, _, *rest), numbers in models.items()],
        "hashes": list(dict.fromkeys((name, sha) for name, sha, *_ in models)),
        "pixel_sizes": [[*key, _ranges(numbers)] for key, numbers in pixel_sizes.items()],
    }


def _ranges(numbers: Sequence[int]) -> str:
    """Return "1–4, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
