"""Sessions of a session file."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from pathlib import Path

from kinet_trt.core.errors import KinetError
from kinet_trt.live.session.records import Session
from kinet_trt.live.session.schema import DELETED
from kinet_trt.live.session.store.database import Database, clean_text, inserted_id, sync_folder

log = logging.getLogger(__name__)

MAX_NAME_LENGTH = 200
"""Characters of a title or a reader's name."""


class SessionTable:
    """Sessions of a session file; see :class:`~kinet_trt.live.session.store.Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, title: str = "", reader: str = "") -> Session:
        """Create a session and its first reading, by the person who counts."""
        title, reader = clean_text("title", title, MAX_NAME_LENGTH), clean_text("reader", reader, MAX_NAME_LENGTH)
        now = time.time()
        with self._database.write() as db:
            insert = "INSERT INTO sessions (title, created, captured) VALUES (?, ?, 0)"
            session = inserted_id(db.execute(insert, (title, now)))
            db.execute(
                "INSERT INTO readings (session, reader, start, blind, created) VALUES (?, ?, 'model', 0, ?)",
                (session, reader, now),
            )
        return Session(session, title, now)

    def all(self) -> list[Session]:
        """Return all sessions, the oldest first."""
        with self._database.read() as db:
            rows = db.execute("SELECT id, title, created, closed FROM sessions ORDER BY id").fetchall()
        return [Session(*row) for row in self._database.checked(rows, "itfF")]

    def get(self, session: int) -> Session:
        """Return a session by its id."""
        found = [one for one in self.all() if one.id == session]
        if not found:
            raise KinetError(f"{self._database.path}: there is no session {session} in this file")
        return found[0]

    def rename(self, session: int, title: str) -> Session:
        """Change the title of a session."""
        title = clean_text("title", title, MAX_NAME_LENGTH)
        with self._database.write() as db:
            db.execute("UPDATE sessions SET title = ? WHERE id = ?", (title, self.get(session).id))
        return self.get(session)

    def reopen(self, session: int) -> Session:
        """Mark a session as open."""
        with self._database.write() as db:
            db.execute("UPDATE sessions SET closed = NULL WHERE id = ?", (self.get(session).id,))
        return self.get(session)

    def close(self, session: int) -> Session:
        """Mark a session as closed, and erase its deleted fields. A session that was never closed was interrupted."""
        with self._database.write() as db:
            db.execute(f"DELETE FROM fields WHERE session = ? AND id IN {DELETED}", (session,))  # noqa: S608
            db.execute("UPDATE sessions SET closed = ? WHERE id = ?", (time.time(), self.get(session).id))
        return self.get(session)

    def delete(self, session: int) -> None:
        """Delete a session with all its fields; overwrite and free its space on disk."""
        with self._database.write() as db:
            db.execute("DELETE FROM sessions WHERE id = ?", (self.get(session).id,))
            db.execute("DELETE FROM models WHERE id NOT IN (SELECT model FROM fields)")
        try:
            with self._database.read() as db:
                db.execute("VACUUM")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except KinetError as error:
            log.warning("the session is deleted, but its space on disk was not freed: %s", error)

    def export(self, session: int, path: Path) -> None:
        """Write one session to a new session file, without its deleted fields; atomic."""
        self.get(session)
        if os.path.lexists(path):
            raise KinetError(f"{path}: exists already: choose another name")
        part = path.with_name(f".kinet-{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Database(part, "rwc").close()
            self._copy(session, part, path)
            part.replace(path)
            sync_folder(path)
        except OSError as error:
            raise KinetError(f"{path}: cannot be written: {error.strerror or error}") from error
        finally:
            for leftover in (part, part.with_name(f"{part.name}-wal"), part.with_name(f"{part.name}-shm")):
                with contextlib.suppress(OSError):
                    leftover.unlink(missing_ok=True)

    def _copy(self, session: int, part: Path, path: Path) -> None:
        """Copy a session into an empty session file; ``path`` is its name in messages."""
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
        with self._database.lock, self._database.errors(path):
            db = self._database.connection
            db.execute("ATTACH ? AS other", (f"{part.resolve().as_uri()}?mode=rw",))
            try:
                db.execute("BEGIN")
                for table, which in chosen.items():
                    # No schema before the source table: tables that version 2 added may be temporary ones here.
                    copy = f"INSERT INTO other.{table} SELECT * FROM {table} WHERE {which}"  # noqa: S608
                    db.execute(copy, {"s": session})
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                db.execute("DETACH other")
