"""JSON sent to the page: the state, a field with its nuclei, and a frame with its picture.

Lengths are in um, positions in a frame in px (pixel centres at integers), times in s since the epoch, shares are
fractions. Numbers of nuclei are keyed by class name.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import COLOURS, NAMES, OTHER_COLOUR
from kinet_trt.core.ki67 import Bands, Ki67, Statement
from kinet_trt.core.notice import NOTICE
from kinet_trt.io.overlay import RING_UM
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.live import clock
from kinet_trt.live.acquisition.loop import FrameResult
from kinet_trt.live.acquisition.presets import Preset
from kinet_trt.live.session.agreement import ReaderAgreement
from kinet_trt.live.session.records import Note
from kinet_trt.live.session.region import Polygon, Region
from kinet_trt.live.session.summary import GOALS, Summary
from kinet_trt.live.web.controller import CAPTURE_BLOCKERS, Controller
from kinet_trt.live.web.view import FieldView, Recount, SessionView

THUMBNAIL_WIDTH = 320
"""Width of a thumbnail, px."""
JPEG_QUALITY = 82
"""JPEG quality of frames and thumbnails."""
Json = dict[str, Any]


def state(controller: Controller, presets: tuple[Preset, ...]) -> Json:
    """Return everything that the page shows except pictures."""
    loop, view, region = controller.loop, controller.view, controller.region
    seen, held = controller.frames.latest, controller.frames.held
    status, counter, (mpp, mpp_source) = loop.status, loop.counter, loop.scale
    camera, card, engine = status.camera, counter.engine.card, counter.engine
    return {
        "type": "state",
        "clock": clock.now(),
        "notice": NOTICE,
        "camera": {
            "phase": camera.phase,
            "sentence": camera.sentence(),
            "why": camera.why,
            "retry_in": _rounded(camera.retry_in, 2),
            "name": camera.name,
            "fps": round(camera.fps, 1),
            "dropped": camera.dropped,
            "missed": camera.missed,
            "damaged": camera.bad,
            "width": camera.width,
            "height": camera.height,
        },
        "loop": {
            "phase": status.phase,
            "why": status.why,
            "fps": round(status.fps, 1),
            "p50": _rounded(status.shown_p50, 1),
            "p99": _rounded(status.shown_p99, 1),
            "counted": status.counted,
            "silent": round(status.silent, 1),
            "stalled": status.stalled,
        },
        "held": None if held is None else held.sequence,
        "scale": {
            "mpp": mpp,
            "source": mpp_source,
            "words": HOW_KNOWN[mpp_source],
            # Nothing is assumed before the first frame.
            "assumed": seen is not None and mpp_source == "model",
            "note": camera.mpp_note if seen else "",
        },
        "model": {
            "name": card.name,
            "precision": engine.precision,
            "runtime": engine.runtime,
            "classes": list(card.classes),
            "mpp": card.mpp,
            "sha256": card.model_sha256,
            "tumor_map": card.roi and not card.capacity,
        },
        "marks": _marks(card.classes),
        "threshold": str(counter.threshold),
        "fused": engine.detects,
        "auto": controller.auto,
        "blank": loop.corrected,
        "live_region": None if region is None or controller.blind else [list(point) for point in region.points],
        "presets": [{"name": one.name, "mpp": one.mpp} for one in presets],
        "joining": view.joining,
        "trouble": view.trouble or controller.auto_error,
        "session": _session(view, controller.hot_spot),
        "bands": _bands(controller.bands),
    }


def field(view: FieldView) -> Json:
    """Return a field as the page lists it."""
    field, ki67 = view.field, Ki67.from_counts(view.counts)
    return {
        "id": field.id,
        "number": field.number,
        "time": field.time,
        "width": field.width,
        "height": field.height,
        "mpp": field.mpp,
        "mpp_source": field.mpp_source,
        "automatic": field.automatic,
        "threshold": str(field.threshold),
        "counts": view.counts,
        "index": None if view.blind else ki67.index,
        "interval": None if view.blind else _pair(ki67.interval),
        "provisional": not view.blind and ki67.provisional,
        "unlike": None if view.blind else view.unlike or None,
        "corrections": view.corrections,
        "undoable": view.undoable,
        "redoable": view.redoable,
        "region": _outline(field.region),
        "place": view.placed.place if view.placed else None,
        "x": round(view.placed.x, 2) if view.placed else None,
        "y": round(view.placed.y, 2) if view.placed else None,
        "notes": [note.text for note in view.notes],
        "finished": view.finished,
    }


def nuclei(view: FieldView) -> Json:
    """Return a field with its nuclei, including removed ones."""
    answer = view.answer
    return {
        "field": field(view),
        "classes": list(answer.classes),
        "nuclei": {
            "n": list(range(len(answer))),
            "x": _tenths(answer.x),
            "y": _tenths(answer.y),
            "c": answer.cls.tolist(),
            "m": answer.model_cls.tolist(),
            "removed": answer.removed.tolist(),
            "touched": (answer.touched >= 0).tolist(),
            "counted": None if view.counted is None or len(view.counted) != len(answer) else view.counted.tolist(),
        },
    }


def frame(seen: FrameResult, width: int, *, blind: bool = False) -> bytes:
    """Return a frame as a message: length of the JSON (uint32, little-endian), the JSON, and a JPEG.

    Parameters
    ----------
    seen
        Frame and its count.
    width
        Maximum width of the picture, px.
    blind
        Leave out the count and the remarks, during a recount.
    """
    ki67, found = (None, None) if blind else (seen.ki67, seen.detections)
    head = {
        "frame": seen.sequence,
        "clock": seen.at,
        "number": seen.number,
        "time": seen.captured,
        "width": seen.frame.width,
        "height": seen.frame.height,
        "mpp": seen.mpp,
        "counts": None if found is None else found.counts(),
        "index": ki67.index if ki67 else None,
        "interval": _pair(ki67.interval) if ki67 else None,
        "provisional": ki67.provisional if ki67 else None,
        "unlike": None if blind else seen.unlike,
        "offered": seen.can_capture,
        "hindrances": list(seen.capture_blockers),
        "hindered": " ".join(
            CAPTURE_BLOCKERS[reason] for reason in seen.capture_blockers if reason in CAPTURE_BLOCKERS
        ),
        "rested": seen.rested,
        "sharpness": _rounded(seen.quality.sharpness, 3),
        "remarks": [] if blind else list(seen.remarks),
        "uncounted": seen.uncounted,
        "x": _tenths(found.x) if found is not None else [],
        "y": _tenths(found.y) if found is not None else [],
        "c": found.cls.tolist() if found is not None else [],
    }
    text = json.dumps(head, allow_nan=False).encode()
    return struct.pack("<I", len(text)) + text + jpeg(seen.frame.pixels, width)


def jpeg(pixels: NDArray[np.uint8], width: int, quality: int = JPEG_QUALITY) -> bytes:
    """Return RGB pixels [height, width, 3] as a JPEG of at most ``width`` px."""
    if pixels.shape[1] > width:
        height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def _marks(classes: Sequence[str]) -> Json:
    """Return radius, um, names and CSS colours of the marks."""

    def css(colour: Sequence[int]) -> str:
        return "#" + bytes(colour).hex()

    known = dict.fromkeys((*COLOURS, *classes))
    styles = {name: {"name": NAMES.get(name, name), "colour": css(COLOURS.get(name, OTHER_COLOUR))} for name in known}
    return {"radius": RING_UM, "classes": styles, "other": css(OTHER_COLOUR)}


def _session(view: SessionView, hot_spot: int) -> Json:
    recount = view.recount
    return {
        "id": view.session.id,
        "title": view.session.title,
        "reader": "" if recount else view.reading.reader,
        "created": view.session.created,
        "resumed": view.resumed,
        "version": view.version,
        "fields": [field(one) for one in view.fields],
        "summary": _summary(view.summary, hot_spot) if view.summary and not recount else None,
        "notes": [_note(note) for note in view.notes],
        "deleted": [{"id": one.id, "number": one.number} for one in view.deleted],
        "recount": None
        if recount is None
        else {
            "id": recount.id,
            "reader": recount.reader,
            "start": recount.start,
            "done": sum(one.finished for one in view.fields),
            "of": len(view.fields),
        },
        "recounts": [] if recount else [_recount(one) for one in view.recounts],
    }


def _summary(summary: Summary, hot_spot: int) -> Json:
    ki67, spot, statement = summary.ki67, summary.hot_spot, summary.statement
    return {
        "counts": summary.counts,
        "tumor": ki67.tumor,
        "positive": ki67.positive,
        "index": ki67.index,
        "interval": _pair(ki67.interval),
        "band": statement.range_of(ki67),
        "sentences": statement.sentences(),
        "average": _index(statement, ki67),
        "notes": statement.notes,
        "warning": statement.warning,
        "no_range": statement.no_range if statement.bands else "",
        "settled": statement.settled,
        "more_nuclei": summary.more_nuclei,
        "decided": statement.settled,
        "goals": [{"cells": n, "share": share} for n, share in zip(GOALS, summary.progress, strict=True)],
        "mean_of_fields": summary.mean_of_fields,
        "area_mm2": summary.area_mm2,
        "places": summary.places,
        "repeats": summary.repeats,
        "corrected": summary.corrected,
        "cautions": list(summary.cautions),
        "hot_spot": None
        if spot is None
        else {
            "place": spot.place,
            "x": spot.x,
            "y": spot.y,
            "radius": spot.radius,
            "n": spot.ki67.tumor,
            **_index(statement, spot.ki67),
            "fields": list(spot.fields),
        },
        "hot_spot_size": hot_spot,
    }


def _index(statement: Statement, ki67: Ki67) -> Json:
    return {
        "index": ki67.index,
        "interval": _pair(ki67.interval),
        "tumor": ki67.tumor,
        "positive": ki67.positive,
        "range": statement.range_of(ki67),
        "provisional": ki67.provisional,
    }


def _recount(one: Recount) -> Json:
    return {
        "id": one.reading.id,
        "reader": one.reading.reader,
        "done": one.done,
        "agreement": _agreement(one.agreement) if one.agreement else None,
    }


def _agreement(agreement: ReaderAgreement) -> Json:
    plain = ("same_class", "kappa", "difference", "both", "only_first", "only_second")
    return {name: getattr(agreement, name) for name in plain} | {"kappa_interval": _pair(agreement.kappa_interval)}


def _note(note: Note) -> Json:
    return {"text": note.text, "reader": note.reader, "time": note.time}


def _bands(bands: Bands | None) -> list[Json]:
    if bands is None:
        return []
    edges = (0.0, *bands.cuts, 1.0)
    return [{"name": name, "from": edges[k], "to": edges[k + 1]} for k, name in enumerate(bands.names)]


def _outline(region: Region | None) -> list[list[float]] | str | None:
    if region is None:
        return None
    return [list(point) for point in region.points] if isinstance(region, Polygon) else "map"


def _pair(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None or not all(map(math.isfinite, values)) else list(values)


def _tenths(values: NDArray[np.float32]) -> list[float]:
    return [round(value, 1) for value in values.tolist()]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
