"""Readings of the sessions of a session file: each session's first one, and recounts."""

from __future__ import annotations

import time
from typing import Literal

from kinet_trt.core.errors import KinetError, shown
from kinet_trt.live.session.records import Field, Reading
from kinet_trt.live.session.schema import DELETED
from kinet_trt.live.session.store.database import Database, clean_text, inserted_id
from kinet_trt.live.session.store.fields import FieldTable
from kinet_trt.live.session.store.sessions import MAX_NAME_LENGTH, SessionTable


class ReadingTable:
    """Readings; see :class:`~kinet_trt.live.session.store.Store`."""

    def __init__(self, database: Database, sessions: SessionTable, fields: FieldTable) -> None:
        self._database, self._sessions, self._fields = database, sessions, fields

    def start_recount(self, session: int, reader: str, start: Literal["model", "nothing"] = "nothing") -> Reading:
        """Start a second reader's blind recount.

        Each field starts with no nuclei, or with the model's; never with those of the first reading.
        """
        reader = clean_text("reader", reader, MAX_NAME_LENGTH)
        if start not in ("model", "nothing"):
            raise KinetError(f"a recount: expected to start from 'model' or 'nothing', found {shown(start)}")
        with self._database.write() as db:
            self._sessions.get(session)
            cursor = db.execute(
                "INSERT INTO readings (session, reader, start, blind, created) VALUES (?, ?, ?, 1, ?)",
                (session, reader, start, time.time()),
            )
        return next(one for one in self.in_session(session) if one.id == inserted_id(cursor))

    def in_session(self, session: int) -> list[Reading]:
        """Return the readings of a session: the first one, then the recounts."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT id, session, reader, start, blind, created FROM readings WHERE session = ? ORDER BY id",
                (session,),
            ).fetchall()
        if not rows:
            raise KinetError(f"{self._database.path}: there is no session {session} in this file")
        rows = list(self._database.checked(rows, "iittif"))
        if any(row[3] not in ("model", "nothing") for row in rows):
            raise self._database.damaged("a reading")
        return [Reading(i, s, reader, start, bool(blind), created) for i, s, reader, start, blind, created in rows]

    def first(self, session: int) -> Reading:
        """Return the first reading of a session."""
        return self.in_session(session)[0]

    def of_field(self, field: Field, reading: int | None = None) -> Reading:
        """Return a reading by its id, of the session of a field; None: the session's first one."""
        known = self.in_session(field.session)
        found = known[:1] if reading is None else [one for one in known if one.id == reading]
        if not found:
            raise KinetError(f"{self._database.path}: there is no reading {reading} in the session of field {field.id}")
        return found[0]

    def rename_reader(self, reading: int, reader: str) -> None:
        """Change the reader's name; earlier edits keep the name under which they were made."""
        reader = clean_text("reader", reader, MAX_NAME_LENGTH)
        with self._database.write() as db:
            db.execute("UPDATE readings SET reader = ? WHERE id = ?", (reader, reading))

    def finish(self, reading: int, field: int, finished: bool = True) -> None:
        """Mark a field of a recount as finished, or not: only finished fields are compared with the first reading."""
        with self._database.write() as db:
            self.of_field(self._fields.get(field), reading)
            if finished:
                db.execute("INSERT OR IGNORE INTO finished VALUES (?, ?, ?)", (reading, field, time.time()))
            else:
                db.execute("DELETE FROM finished WHERE reading = ? AND field = ?", (reading, field))

    def finished(self, reading: int) -> set[int]:
        """Return the finished fields of a recount."""
        with self._database.read() as db:
            query = f"SELECT field FROM finished WHERE reading = ? AND field NOT IN {DELETED}"  # noqa: S608
            return {field for (field,) in db.execute(query, (reading,))}
