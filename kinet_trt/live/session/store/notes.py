"""Notes of a session file."""

from __future__ import annotations

import time

from kinet_trt.core.errors import KinetError
from kinet_trt.live.session.records import Note
from kinet_trt.live.session.schema import DELETED
from kinet_trt.live.session.store.database import Database, clean_text, inserted_id
from kinet_trt.live.session.store.fields import FieldTable
from kinet_trt.live.session.store.sessions import MAX_NAME_LENGTH, SessionTable

MAX_NOTE_LENGTH = 10_000
"""Characters of a note."""


class NoteTable:
    """Notes about sessions and fields; see :class:`~kinet_trt.live.session.store.Store`."""

    def __init__(self, database: Database, sessions: SessionTable, fields: FieldTable) -> None:
        self._database, self._sessions, self._fields = database, sessions, fields

    def add(
        self, session: int, text: str, *, reader: str = "", field: int | None = None, reading: int | None = None
    ) -> Note:
        """Add a note to a session or one of its fields, perhaps within a recount, by its id."""
        text, reader = clean_text("note", text, MAX_NOTE_LENGTH), clean_text("reader", reader, MAX_NAME_LENGTH)
        now = time.time()
        with self._database.write() as db:
            self._sessions.get(session)
            if field is not None and self._fields.get(field).session != session:
                raise KinetError(f"{self._database.path}: field {field} is not in session {session}")
            cursor = db.execute(
                "INSERT INTO notes (session, field, reader, text, time) VALUES (?, ?, ?, ?, ?)",
                (session, field, reader, text, now),
            )
            note = inserted_id(cursor)
            if reading is not None:
                db.execute("INSERT INTO note_readings VALUES (?, ?)", (note, reading))
        return Note(note, session, field, reader, text, now, reading)

    def in_session(self, session: int) -> list[Note]:
        """Return the notes of a session in order."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT n.id, n.session, n.field, n.reader, n.text, n.time, r.reading "  # noqa: S608
                "FROM notes n LEFT JOIN note_readings r ON r.note = n.id "
                f"WHERE n.session = ? AND (n.field IS NULL OR n.field NOT IN {DELETED}) ORDER BY n.id",
                (session,),
            ).fetchall()
        return [Note(*row) for row in self._database.checked(rows, "iiIttfI")]
