"""JSON sent to the page: the state, a field with its nuclei, and a frame with its picture.

Lengths are in um, positions in a frame in px (pixel centres at integers), times in s since the epoch, shares are
fractions. Numbers of nuclei are keyed by class name.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import COLOURS, NAMES, OTHER_COLOUR
from kinet_trt.core.ki67 import Bands, Ki67, Statement
from kinet_trt.core.notice import NOTICE
from kinet_trt.core.protocols import statement_bands
from kinet_trt.io.overlay import RING_UM
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.live import clock
from kinet_trt.live.acquisition.presets import Preset
from kinet_trt.live.acquisition.results import FrameResult, rounded
from kinet_trt.live.session.region import Polygon, Region
from kinet_trt.live.session.session import nuclei_of
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
        "camera": _attributes(camera, "phase", "why", "name", "dropped", "missed", "width", "height")
        | {
            "sentence": camera.sentence(),
            "retry_in": rounded(camera.retry_in, 2),
            "fps": round(camera.fps, 1),
            "damaged": camera.bad,
        },
        "loop": _attributes(status, "phase", "why", "counted", "stalled")
        | {
            "fps": round(status.fps, 1),
            "p50": rounded(status.shown_p50, 1),
            "p99": rounded(status.shown_p99, 1),
            "silent": round(status.seconds_since_result, 1),
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
            **_attributes(card, "name", "mpp"),
            **_attributes(engine, "precision", "runtime"),
            "classes": list(card.classes),
            "sha256": card.model_sha256,
            "tumor_map": card.roi and not card.capacity,
        },
        "marks": _marks(card.classes),
        "threshold": str(counter.threshold),
        "fused": engine.detects,
        "auto": controller.auto,
        "blank": loop.flat_field is not None,
        "live_region": None if region is None or controller.blind else [list(point) for point in region.points],
        "presets": [asdict(preset) for preset in presets],
        "joining": view.joining,
        "trouble": view.trouble or controller.auto_error,
        "session": _session(view, controller.hot_spot),
        "bands": _bands(statement_bands(controller.protocol, controller.bands)),
    }


def field(view: FieldView) -> Json:
    """Return a field as the page lists it."""
    field, ki67 = view.field, Ki67.from_counts(view.counts)
    return {
        **_attributes(field, "id", "number", "time", "width", "height", "mpp", "mpp_source", "automatic"),
        **_attributes(view, "counts", "corrections", "undoable", "redoable", "finished"),
        "threshold": str(field.threshold),
        "index": None if view.blind else ki67.index,
        "interval": None if view.blind else _pair(ki67.interval),
        "provisional": not view.blind and ki67.provisional,
        "unlike": None if view.blind else view.unlike or None,
        "region": _outline(field.region),
        "place": view.placed.group if view.placed else None,
        "x": round(view.placed.x, 2) if view.placed else None,
        "y": round(view.placed.y, 2) if view.placed else None,
        "notes": [note.text for note in view.notes],
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
            "touched": (answer.last_edit >= 0).tolist(),
            "counted": None if view.counted is None or len(view.counted) != len(answer) else view.counted.tolist(),
        },
    }


def stain(view: FieldView, density: NDArray[np.float32]) -> Json:
    """Return the density of DAB of a field's nuclei, including removed ones, and whether they are in its region."""
    inside = nuclei_of(view.field, view.answer).in_region()
    return {"density": [round(value, 4) for value in density.tolist()], "inside": inside.tolist()}


def frame(seen: FrameResult, width: int, *, blind: bool = False) -> bytes:
    """Return a frame as a message: length of the JSON (uint32, little-endian), the JSON, and a JPEG.

    The JPEG has at most ``width`` px in a row. ``blind`` leaves out the count and the remarks, during a recount.
    """
    ki67, found = (None, None) if blind else (seen.ki67, seen.detections)
    head = {
        **_attributes(seen, "number", "mpp", "rested", "uncounted"),
        **_attributes(seen.frame, "width", "height"),
        "frame": seen.sequence,
        "clock": seen.at,
        "time": seen.captured,
        "counts": None if found is None else found.counts(),
        "index": ki67.index if ki67 else None,
        "interval": _pair(ki67.interval) if ki67 else None,
        "provisional": ki67.provisional if ki67 else None,
        "unlike": None if blind else seen.domain_warning,
        "offered": seen.can_capture,
        "hindrances": list(seen.capture_blockers),
        "hindered": " ".join(filter(None, map(CAPTURE_BLOCKERS.get, seen.capture_blockers))),
        "sharpness": rounded(seen.quality.sharpness, 3),
        "remarks": [] if blind else list(seen.remarks),
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
        **_attributes(view.session, "id", "title", "created"),
        **_attributes(view, "resumed", "version"),
        "reader": "" if recount else view.reading.reader,
        "fields": [field(one) for one in view.fields],
        "summary": _summary(view.summary, hot_spot) if view.summary and not recount else None,
        "notes": [_attributes(note, "text", "reader", "time") for note in view.notes],
        "deleted": [_attributes(field, "id", "number") for field in view.deleted],
        "recount": None
        if recount is None
        else {
            **_attributes(recount, "id", "reader", "start"),
            "done": sum(field.finished for field in view.fields),
            "of": len(view.fields),
        },
        "recounts": [] if recount else [_recount(one) for one in view.recounts],
    }


def _summary(summary: Summary, hot_spot: int) -> Json:
    ki67, spot, statement = summary.ki67, summary.hot_spot, summary.statement
    average = _index(statement, ki67)
    return {
        **_attributes(summary, "counts", "more_nuclei", "mean_of_fields", "area_mm2", "repeats", "corrected"),
        "places": summary.group_count,
        **{name: average[name] for name in ("tumor", "positive", "index", "interval")},
        "notes": [*summary.protocol_sentences, *statement.notes],
        **_attributes(statement, "warning", "settled"),
        "band": average["range"],
        "average": average,
        "decided": statement.settled,
        "more_cells": summary.more_nuclei,
        "sentences": statement.sentences(),
        "no_range": statement.no_range if statement.bands else "",
        "goals": [{"cells": n, "share": share} for n, share in zip(GOALS, summary.progress, strict=True)],
        "cautions": list(summary.cautions),
        "hot_spot": None
        if spot is None
        else {
            "place": spot.group,
            **_attributes(spot, "x", "y", "radius"),
            **_index(statement, spot.ki67),
            "n": spot.ki67.tumor,
            "fields": list(spot.fields),
        },
        "hot_spot_size": hot_spot,
    }


def _index(statement: Statement, ki67: Ki67) -> Json:
    known = _attributes(ki67, "index", "tumor", "positive", "provisional")
    return known | {"interval": _pair(ki67.interval), "range": statement.range_of(ki67)}


def _recount(recount: Recount) -> Json:
    agreement, plain = recount.agreement, ("same_class", "kappa", "difference", "both", "only_first", "only_second")
    return {
        **_attributes(recount.reading, "id", "reader"),
        "done": recount.done,
        "agreement": None
        if agreement is None
        else _attributes(agreement, *plain) | {"kappa_interval": _pair(agreement.kappa_interval)},
    }


def _bands(bands: Bands | None) -> list[Json]:
    if bands is None:
        return []
    edges = (0.0, *bands.cuts, 1.0)
    return [{"name": name, "from": edges[k], "to": edges[k + 1]} for k, name in enumerate(bands.names)]


def _outline(region: Region | None) -> list[list[float]] | str | None:
    if region is None:
        return None
    return [list(point) for point in region.points] if isinstance(region, Polygon) else "map"


def _attributes(value: object, *names: str) -> Json:
    """Return attributes whose keys have the same names."""
    return {name: getattr(value, name) for name in names}


def _pair(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None or not all(map(math.isfinite, values)) else list(values)


def _tenths(values: NDArray[np.float32]) -> list[float]:
    return [round(value, 1) for value in values.tolist()]
