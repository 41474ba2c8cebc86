"""Edits of nuclei and regions in a session file."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.live.session.edits import KINDS, Edit, EditedNuclei, Kind, active, class_index, redoable, replay
from kinet_trt.live.session.records import Field, Reading
from kinet_trt.live.session.region import Region
from kinet_trt.live.session.schema import DELETED
from kinet_trt.live.session.store.database import Database, inserted_id
from kinet_trt.live.session.store.fields import FieldTable, to_stored
from kinet_trt.live.session.store.readings import ReadingTable

_MAX_COORDINATE = 10_000_000  # px


class EditTable:
    """Edits of nuclei and regions, by reading; see :class:`~kinet_trt.live.session.store.Store`.

    In all methods ``reading`` is the id of a reading and defaults to the session's first one. An edit keeps the name
    that the reader of the reading then has.
    """

    def __init__(self, database: Database, fields: FieldTable, readings: ReadingTable) -> None:
        self._database, self._fields, self._readings = database, fields, readings

    def add(self, field: int, x: float, y: float, cls: str, *, reading: int | None = None) -> Edit:
        """Add a nucleus at x, y, px of the frame, with a class by name."""
        with self._database.write():
            known = self._fields.get(field)
            if not (-0.5 <= x < known.width - 0.5 and -0.5 <= y < known.height - 0.5):
                raise KinetError(
                    f"a nucleus at {x:g}, {y:g}: expected a place in the {known.width} x {known.height} px of the field"
                )
            of_reading = self._readings.of_field(known, reading)
            earlier = self.of_field(field, of_reading.id)
            number = len(_start(known, of_reading)) + sum(one.kind == "add" for one in earlier)
            return self._append(known, of_reading, "add", number, x=float(x), y=float(y), cls=cls)

    def remove(self, field: int, nucleus: int, *, reading: int | None = None) -> Edit:
        """Remove a nucleus by its number in the field; the model's result stays in the file."""
        return self._change("remove", field, nucleus, reading)

    def reclassify(self, field: int, nucleus: int, cls: str, *, reading: int | None = None) -> Edit:
        """Change the class of a nucleus; giving it the class that it has confirms it."""
        return self._change("reclassify", field, nucleus, reading, cls)

    def set_region(self, field: int, region: Region | None) -> Edit:
        """Limit the count of a field to a region; None: the whole field counts. :meth:`undo` reverts it."""
        with self._database.write() as db:
            known = self._fields.get(field)
            before, after = self._fields.stored_region(field), to_stored(region, known.height, known.width)
            made = self._append(known, self._readings.of_field(known), "region", -1)
            db.execute("INSERT INTO region_changes VALUES (?, ?, ?, ?, ?)", (made.id, *before, *after))
            self._fields.put_region(field, after)
        return made

    def undo(self, session: int, *, field: int | None = None, reading: int | None = None) -> Edit | None:
        """Undo the last active edit of a session or a field, and return it; each call goes one edit further back."""
        with self._database.write():
            candidates = active(self._of_reading(session, field, reading))
            if not candidates:
                return None
            self._reverse(candidates[-1], candidates[-1].id, "undo")
            return candidates[-1]

    def redo(self, session: int, *, field: int | None = None, reading: int | None = None) -> Edit | None:
        """Redo the edit that was undone last, and return it; possible until a new edit is made."""
        with self._database.write():
            edits = self._of_reading(session, field, reading)
            undo = redoable(edits)
            undone = next((one for one in edits if undo is not None and one.id == undo.undoes), None)
            if undo is None or undone is None:
                return None
            self._reverse(undone, undo.id, "redo")
            return undone

    def of_field(self, field: int, reading: int | None = None) -> list[Edit]:
        """Return the edits of a field in a reading, in order, undos included."""
        chosen = self._readings.of_field(self._fields.get(field), reading).id
        return [one for one in self._select("f.id = ?", field) if one.reading == chosen]

    def in_session(self, session: int) -> list[Edit]:
        """Return the edits of a session, of all readings, in order, undos included."""
        return self._select("f.session = ?", session)

    def by_field(self, reading: Reading) -> defaultdict[int, list[Edit]]:
        """Return the edits of a reading by field, in order, undos included."""
        edits: defaultdict[int, list[Edit]] = defaultdict(list)
        for one in self.in_session(reading.session):
            if one.reading == reading.id:
                edits[one.field].append(one)
        return edits

    def nuclei(self, field: int, reading: int | None = None) -> EditedNuclei:
        """Return the nuclei of a field after the edits of a reading."""
        with self._database.lock:
            known = self._fields.get(field)
            of_reading = self._readings.of_field(known, reading)
            return self._replay(known, of_reading, self.of_field(field, of_reading.id))

    def nuclei_of(self, fields: Sequence[Field], reading: Reading) -> list[EditedNuclei]:
        """Return the nuclei of several fields of a session after the edits of a reading."""
        edits = self.by_field(reading)
        return [self._replay(field, reading, edits[field.id]) for field in fields]

    def _of_reading(self, session: int, field: int | None, reading: int | None) -> list[Edit]:
        """Return the edits of a reading, of one field or of all."""
        chosen = self._readings.first(session).id if reading is None else reading
        return [one for one in self.in_session(session) if one.reading == chosen and field in (None, one.field)]

    def _select(self, which: str, value: int) -> list[Edit]:
        with self._database.read() as db:
            rows = db.execute(
                "SELECT c.id, c.field, c.reading, c.kind, c.nucleus, c.x, c.y, c.cls, c.undoes, c.reader, c.time "  # noqa: S608
                f"FROM corrections c JOIN fields f ON f.id = c.field WHERE {which} AND f.id NOT IN {DELETED} "
                "ORDER BY c.id",
                (value,),
            ).fetchall()
        edits = [Edit(*row) for row in self._database.checked(rows, "iiitiFFTItf")]
        for one in edits:
            nowhere = one.kind == "add" and (
                one.x is None or one.y is None or max(abs(one.x), abs(one.y)) > _MAX_COORDINATE
            )
            if one.kind not in KINDS or nowhere:
                raise self._database.damaged(f"edit {one.id}")
        return edits

    def _replay(self, field: Field, reading: Reading, edits: Sequence[Edit]) -> EditedNuclei:
        try:
            return replay(_start(field, reading), edits)
        except KinetError as error:
            raise self._database.damaged(str(error)) from error

    def _change(
        self,
        kind: Literal["remove", "reclassify"],
        field: int,
        nucleus: int,
        reading: int | None,
        cls: str | None = None,
    ) -> Edit:
        """Append an edit of a nucleus that must exist."""
        with self._database.write():
            known = self._fields.get(field)
            of_reading = self._readings.of_field(known, reading)
            nuclei = self.nuclei(field, of_reading.id)
            if not 0 <= nucleus < len(nuclei) or nuclei.removed[nucleus]:
                raise KinetError(f"field {known.number} has no nucleus {nucleus}: it may have been removed meanwhile")
            return self._append(known, of_reading, kind, nucleus, cls=cls)

    def _reverse(self, edit: Edit, cancels: int, kind: Literal["undo", "redo"]) -> None:
        """Append an undo or a redo of an edit, and change the region back where the edit is about one."""
        field = self._fields.get(edit.field)
        self._append(field, self._readings.of_field(field, edit.reading), kind, edit.nucleus, undoes=cancels)
        if edit.kind == "region":
            which = "before_kind, before" if kind == "undo" else "after_kind, after"
            query = f"SELECT {which} FROM region_changes WHERE correction = ?"  # noqa: S608
            with self._database.write() as db:
                stored = db.execute(query, (edit.id,)).fetchone()
            if stored is None:
                raise self._database.damaged(f"the region of edit {edit.id} is missing")
            self._fields.put_region(field.id, stored)

    def _append(
        self,
        field: Field,
        reading: Reading,
        kind: Kind,
        nucleus: int,
        *,
        x: float | None = None,
        y: float | None = None,
        cls: str | None = None,
        undoes: int | None = None,
    ) -> Edit:
        if cls is not None:
            class_index(cls, field.detections.classes)
        values = (field.id, reading.id, kind, int(nucleus), x, y, cls, undoes, reading.reader, time.time())
        with self._database.write() as db:
            cursor = db.execute(
                "INSERT INTO corrections (field, reading, kind, nucleus, x, y, cls, undoes, reader, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        return Edit(inserted_id(cursor), *values)


def _start(field: Field, reading: Reading) -> Detections:
    """Return the nuclei that a reading of a field starts with."""
    return field.detections if reading.start == "model" else Detections.empty(field.detections.classes)
