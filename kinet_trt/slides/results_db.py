"""Database of counted tiles: one SQLite file that stores the nuclei of each tile as soon as they are counted.

Each tile is saved in one transaction, so a killed run leaves it complete or absent. The file belongs to one plan, whose
identity it stores; another model, threshold, region or slide needs another file. A power failure loses at most the last
tiles, which are counted again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.lock_file import LockFile
from kinet_trt.io.sqlite import sqlite_errors
from kinet_trt.slides.plan import Plan

SUFFIX = ".tiles"
APPLICATION = 0x4B4E5449
"""SQLite's application_id of these files: "KNTI"."""
VERSION = 2
_TABLES = """
CREATE TABLE plan (identity TEXT NOT NULL);
CREATE TABLE tiles (number INTEGER PRIMARY KEY, nuclei BLOB NOT NULL, crc INTEGER NOT NULL);
"""
_NUCLEUS = np.dtype([("x", "<f4"), ("y", "<f4"), ("cls", "u1"), ("score", "<f4"), ("dab", "<f4")])


class ResultsDB:
    """The counted tiles of one plan. Thread-safe.

    Every method raises a KinetError if the disk is full, the file is damaged, or another program is counting the same
    slide.

    Parameters
    ----------
    path
        The file; created if missing. ``NAME.lock`` beside it marks it as in use.
    plan
        The plan whose tiles it contains.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self._plan = plan
        self._wanted = frozenset(plan.tiles)
        self._lock = threading.Lock()
        self._in_use = LockFile(path)
        if not self._in_use.acquire():
            raise KinetError(f"{path}: another program is counting this slide. Wait for it, or end it")
        try:
            with self._errors():
                self._connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
                try:
                    self._prepare()
                except BaseException:
                    self._connection.close()
                    raise
        except BaseException:
            self._in_use.release()
            raise

    def _prepare(self) -> None:
        db = self._connection
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise KinetError(f"{self.path}: expected counted tiles, found a file of another program. Delete or move it")
        # Each tile is passed to the operating system at once and synced to disk later: a killed process loses nothing.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            db.execute("INSERT INTO plan (identity) VALUES (?)", (self._plan.identity,))
            db.execute("COMMIT")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        found = db.execute("SELECT identity FROM plan").fetchone()
        if version != VERSION or found != (self._plan.identity,):
            raise KinetError(
                f"{self.path}: these tiles are from another slide, or were counted with another model, threshold, "
                "region or version. Delete the file"
            )

    def save(self, number: int, nuclei: Detections) -> bool:
        """Save the nuclei of a tile, with ``dab``; if it was saved before, change nothing and return False."""
        if number not in self._wanted:
            raise KinetError(f"{self.path}: tile {number} is not in the plan")
        if nuclei.classes != self._plan.classes:
            raise KinetError(f"{self.path}: the classes of the nuclei differ from the plan's")
        if nuclei.dab is None and len(nuclei):
            raise KinetError(f"{self.path}: expected nuclei with dab, found none. Measure it (measure_dab)")
        rows = np.empty(len(nuclei), _NUCLEUS)
        for name in (_NUCLEUS.names or ()) if len(nuclei) else ():
            rows[name] = getattr(nuclei, name)
        blob = rows.tobytes()
        with self._lock, self._errors():
            cursor = self._connection.execute(
                "INSERT OR IGNORE INTO tiles (number, nuclei, crc) VALUES (?, ?, ?)", (number, blob, zlib.crc32(blob))
            )
            return cursor.rowcount == 1

    def saved(self) -> set[int]:
        """Return the numbers of the tiles that are counted."""
        with self._lock, self._errors():
            return {number for (number,) in self._connection.execute("SELECT number FROM tiles")}

    def missing(self) -> list[int]:
        """Return the numbers of the tiles that are not counted yet, ascending."""
        saved = self.saved()
        return [number for number in self._plan.tiles if number not in saved]

    def tile(self, number: int) -> Detections:
        """Return the nuclei of a counted tile, px of level 0, in raster order."""
        with self._lock, self._errors():
            row = self._connection.execute("SELECT nuclei, crc FROM tiles WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise KinetError(f"{self.path}: tile {number} is not counted yet")
        blob, crc = row
        if not isinstance(blob, bytes) or zlib.crc32(blob) != crc or len(blob) % _NUCLEUS.itemsize:
            raise KinetError(f"{self.path}: the file is damaged. Delete it to count the slide again")
        rows = np.frombuffer(blob, _NUCLEUS)
        columns = {name: np.ascontiguousarray(rows[name]) for name in _NUCLEUS.names or ()}
        return Detections(classes=self._plan.classes, **columns)

    def tiles_with_most_nuclei(self, n: int) -> list[int]:
        """Return the numbers of the n tiles with the most nuclei, in descending order of nuclei."""
        with self._lock, self._errors():
            rows = self._connection.execute(
                "SELECT number FROM tiles ORDER BY length(nuclei) DESC, number LIMIT ?", (n,)
            )
            return [number for (number,) in rows]

    def iter_detections(self) -> Iterator[Detections]:
        """Yield all nuclei in raster order, one row of tiles at a time."""
        columns = len(self._plan.columns)
        for _, numbers in groupby(self._plan.tiles, lambda number: number // columns):
            row = Detections.concatenate(map(self.tile, numbers))
            yield row[np.lexsort((row.x, row.y))]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
            self._in_use.release()

    def __enter__(self) -> ResultsDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return sqlite_errors(
            self.path,
            content="counted tiles",
            kept="earlier tiles are kept",
            repair="delete it to count the slide again",
        )


Ledger = ResultsDB  # name before 0.2
