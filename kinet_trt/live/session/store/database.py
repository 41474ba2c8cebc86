"""Connection to a session file: opening, transactions, versions of the layout, and checks of stored values."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from kinet_trt.core.errors import KinetError, shown
from kinet_trt.io.sqlite import sqlite_errors
from kinet_trt.live.session.schema import ADDED, ADDED_TABLES, APPLICATION, TABLES, VERSION

_TYPES: dict[str, tuple[type, ...]] = {"i": (int,), "f": (int, float), "t": (str,)}


class Database:
    """SQLite database of a session file. Thread-safe: one transaction at a time.

    A committed transaction is on disk: the write-ahead log is synced at each commit (``synchronous=FULL``), so neither
    a killed process nor a power cut loses it. A transaction that fails leaves the file as it was.

    ``mode``: "rwc" creates a missing file; "rw"; "ro&immutable=1" opens a file that cannot be written.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self.writable = mode.startswith("rw")
        self.lock = threading.RLock()
        self._version = VERSION  # of the file's layout
        with self.errors():
            # Transactions are explicit, and the lock above serialises threads.
            uri = f"{path.resolve().as_uri()}?mode={mode}"
            self.connection = sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None, check_same_thread=False)
            try:
                is_new = self._check()
                self._identity = _identity(path)
                if self.writable:
                    self._set_up(is_new)
                if not is_new:
                    self._add_temporary_tables()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self.connection.close()

    def errors(self, path: Path | None = None) -> contextlib.AbstractContextManager[None]:
        """Return the context in which SQLite's errors are raised as KinetError."""
        return sqlite_errors(
            path or self.path,
            content="a session file",
            kept="earlier changes are kept",
            repair="restore it from a copy",
        )

    def damaged(self, reason: str) -> KinetError:
        """Return the error to raise when stored values are inconsistent."""
        return KinetError(f"{self.path}: the session file is damaged ({reason}): restore it from a copy")

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for reading."""
        with self.lock, self.errors():
            yield self.connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection within a transaction that is committed at the end; an inner one joins the outer one."""
        with self.lock, self.errors():
            db = self.connection
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
                # SQLite rolls back by itself when the disk is full.
                with contextlib.suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise

    def checked(self, rows: Sequence[Sequence[Any]], types: str) -> Sequence[Sequence[Any]]:
        """Return rows after checking the type of each value.

        ``types`` has a letter per column: "i" integer, "f" finite number, "t" text; a capital letter also accepts NULL.
        """
        for row in rows:
            for value, kind in zip(row, types, strict=True):
                if value is None and kind.isupper():
                    continue
                finite = not isinstance(value, float) or math.isfinite(value)
                if not (isinstance(value, _TYPES[kind.lower()]) and finite):
                    raise self.damaged(f"a value of the wrong type: {shown(value)}")
        return rows

    def _check(self) -> bool:
        """Return whether the file is new; raise if it belongs to another program, or has a newer version."""
        db = self.connection
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

    def _set_up(self, is_new: bool) -> None:
        """Set the connection's options; create the tables of a new file."""
        db = self.connection
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "foreign_keys = ON"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        # Copy the log into the file after each change, so that a copy of the file alone lacks at most the last change.
        db.execute("PRAGMA wal_autocheckpoint = 1").fetchall()
        # Overwrite deleted data: no picture of tissue is left in free pages.
        db.execute("PRAGMA secure_delete = ON").fetchall()
        if is_new:
            with self.write():
                if self._check():  # another process may have created the tables meanwhile
                    for statement in (*TABLES.split(";"), *ADDED.split(";")):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id = {APPLICATION}")
                    db.execute(f"PRAGMA user_version = {VERSION}")
            sync_folder(self.path)

    def _add_temporary_tables(self) -> None:
        """Add the tables that a file of an older version lacks, empty and in memory: reading leaves the file as is."""
        if self._version < VERSION:
            self.connection.execute("PRAGMA temp_store = MEMORY")
            for statement in ADDED.split(";"):
                self.connection.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE"))

    def _upgrade(self) -> None:
        """Upgrade a file of an older version, within the first transaction that writes to it."""
        if self._version == VERSION:
            return
        for name in ADDED_TABLES:
            self.connection.execute(f"DROP TABLE temp.{name}")
        for statement in ADDED.split(";"):
            self.connection.execute(statement)
        self.connection.execute(f"PRAGMA user_version = {VERSION}")


def inserted_id(cursor: sqlite3.Cursor) -> int:
    """Return the id of the row that was just inserted."""
    return cast(int, cursor.lastrowid)


def clean_text(name: str, text: str, max_length: int) -> str:
    """Return text as typed by a person, up to a length, with control characters replaced by spaces."""
    if not isinstance(text, str) or len(text) > max_length:
        raise KinetError(f"{name}: expected text of up to {max_length:,} characters, found {shown(text)}")
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip()
    return clean.encode("utf-8", "replace").decode()


def sync_folder(path: Path) -> None:
    """Sync the folder of a file, so that a new name in it survives a power cut."""
    if os.name != "posix":
        return
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
