"""A session file: one SQLite file with sessions, their fields, edits, readings, notes and links."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from kinet_trt.core.errors import KinetError
from kinet_trt.live.session.store.database import Database
from kinet_trt.live.session.store.edits import EditTable
from kinet_trt.live.session.store.fields import FieldTable
from kinet_trt.live.session.store.links import LinkTable
from kinet_trt.live.session.store.notes import NoteTable
from kinet_trt.live.session.store.readings import ReadingTable
from kinet_trt.live.session.store.sessions import SessionTable


class Store:
    """An open session file. Thread-safe.

    Once a method that changes something has returned, the change is on disk. Every method raises
    :class:`~kinet_trt.core.errors.KinetError`, and nothing else, for a full disk, a file that cannot be written, a
    damaged file, or a session or field that does not exist.

    Examples
    --------
    >>> with Store.open(Path("monday.kinet")) as store:  # doctest: +SKIP
    ...     session = store.sessions.create("Case 12", reader="A. Kim")
    ...     field = store.fields.capture(
    ...         session.id, frame, nuclei, model=Model.from_counter(counter), threshold=counter.threshold, mpp=0.25,
    ...         mpp_source="option")
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sessions = SessionTable(database)
        self.fields = FieldTable(database, self.sessions)
        self.readings = ReadingTable(database, self.sessions, self.fields)
        self.edits = EditTable(database, self.fields, self.readings)
        self.notes = NoteTable(database, self.sessions, self.fields)
        self.links = LinkTable(database, self.fields)

    @property
    def path(self) -> Path:
        """The file."""
        return self.database.path

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Store:
        """Open a session file, or create it.

        Without ``create``, a missing file is an error, and one that cannot be written is opened for reading.
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
        if create:
            if exists and not os.access(path, os.W_OK):
                raise KinetError(f"{path}: cannot be written: no right to write the file")
            return cls(Database(path, "rwc"))
        log = path.with_name(f"{path.name}-wal")
        has_log = log.exists() and log.stat().st_size > 0
        try:
            if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
                return cls(Database(path, "rw"))
        except KinetError as error:
            # On a full disk SQLite cannot create its own files either: open the file for reading then.
            if has_log or not isinstance(error.__cause__, sqlite3.OperationalError) or "locked" in str(error.__cause__):
                raise
        if has_log:
            raise KinetError(f"{path}: cannot be read: it was not closed, and its log beside it cannot be written")
        return cls(Database(path, "ro&immutable=1"))

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
