"""Captured fields of a session file: pictures, the model's nuclei, regions."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import time
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError, shown
from kinet_trt.core.frame import Frame
from kinet_trt.core.units import check_mpp, is_mpp
from kinet_trt.inference.counter import Threshold
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.live.session.records import Field, Model
from kinet_trt.live.session.region import Region, from_bytes, to_bytes
from kinet_trt.live.session.schema import DELETED
from kinet_trt.live.session.store.database import Database, inserted_id
from kinet_trt.live.session.store.sessions import SessionTable
from kinet_trt.models.card import ModelCard

StoredRegion = tuple[str | None, bytes | None]
"""Kind and content of a region as they are stored; None, None for the whole field."""

_NUCLEUS = np.dtype([("x", "<f4"), ("y", "<f4"), ("cls", "u1"), ("score", "<f4")])
_COLUMNS = (
    "f.id, f.session, f.number, f.time, f.width, f.height, f.mpp, f.mpp_source, f.stage_x, f.stage_y, f.threshold, "
    "f.automatic, f.nuclei, f.nuclei_crc, f.region_kind, f.region, f.registered, m.card, m.runtime, m.precision"
)
_QUERY = f"SELECT {_COLUMNS} FROM fields f JOIN models m ON m.id = f.model"  # noqa: S608


class FieldTable:
    """Captured fields; see :class:`~kinet_trt.live.session.store.Store`."""

    def __init__(self, database: Database, sessions: SessionTable) -> None:
        self._database, self._sessions = database, sessions
        self._models: dict[tuple[str, str, str], Model] = {}

    def capture(
        self,
        session: int,
        frame: Frame,
        detections: Detections,
        *,
        model: Model,
        threshold: Threshold,
        mpp: float,
        mpp_source: str,
        automatic: bool = False,
        region: Region | None = None,
    ) -> Field:
        """Store a field: pixels, time and stage position of a frame, and the model's nuclei, px of the frame.

        ``mpp_source`` is a key of :data:`~kinet_trt.io.pixel_size.HOW_KNOWN`; ``automatic``: captured because the stage
        stopped. If it could not be stored, the file contains nothing of it.
        """
        check_mpp(mpp)
        if mpp_source not in HOW_KNOWN:
            raise KinetError(f"source of µm/px: expected one of {', '.join(HOW_KNOWN)}, found {shown(mpp_source)}")
        if detections.classes != model.card.classes:
            raise KinetError(f"classes of the nuclei: expected {model.card.classes}, found {detections.classes}")
        stored_region = to_stored(region, frame.height, frame.width)
        png = _encode(frame.pixels)
        nuclei = np.empty(len(detections), _NUCLEUS)
        for name in ("x", "y", "cls", "score"):
            nuclei[name] = getattr(detections, name)
        blob = nuclei.tobytes()
        taken = frame.time if frame.time is not None else time.time()
        stage = (float(frame.stage[0]), float(frame.stage[1])) if frame.stage else (None, None)
        card = model.card.to_json()
        key = hashlib.sha256("\0".join((card, model.runtime, model.precision)).encode()).hexdigest()
        with self._database.write() as db:
            self._sessions.get(session)
            db.execute(
                "INSERT OR IGNORE INTO models (key, card, runtime, precision) VALUES (?, ?, ?, ?)",
                (key, card, model.runtime, model.precision),
            )
            # Numbers are not reused after a field is deleted: they may be on paper.
            db.execute("UPDATE sessions SET captured = captured + 1 WHERE id = ?", (session,))
            (number,) = db.execute("SELECT captured FROM sessions WHERE id = ?", (session,)).fetchone()
            cursor = db.execute(
                "INSERT INTO fields (session, number, time, width, height, mpp, mpp_source, stage_x, stage_y, "
                "threshold, automatic, model, nuclei, nuclei_crc, region_kind, region) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT id FROM models WHERE key = ?), ?, ?, ?, ?)",
                (
                    *(session, number, float(taken), frame.width, frame.height, float(mpp), mpp_source, *stage),
                    *(str(threshold), int(automatic), key, blob, zlib.crc32(blob), *stored_region),
                ),
            )
            field = inserted_id(cursor)
            db.execute("INSERT INTO frames (field, png) VALUES (?, ?)", (field, png))
        return self.get(field)

    def in_session(self, session: int) -> list[Field]:
        """Return the fields of a session in the order of capture, without deleted ones."""
        return self._select(session, f"f.id NOT IN {DELETED} ORDER BY f.number")

    def deleted(self, session: int) -> list[Field]:
        """Return the deleted fields of a session that can be restored, the last deleted one last."""
        order = "(SELECT MAX(id) FROM deletions WHERE field = f.id)"
        return self._select(session, f"f.id IN {DELETED} ORDER BY {order}")

    def get(self, field: int) -> Field:
        """Return a field that is not deleted by its id."""
        with self._database.read() as db:
            row = db.execute(f"{_QUERY} WHERE f.id = ? AND f.id NOT IN {DELETED}", (field,)).fetchone()
        if row is None:
            raise KinetError(f"{self._database.path}: there is no field {field} in this file")
        return self._parse(row)

    def png(self, field: int) -> bytes:
        """Return the picture of a field as it is stored, a PNG file."""
        with self._database.read() as db:
            row = db.execute("SELECT png FROM frames WHERE field = ?", (field,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise KinetError(f"{self._database.path}: there is no picture of field {field} in this file")
        return row[0]

    def pixels(self, field: int) -> NDArray[np.uint8]:
        """Return the picture of a field, RGB uint8 [height, width, 3]."""
        data = np.frombuffer(self.png(field), np.uint8)
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        except cv2.error:
            pixels = None
        if pixels is None:
            path = self._database.path
            raise KinetError(f"{path}: the picture of field {field} is damaged: restore the file from a copy")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def delete(self, field: int) -> None:
        """Delete a field; :meth:`restore` undoes it until the session is closed."""
        with self._database.write() as db:
            self._mark_deleted(db, self.get(field).id, True)

    def restore(self, field: int) -> Field:
        """Restore a deleted field with its nuclei, edits and notes, until its session is closed."""
        with self._database.write() as db:
            if db.execute(f"SELECT 1 WHERE ? IN {DELETED}", (field,)).fetchone() is None:
                raise KinetError(f"{self._database.path}: there is no deleted field {field}: its session was closed")
            self._mark_deleted(db, field, False)
            # Fields captured meanwhile were not registered with it.
            db.execute("DELETE FROM links WHERE first = ?1 OR second = ?1", (field,))
            db.execute("UPDATE fields SET registered = 0 WHERE id = ?", (field,))
            return self.get(field)

    def stored_region(self, field: int) -> StoredRegion:
        """Return the region of a field as it is stored."""
        with self._database.read() as db:
            kind, content = db.execute("SELECT region_kind, region FROM fields WHERE id = ?", (field,)).fetchone()
        return kind, content

    def put_region(self, field: int, region: StoredRegion) -> None:
        """Replace the region of a field; :meth:`EditTable.set_region` also records the edit."""
        with self._database.write() as db:
            db.execute("UPDATE fields SET region_kind = ?, region = ? WHERE id = ?", (*region, field))

    @staticmethod
    def _mark_deleted(db: sqlite3.Connection, field: int, deleted: bool) -> None:
        db.execute("INSERT INTO deletions (field, deleted, time) VALUES (?, ?, ?)", (field, int(deleted), time.time()))

    def _select(self, session: int, which: str) -> list[Field]:
        with self._database.read() as db:
            self._sessions.get(session)
            rows = db.execute(f"{_QUERY} WHERE f.session = ? AND {which}", (session,)).fetchall()
        return [self._parse(row) for row in rows]

    def _parse(self, row: Sequence[Any]) -> Field:
        """Return the field of a row; raise if its values are inconsistent."""
        try:
            (identity, session, number, taken, width, height, mpp, source, stage_x, stage_y, threshold, automatic) = (
                row[:12]
            )
            blob, crc, kind, content, registered, card, runtime, precision = row[12:]
            if zlib.crc32(blob) != crc or source not in HOW_KNOWN:
                raise ValueError("a wrong checksum")
            if not all(isinstance(value, int) for value in (identity, session, number, width, height, registered)):
                raise ValueError("an integer of another type")
            if not (is_mpp(mpp) and 0 < width <= 1 << 20 and 0 < height <= 1 << 20 and math.isfinite(taken)):
                raise ValueError("a size or a time out of range")
            nuclei = np.frombuffer(blob, _NUCLEUS)
            # The fields of a session share one or two models.
            model = self._models.get((card, runtime, precision))
            if model is None:
                model = Model(ModelCard.from_json(card), str(runtime), str(precision))
                self._models[card, runtime, precision] = model
            if len(nuclei) and nuclei["cls"].max() >= len(model.card.classes):
                raise ValueError("a class that the model does not have")
            x, y, cls, score = (np.ascontiguousarray(nuclei[name]) for name in ("x", "y", "cls", "score"))
            return Field(
                *(int(identity), int(session), int(number), float(taken), int(width), int(height), float(mpp), source),
                (float(stage_x), float(stage_y)) if stage_x is not None and stage_y is not None else None,
                *(Threshold.parse(threshold), bool(automatic), model, Detections(x, y, cls, score, model.card.classes)),
                from_bytes(kind, content) if kind is not None else None,
                int(registered),
            )
        except (TypeError, ValueError, AttributeError, KinetError) as error:
            raise self._database.damaged(f"a field: {error}") from None


def to_stored(region: Region | None, height: int, width: int) -> StoredRegion:
    """Return a region as it is stored, after checking that it covers a part of the frame."""
    if region is None:
        return None, None
    if not region.mask(height, width).any():
        raise KinetError("a region: expected one that covers a part of the field, found it outside")
    return to_bytes(region)


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    # The fastest level: camera frames are mostly noise, and a person waits for the confirmation.
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise KinetError("the frame cannot be stored: it is too large for a PNG file")
    return data.tobytes()
