"""The store: one SQLite file that holds sessions, their fields, what people changed, and who did.

What a method has returned is on disk: every change is one transaction in a write-ahead log that is synced before it
counts as done (``synchronous=FULL``), so neither a killed process nor a power cut takes back what was confirmed. A
change that fails leaves the file as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError, shown
from kinet_trt.core.frame import Frame
from kinet_trt.core.units import check_mpp, is_mpp
from kinet_trt.inference.counter import Threshold
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.live.session.edits import KINDS, Edit, EditedNuclei, Kind, active, class_index, redoable, replay
from kinet_trt.live.session.records import Field, Link, Model, Note, Reading, Session
from kinet_trt.live.session.region import Region, from_bytes, to_bytes
from kinet_trt.live.session.schema import ADDED, APPLICATION, DELETED, TABLES, VERSION
from kinet_trt.models.card import ModelCard

log = logging.getLogger(__name__)

LONGEST_NAME, LONGEST_NOTE = 200, 10_000
"""Characters of a title or a reader's name, and of a note."""

_DAMAGED = "the session file is damaged: restore it from a copy"
_KINDS: dict[str, tuple[type, ...]] = {"i": (int,), "f": (int, float), "t": (str,)}
_FARTHEST = 10_000_000  # um or px
_NUCLEUS = np.dtype([("x", "<f4"), ("y", "<f4"), ("cls", "u1"), ("score", "<f4")])
_FIELD_COLUMNS = (
    "f.id, f.session, f.number, f.time, f.width, f.height, f.mpp, f.mpp_source, f.stage_x, f.stage_y, f.threshold, "
    "f.automatic, f.nuclei, f.nuclei_crc, f.region_kind, f.region, f.registered, m.card, m.runtime, m.precision"
)
_FIELDS = f"SELECT {_FIELD_COLUMNS} FROM fields f JOIN models m ON m.id = f.model"  # noqa: S608


class Store:
    """An open session file. Safe to use from several threads; each call is one at a time.

    Every method raises :class:`~kinet_trt.core.errors.KinetError`, and only that, for what a person should read: a full
    disk, a file that may not be written, a damaged one, a session or field that is not there.

    Examples
    --------
    >>> with Store.open(Path("monday.kinet")) as store:  # doctest: +SKIP
    ...     session = store.create_session("Case 12", reader="A. Kim")
    ...     field = store.capture(
    ...         session.id, frame, nuclei, model=Model.of(counter), threshold=counter.threshold, mpp=0.25,
    ...         mpp_source="option")
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self._connection = connection
        self._lock = threading.RLock()
        self._identity = _identity(path)
        self._models: dict[tuple[str, str, str], Model] = {}
        self._version = VERSION  # of the file's layout

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Store:
        """Open a session file, or make one.

        Parameters
        ----------
        path
            The file.
        create
            Whether to make it where there is none. With False a file that may not be written is opened for reading.

        Raises
        ------
        KinetError
            If it cannot be opened, is something else, or is of a newer version.
        """
        path = Path(path)
        try:
            exists = path.exists()
            if path.is_dir() or (exists and not path.is_file()):
                raise KinetError(f"{path}: expected a session file, found a folder or a device")
            if not exists and not create:
                raise KinetError(f"{path}: there is no such session file")
            if not exists:
                path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise KinetError(f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        wal = path.with_name(f"{path.name}-wal")
        logged = wal.exists() and wal.stat().st_size > 0
        if exists and create and not os.access(path, os.W_OK):
            raise KinetError(f"{path}: cannot be written: no right to write the file")
        if create:
            return cls._open(path, "rwc")
        try:
            if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
                return cls._open(path, "rw")
        except KinetError as error:
            # A full disk too has no place for SQLite's own files.
            if logged or not isinstance(error.__cause__, sqlite3.OperationalError) or "locked" in str(error.__cause__):
                raise
        if logged:
            raise KinetError(f"{path}: cannot be read: it was not closed, and its log beside it cannot be written")
        return cls._open(path, "ro&immutable=1")

    @classmethod
    def _open(cls, path: Path, mode: str) -> Store:
        with _told(path):
            store = cls(path, _connect(path, mode), writable=mode.startswith("rw"))
            try:
                if store.writable:
                    store._prepare()
                else:
                    store._check()
                    store._stand_in()
            except BaseException:
                store.close()
                raise
        return store

    def close(self) -> None:
        """Close the file; everything was on disk already."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- sessions -----------------------------------------------------------------------------------------------------

    def create_session(self, title: str = "", reader: str = "") -> Session:
        """Begin a session, and its first reading.

        Parameters
        ----------
        title
            What stands over its report.
        reader
            Who counts.
        """
        title, reader, now = _text("title", title, LONGEST_NAME), _text("reader", reader, LONGEST_NAME), time.time()
        with self._write() as db:
            session = _id(db.execute("INSERT INTO sessions (title, created, captured) VALUES (?, ?, 0)", (title, now)))
            db.execute(
                "INSERT INTO readings (session, reader, start, blind, created) VALUES (?, ?, 'model', 0, ?)",
                (session, reader, now),
            )
        return Session(session, title, now)

    def sessions(self) -> list[Session]:
        """Return all sessions, the oldest first."""
        with self._read() as db:
            rows = db.execute("SELECT id, title, created, closed FROM sessions ORDER BY id").fetchall()
        return [Session(*row) for row in self._sound(rows, "itfF")]

    def session(self, session: int) -> Session:
        """Return a session."""
        found = [one for one in self.sessions() if one.id == session]
        if not found:
            raise KinetError(f"{self.path}: there is no session {session} in this file")
        return found[0]

    def rename_session(self, session: int, title: str) -> Session:
        """Give a session another title."""
        title = _text("title", title, LONGEST_NAME)
        with self._write() as db:
            db.execute("UPDATE sessions SET title = ? WHERE id = ?", (title, self.session(session).id))
        return self.session(session)

    def rename_reader(self, reading: int, reader: str) -> None:
        """Give a reading another reader's name; corrections keep the name under which they were made."""
        reader = _text("reader", reader, LONGEST_NAME)
        with self._write() as db:
            db.execute("UPDATE readings SET reader = ? WHERE id = ?", (reader, reading))

    def mark_session(self, session: int, *, opened: bool) -> Session:
        """Note that a session is open, or closed: one that was never closed was interrupted.

        Closing a session deletes its deleted fields for good.
        """
        with self._write() as db:
            closed = None if opened else time.time()
            if not opened:
                db.execute(f"DELETE FROM fields WHERE session = ? AND id IN {DELETED}", (session,))  # noqa: S608
            db.execute("UPDATE sessions SET closed = ? WHERE id = ?", (closed, self.session(session).id))
        return self.session(session)

    def delete_session(self, session: int) -> None:
        """Delete a session with all its fields; its place on disk is overwritten and given back."""
        with self._write() as db:
            db.execute("DELETE FROM sessions WHERE id = ?", (self.session(session).id,))
            db.execute("DELETE FROM models WHERE id NOT IN (SELECT model FROM fields)")
        try:
            with self._lock, _told(self.path):
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except KinetError as error:
            log.warning("the session is deleted, but its place on disk was not given back: %s", error)

    def export_session(self, session: int, path: Path) -> None:
        """Write one session to a session file of its own; it is renamed into place when it is whole.

        Raises
        ------
        KinetError
            If there is a file already, or it cannot be written.
        """
        self.session(session)
        if os.path.lexists(path):
            raise KinetError(f"{path}: exists already: choose another name")
        part = path.with_name(f".kinet-{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Store.open(part).close()
            # Without the deleted fields, and without a table's schema: what version 2 added may be a temporary table.
            inside = f"(SELECT id FROM fields WHERE session = :s AND id NOT IN {DELETED})"  # noqa: S608
            notes = f"session = :s AND (field IS NULL OR field IN {inside})"
            chosen = {
                "sessions": "id = :s",
                "models": f"id IN (SELECT model FROM fields WHERE id IN {inside})",  # noqa: S608
                "fields": f"id IN {inside}",
                "frames": f"field IN {inside}",
                "readings": "session = :s",
                "finished": f"field IN {inside}",
                "corrections": f"field IN {inside}",
                "region_changes": f"correction IN (SELECT id FROM corrections WHERE field IN {inside})",  # noqa: S608
                "notes": notes,
                "note_readings": f"note IN (SELECT id FROM notes WHERE {notes})",  # noqa: S608
                "links": f"first IN {inside} AND second IN {inside}",
            }
            with self._lock, _told(path):
                db = self._connection
                db.execute("ATTACH ? AS other", (f"{part.resolve().as_uri()}?mode=rw",))
                try:
                    db.execute("BEGIN")
                    for table, which in chosen.items():
                        copy = f"INSERT INTO other.{table} SELECT * FROM {table} WHERE {which}"  # noqa: S608
                        db.execute(copy, {"s": session})
                    db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    db.execute("DETACH other")
            part.replace(path)
            _sync_folder(path)
        except OSError as error:
            raise KinetError(f"{path}: cannot be written: {error.strerror or error}") from error
        finally:
            for leftover in (part, part.with_name(f"{part.name}-wal"), part.with_name(f"{part.name}-shm")):
                with contextlib.suppress(OSError):
                    leftover.unlink(missing_ok=True)

    # --- fields -------------------------------------------------------------------------------------------------------

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
        """Keep a field. When this returns, it is on disk.

        Parameters
        ----------
        session
            Which.
        frame
            Its pixels, time and stage position.
        detections
            The model's answer, px of the frame.
        model, threshold
            What counted it.
        mpp, mpp_source
            um/px that was used, and how it was known: a key of :data:`HOW_KNOWN`.
        automatic
            Whether the resting stage captured it.
        region
            What counts of it; None: all.

        Raises
        ------
        KinetError
            If it could not be kept; nothing of it is then in the file.
        """
        check_mpp(mpp)
        if mpp_source not in HOW_KNOWN:
            raise KinetError(f"how um/px is known: expected one of {', '.join(HOW_KNOWN)}, found {shown(mpp_source)}")
        if detections.classes != model.card.classes:
            raise KinetError(f"the nuclei's classes {detections.classes} are not the model's {model.card.classes}")
        kind, outline = _stored_region(region, frame.height, frame.width)
        png = _encode(frame.pixels)
        nuclei = np.empty(len(detections), _NUCLEUS)
        for name in ("x", "y", "cls", "score"):
            nuclei[name] = getattr(detections, name)
        blob = nuclei.tobytes()
        taken = frame.time if frame.time is not None else time.time()
        stage = (float(frame.stage[0]), float(frame.stage[1])) if frame.stage else (None, None)
        card = model.card.to_json()
        key = hashlib.sha256("\0".join((card, model.runtime, model.precision)).encode()).hexdigest()
        with self._write() as db:
            self.session(session)
            db.execute(
                "INSERT OR IGNORE INTO models (key, card, runtime, precision) VALUES (?, ?, ?, ?)",
                (key, card, model.runtime, model.precision),
            )
            # A number is never given twice, even when its field is deleted: it stands on paper.
            db.execute("UPDATE sessions SET captured = captured + 1 WHERE id = ?", (session,))
            (number,) = db.execute("SELECT captured FROM sessions WHERE id = ?", (session,)).fetchone()
            field = _id(
                db.execute(
                    "INSERT INTO fields (session, number, time, width, height, mpp, mpp_source, stage_x, stage_y, "
                    "threshold, automatic, model, nuclei, nuclei_crc, region_kind, region) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT id FROM models WHERE key = ?), ?, ?, ?, ?)",
                    (
                        *(session, number, float(taken), frame.width, frame.height, float(mpp), mpp_source, *stage),
                        *(str(threshold), int(automatic), key, blob, zlib.crc32(blob), kind, outline),
                    ),
                )
            )
            db.execute("INSERT INTO frames (field, png) VALUES (?, ?)", (field, png))
        return self.field(field)

    def fields(self, session: int) -> list[Field]:
        """Return the fields of a session in the order of their capture, without those that were deleted."""
        return self._fields(session, f"f.id NOT IN {DELETED} ORDER BY f.number")

    def deleted_fields(self, session: int) -> list[Field]:
        """Return the deleted fields of a session that can be restored, the last deleted one last."""
        order = "(SELECT MAX(id) FROM deletions WHERE field = f.id)"
        return self._fields(session, f"f.id IN {DELETED} ORDER BY {order}")

    def field(self, field: int) -> Field:
        """Return one field; a deleted one is not there."""
        with self._read() as db:
            row = db.execute(f"{_FIELDS} WHERE f.id = ? AND f.id NOT IN {DELETED}", (field,)).fetchone()
        if row is None:
            raise KinetError(f"{self.path}: there is no field {field} in this file")
        return self._field(row)

    def png(self, field: int) -> bytes:
        """Return the picture of a field as it is stored."""
        with self._read() as db:
            row = db.execute("SELECT png FROM frames WHERE field = ?", (field,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise KinetError(f"{self.path}: there is no picture of field {field} in this file")
        return row[0]

    def pixels(self, field: int) -> NDArray[np.uint8]:
        """Return the picture of a field, RGB uint8 [height, width, 3]."""
        data = np.frombuffer(self.png(field), np.uint8)
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        except cv2.error:
            pixels = None
        if pixels is None:
            raise KinetError(f"{self.path}: the picture of field {field} is damaged: restore the file from a copy")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def delete_field(self, field: int) -> None:
        """Take a field out of its session; :meth:`restore_field` brings it back until the session is closed."""
        with self._write() as db:
            self._mark_deleted(db, self.field(field).id, True)

    def restore_field(self, field: int) -> Field:
        """Bring a deleted field back with its nuclei, corrections and notes.

        Raises
        ------
        KinetError
            If it was not deleted, or its session was closed since.
        """
        with self._write() as db:
            if db.execute(f"SELECT 1 WHERE ? IN {DELETED}", (field,)).fetchone() is None:
                raise KinetError(f"{self.path}: there is no deleted field {field} to restore: its session was closed")
            self._mark_deleted(db, field, False)
            # The fields that were captured meanwhile have not been joined with it.
            db.execute("DELETE FROM links WHERE first = ?1 OR second = ?1", (field,))
            db.execute("UPDATE fields SET registered = 0 WHERE id = ?", (field,))
            return self.field(field)

    @staticmethod
    def _mark_deleted(db: sqlite3.Connection, field: int, deleted: bool) -> None:
        db.execute("INSERT INTO deletions (field, deleted, time) VALUES (?, ?, ?)", (field, int(deleted), time.time()))

    def set_region(self, field: int, region: Region | None, *, reader: str = "") -> Field:
        """Limit a field to a region; None: all of it counts. :meth:`undo` takes it back.

        Parameters
        ----------
        field
            Which.
        region
            What counts of it.
        reader
            Who says so; empty: the session's first reader.
        """
        with self._write() as db:
            known = self.field(field)
            before = db.execute("SELECT region_kind, region FROM fields WHERE id = ?", (field,)).fetchone()
            after = _stored_region(region, known.height, known.width)
            made = self._record(known, self._reading(known, None), "region", -1, reader)
            db.execute("INSERT INTO region_changes VALUES (?, ?, ?, ?, ?)", (made.id, *before, *after))
            self._put_region(field, after)
        return self.field(field)

    def _put_region(self, field: int, stored: Sequence[Any]) -> None:
        """Give a field a stored region, within a transaction."""
        change = "UPDATE fields SET region_kind = ?, region = ? WHERE id = ?"
        self._connection.execute(change, (*stored, field))

    # --- corrections --------------------------------------------------------------------------------------------------

    def add(self, field: int, x: float, y: float, cls: str, *, reader: str = "", reading: int | None = None) -> Edit:
        """Add a nucleus that the model missed.

        Parameters
        ----------
        field
            Which.
        x, y
            Its centre, px of the frame.
        cls
            Its class, by name.
        reader
            Who says so; empty: the reader of the reading.
        reading
            Whose count; None: the session's first.
        """
        with self._write():
            known = self.field(field)
            if not (-0.5 <= x < known.width - 0.5 and -0.5 <= y < known.height - 0.5):
                raise KinetError(
                    f"a nucleus at {x:g}, {y:g}: expected a place in the {known.width} x {known.height} px of the field"
                )
            counted = self._reading(known, reading)
            record = self.corrections(field, counted.id)
            number = len(_beginning(known, counted)) + sum(one.kind == "add" for one in record)
            return self._record(known, counted, "add", number, reader, x=float(x), y=float(y), cls=cls)

    def remove(self, field: int, nucleus: int, *, reader: str = "", reading: int | None = None) -> Edit:
        """Remove a nucleus by its number in the field: what the model said of it stays in the record."""
        with self._write():
            known = self.field(field)
            counted = self._reading(known, reading)
            self._must_be_there(known, counted, nucleus)
            return self._record(known, counted, "remove", nucleus, reader)

    def reclassify(self, field: int, nucleus: int, cls: str, *, reader: str = "", reading: int | None = None) -> Edit:
        """Give a nucleus another class, by name; to give it the one that it has is to confirm it."""
        with self._write():
            known = self.field(field)
            counted = self._reading(known, reading)
            self._must_be_there(known, counted, nucleus)
            return self._record(known, counted, "reclassify", nucleus, reader, cls=cls)

    def undo(
        self, session: int, *, field: int | None = None, reader: str = "", reading: int | None = None
    ) -> Edit | None:
        """Undo the last correction that stands; each call goes one further back.

        Parameters
        ----------
        session
            Which.
        field
            Only corrections of this field; None: of all fields.
        reader, reading
            As in :meth:`add`.

        Returns
        -------
        Edit or None
            The one that no longer stands; None when there is none.
        """
        with self._write():
            record = self._record_of(session, field, reading)
            left = active(record)
            if not left:
                return None
            last = left[-1]
            self._reverse(last, last.id, "undo", reader)
            return last

    def redo(
        self, session: int, *, field: int | None = None, reader: str = "", reading: int | None = None
    ) -> Edit | None:
        """Redo the correction that was undone last; each call goes one further, until a new correction is made.

        Parameters
        ----------
        session, field, reader, reading
            As in :meth:`undo`.

        Returns
        -------
        Edit or None
            The one that counts again; None when there is none.
        """
        with self._write():
            record = self._record_of(session, field, reading)
            undo = redoable(record)
            found = [one for one in record if undo is not None and one.id == undo.undoes]
            if undo is None or not found:
                return None
            self._reverse(found[0], undo.id, "redo", reader)
            return found[0]

    def _record_of(self, session: int, field: int | None, reading: int | None) -> list[Edit]:
        """Return the record of a reading, of one field or of all."""
        chosen = self.readings(session)[0].id if reading is None else reading
        record = self._corrections("f.session = ?", session)
        return [one for one in record if one.reading == chosen and field in (None, one.field)]

    def _reverse(self, correction: Edit, cancels: int, kind: Literal["undo", "redo"], reader: str) -> None:
        """Undo or redo a correction, within a transaction."""
        known = self.field(correction.field)
        counted = self._reading(known, correction.reading)
        self._record(known, counted, kind, correction.nucleus, reader, undoes=cancels)
        if correction.kind == "region":
            which = "before_kind, before" if kind == "undo" else "after_kind, after"
            query = f"SELECT {which} FROM region_changes WHERE correction = ?"  # noqa: S608
            stored = self._connection.execute(query, (correction.id,)).fetchone()
            if stored is None:
                raise KinetError(f"{self.path}: {_DAMAGED}: the region of correction {correction.id} is missing")
            self._put_region(known.id, stored)

    def corrections(self, field: int, reading: int | None = None) -> list[Edit]:
        """Return the record of a field in a reading (None: the session's first), undos included, in order."""
        chosen = self._reading(self.field(field), reading).id
        return [one for one in self._corrections("f.id = ?", field) if one.reading == chosen]

    def session_corrections(self, session: int) -> list[Edit]:
        """Return the record of a whole session, all readings, in order."""
        return self._corrections("f.session = ?", session)

    def answer(self, field: int, reading: int | None = None) -> EditedNuclei:
        """Return the nuclei of a field as a reading has them (None: the session's first)."""
        with self._lock:
            known = self.field(field)
            counted = self._reading(known, reading)
            return self._replayed(known, counted, self.corrections(field, counted.id))

    def answers(self, fields: Sequence[Field], reading: Reading) -> list[EditedNuclei]:
        """Return the nuclei of several fields of a session in one reading."""
        record: dict[int, list[Edit]] = {}
        for one in self.session_corrections(reading.session):
            if one.reading == reading.id:
                record.setdefault(one.field, []).append(one)
        return [self._replayed(field, reading, record.get(field.id, [])) for field in fields]

    # --- readings and notes -------------------------------------------------------------------------------------------

    def start_recount(self, session: int, reader: str, start: Literal["model", "nothing"] = "nothing") -> Reading:
        """Begin a second reader's blind recount.

        Parameters
        ----------
        session
            Which.
        reader
            Who.
        start
            What each field shows at first: nothing, or the model's nuclei. Never what the first reader made of them.
        """
        reader = _text("reader", reader, LONGEST_NAME)
        if start not in ("model", "nothing"):
            raise KinetError(f"a recount: expected to start from 'model' or 'nothing', found {shown(start)}")
        with self._write() as db:
            self.session(session)
            reading = _id(
                db.execute(
                    "INSERT INTO readings (session, reader, start, blind, created) VALUES (?, ?, ?, 1, ?)",
                    (session, reader, start, time.time()),
                )
            )
        return next(one for one in self.readings(session) if one.id == reading)

    def readings(self, session: int) -> list[Reading]:
        """Return the readings of a session: its first, then the recounts."""
        with self._read() as db:
            rows = db.execute(
                "SELECT id, session, reader, start, blind, created FROM readings WHERE session = ? ORDER BY id",
                (session,),
            ).fetchall()
        if not rows:
            raise KinetError(f"{self.path}: there is no session {session} in this file")
        known = self._sound(rows, "iittif")
        if any(row[3] not in ("model", "nothing") for row in known):
            raise KinetError(f"{self.path}: {_DAMAGED}")
        return [Reading(i, s, r, start, bool(blind), created) for i, s, r, start, blind, created in known]

    def finish(self, reading: int, field: int, finished: bool = True) -> None:
        """Say that a recount of a field is done (or not yet): only then it is held to the first reading."""
        with self._write() as db:
            self._reading(self.field(field), reading)
            if finished:
                db.execute("INSERT OR IGNORE INTO finished VALUES (?, ?, ?)", (reading, field, time.time()))
            else:
                db.execute("DELETE FROM finished WHERE reading = ? AND field = ?", (reading, field))

    def finished(self, reading: int) -> set[int]:
        """Return the fields that a recount is done with."""
        with self._read() as db:
            query = f"SELECT field FROM finished WHERE reading = ? AND field NOT IN {DELETED}"  # noqa: S608
            return {field for (field,) in db.execute(query, (reading,))}

    def note(
        self, session: int, text: str, *, reader: str = "", field: int | None = None, reading: int | None = None
    ) -> Note:
        """Write a note about a session or one of its fields.

        Parameters
        ----------
        session, text
            Which, and what.
        reader
            Who wrote it.
        field
            The field that it is about; None: the session.
        reading
            The recount in which it is written; None: outside a recount.
        """
        text, reader, now = _text("note", text, LONGEST_NOTE), _text("reader", reader, LONGEST_NAME), time.time()
        with self._write() as db:
            self.session(session)
            if field is not None and self.field(field).session != session:
                raise KinetError(f"{self.path}: field {field} is not of session {session}")
            note = _id(
                db.execute(
                    "INSERT INTO notes (session, field, reader, text, time) VALUES (?, ?, ?, ?, ?)",
                    (session, field, reader, text, now),
                )
            )
            if reading is not None:
                db.execute("INSERT INTO note_readings VALUES (?, ?)", (note, reading))
        return Note(note, session, field, reader, text, now, reading)

    def notes(self, session: int) -> list[Note]:
        """Return the notes of a session in order."""
        with self._read() as db:
            rows = db.execute(
                "SELECT n.id, n.session, n.field, n.reader, n.text, n.time, r.reading "  # noqa: S608
                "FROM notes n LEFT JOIN note_readings r ON r.note = n.id "
                f"WHERE n.session = ? AND (n.field IS NULL OR n.field NOT IN {DELETED}) ORDER BY n.id",
                (session,),
            ).fetchall()
        return [Note(*row) for row in self._sound(rows, "iiIttfI")]

    # --- registration -------------------------------------------------------------------------------------------------

    def save_links(self, field: int, links: Sequence[Link], version: int) -> None:
        """Keep what a version of the registration found for a field, in place of what was known of these pairs."""
        with self._write() as db:
            self.field(field)
            db.executemany(
                "INSERT OR REPLACE INTO links (first, second, dx, dy, pairs, likeness) VALUES (?, ?, ?, ?, ?, ?)",
                [(one.first, one.second, one.dx, one.dy, one.pairs, one.likeness) for one in links],
            )
            db.execute("UPDATE fields SET registered = ? WHERE id = ?", (version, field))

    def links(self, session: int) -> list[Link]:
        """Return which fields of a session overlap."""
        with self._read() as db:
            rows = db.execute(
                "SELECT l.first, l.second, l.dx, l.dy, l.pairs, l.likeness FROM links l "  # noqa: S608
                f"JOIN fields f ON f.id = l.first WHERE f.session = ? AND l.first NOT IN {DELETED} "
                f"AND l.second NOT IN {DELETED} ORDER BY l.second, l.first",
                (session,),
            ).fetchall()
        links = [Link(*row) for row in self._sound(rows, "iiffif")]
        if any(max(abs(link.dx), abs(link.dy)) > _FARTHEST or not 0 < link.pairs < _FARTHEST for link in links):
            raise KinetError(f"{self.path}: {_DAMAGED}")
        return links

    # --- inside -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told(self.path):
            yield self._connection

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Give one transaction: all of it is on disk afterwards, or nothing. One inside another is part of it."""
        with self._lock, _told(self.path):
            db = self._connection
            if db.in_transaction:
                yield db
                return
            if not self.writable:
                raise KinetError(f"{self.path}: cannot be written: it was opened for reading")
            if _identity(self.path) != self._identity:
                raise KinetError(f"{self.path}: the session file was moved or deleted while it was open: put it back")
            db.execute("BEGIN IMMEDIATE")
            try:
                self._upgrade()
                yield db
                db.execute("COMMIT")
                self._version = VERSION
            except BaseException:
                # SQLite has undone it by itself where the disk was full.
                with contextlib.suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise

    def _prepare(self) -> None:
        """Set the connection up, and the tables where the file is new."""
        db = self._connection
        blank = self._check()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "foreign_keys = ON"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        # After each change the log goes into the file: who copies that alone, meanwhile, has all but the last.
        db.execute("PRAGMA wal_autocheckpoint = 1").fetchall()
        # What is deleted is overwritten: a picture of tissue does not stay behind in free pages.
        db.execute("PRAGMA secure_delete = ON").fetchall()
        if not blank:
            self._stand_in()
        else:
            db.execute("BEGIN IMMEDIATE")
            try:
                if self._check():  # another process may have been faster
                    for statement in (*TABLES.split(";"), *ADDED.split(";")):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id = {APPLICATION}")
                    db.execute(f"PRAGMA user_version = {VERSION}")
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
            _sync_folder(self.path)
        self._identity = _identity(self.path)

    def _stand_in(self) -> None:
        """Let a file of an older version be read as it is: what it lacks are empty temporary tables."""
        if self._version < VERSION:
            self._connection.execute("PRAGMA temp_store = MEMORY")
            for statement in ADDED.split(";"):
                self._connection.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE"))

    def _upgrade(self) -> None:
        """Bring a file of an older version up to date, within the first transaction that writes to it."""
        if self._version == VERSION:
            return
        for name in ("deletions", "region_changes", "note_readings"):
            self._connection.execute(f"DROP TABLE temp.{name}")
        for statement in ADDED.split(";"):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _check(self) -> bool:
        """Return whether the file is new.

        Raises
        ------
        KinetError
            If it is another program's, or of a newer version.
        """
        db = self._connection
        (application,), (version,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if application == 0 and version == 0 and tables == 0:
            if not self.writable:
                raise KinetError(f"{self.path}: expected a session file of kinet-trt, found an empty one")
            return True
        if application != APPLICATION:
            raise KinetError(f"{self.path}: expected a session file of kinet-trt, found another program's database")
        if version > VERSION:
            raise KinetError(
                f"{self.path}: the session file is of version {version}, this kinet-trt reads up to version {VERSION}: "
                "upgrade kinet-trt"
            )
        self._version = version
        return False

    def _fields(self, session: int, which: str) -> list[Field]:
        with self._read() as db:
            self.session(session)
            rows = db.execute(f"{_FIELDS} WHERE f.session = ? AND {which}", (session,)).fetchall()
        return [self._field(row) for row in rows]

    def _field(self, row: Sequence[Any]) -> Field:
        """Read a row; what makes no sense is damage."""
        try:
            (identity, session, number, taken, width, height, mpp, source, stage_x, stage_y, threshold, automatic) = (
                row[:12]
            )
            blob, crc, kind, outline, registered, card, runtime, precision = row[12:]
            if zlib.crc32(blob) != crc or source not in HOW_KNOWN:
                raise ValueError("its checksum does not fit")
            if not all(isinstance(value, int) for value in (identity, session, number, width, height, registered)):
                raise ValueError("a whole number that is none")
            if not (is_mpp(mpp) and 0 < width <= 1 << 20 and 0 < height <= 1 << 20 and math.isfinite(taken)):
                raise ValueError("a size or a time that makes no sense")
            nuclei = np.frombuffer(blob, _NUCLEUS)
            # All fields of a session have the same one or two.
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
                from_bytes(kind, outline) if kind is not None else None,
                int(registered),
            )
        except (TypeError, ValueError, AttributeError, KinetError) as error:
            raise KinetError(f"{self.path}: a field is damaged ({error}): restore the file from a copy") from None

    def _replayed(self, field: Field, reading: Reading, record: Sequence[Edit]) -> EditedNuclei:
        try:
            return replay(_beginning(field, reading), record)
        except KinetError as error:
            raise KinetError(f"{self.path}: {_DAMAGED}: {error}") from error

    def _reading(self, field: Field, reading: int | None) -> Reading:
        known = self.readings(field.session)
        found = known[:1] if reading is None else [one for one in known if one.id == reading]
        if not found:
            raise KinetError(f"{self.path}: there is no reading {reading} in the session of field {field.id}")
        return found[0]

    def _corrections(self, which: str, value: int) -> list[Edit]:
        with self._read() as db:
            rows = db.execute(
                "SELECT c.id, c.field, c.reading, c.kind, c.nucleus, c.x, c.y, c.cls, c.undoes, c.reader, c.time "  # noqa: S608
                f"FROM corrections c JOIN fields f ON f.id = c.field WHERE {which} AND f.id NOT IN {DELETED} "
                "ORDER BY c.id",
                (value,),
            ).fetchall()
        record = [Edit(*row) for row in self._sound(rows, "iiitiFFTItf")]
        for one in record:
            nowhere = one.kind == "add" and (one.x is None or one.y is None or max(abs(one.x), abs(one.y)) > _FARTHEST)
            if one.kind not in KINDS or nowhere:
                raise KinetError(f"{self.path}: {_DAMAGED}: correction {one.id} makes no sense")
        return record

    def _sound(self, rows: Sequence[Sequence[Any]], kinds: str) -> Sequence[Sequence[Any]]:
        """Return rows whose values are of their kinds: i, f and t: whole number, number and text; large: or none."""
        for row in rows:
            for value, kind in zip(row, kinds, strict=True):
                if value is None and kind.isupper():
                    continue
                if not isinstance(value, _KINDS[kind.lower()]) or (
                    isinstance(value, float) and not math.isfinite(value)
                ):
                    raise KinetError(f"{self.path}: {_DAMAGED}: expected another kind of value than {shown(value)}")
        return rows

    def _must_be_there(self, field: Field, reading: Reading, nucleus: int) -> None:
        answer = self.answer(field.id, reading.id)
        if not 0 <= nucleus < len(answer) or answer.removed[nucleus]:
            raise KinetError(f"field {field.number} has no nucleus {nucleus}: it may have been removed meanwhile")

    def _record(
        self,
        field: Field,
        reading: Reading,
        kind: Kind,
        nucleus: int,
        reader: str,
        *,
        x: float | None = None,
        y: float | None = None,
        cls: str | None = None,
        undoes: int | None = None,
    ) -> Edit:
        """Append one entry, within a transaction."""
        if cls is not None:
            class_index(cls, field.detections.classes)
        who = _text("reader", reader, LONGEST_NAME) or reading.reader
        now = time.time()
        made = _id(
            self._connection.execute(
                "INSERT INTO corrections (field, reading, kind, nucleus, x, y, cls, undoes, reader, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (field.id, reading.id, kind, int(nucleus), x, y, cls, undoes, who, now),
            )
        )
        return Edit(made, field.id, reading.id, kind, int(nucleus), x, y, cls, undoes, who, now)


def _beginning(field: Field, reading: Reading) -> Detections:
    """Return what a reading of a field begins with."""
    return field.detections if reading.start == "model" else Detections.empty(field.detections.classes)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Transactions are begun and ended by hand; the store's own lock keeps threads apart.
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )


def _id(cursor: sqlite3.Cursor) -> int:
    return cast(int, cursor.lastrowid)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells whether a path still leads to the same file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sync_folder(path: Path) -> None:
    """Make a new name in a folder last through a power cut."""
    if os.name != "posix":
        return
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _stored_region(region: Region | None, height: int, width: int) -> tuple[str | None, bytes | None]:
    if region is None:
        return None, None
    if not region.mask(height, width).any():
        raise KinetError("a region: expected one that holds a part of the field, found none of it inside")
    return to_bytes(region)


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    # The fastest level: a frame of a camera is mostly noise, and a person waits for the word "captured".
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise KinetError("the frame cannot be stored: it is too large for a PNG")
    return data.tobytes()


def _text(name: str, text: str, longest: int) -> str:
    """Return what a person typed, control characters turned to spaces."""
    if not isinstance(text, str) or len(text) > longest:
        raise KinetError(f"{name}: expected text of up to {longest:,} characters, found {shown(text)}")
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip()
    return clean.encode("utf-8", "replace").decode()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one message."""
    try:
        yield
    except sqlite3.Error as error:
        said = str(error)
        if "full" in said or "disk I/O" in said:
            message = f"cannot be written: the disk is full or failing ({said}); what was confirmed before is kept"
        elif "readonly" in said or "unable to open" in said:
            message = f"cannot be written: no right to write the file or its folder ({said})"
        elif "locked" in said or "busy" in said:
            message = "another program is writing to it: close that one, or wait, and try again"
        elif isinstance(error, sqlite3.ProgrammingError):
            message = f"cannot be used any more: {said}"
        else:
            message = f"not a session file, or a damaged one ({said}): restore it from a copy"
        raise KinetError(f"{path}: {message}") from error
    except UnicodeDecodeError as error:
        raise KinetError(f"{path}: not a session file, or a damaged one: restore it from a copy") from error
    except OverflowError as error:
        raise KinetError(f"{path}: a number is too large: there is no such session, field or reading") from error
