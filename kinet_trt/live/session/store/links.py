"""Links between overlapping fields of a session file."""

from __future__ import annotations

from collections.abc import Sequence

from kinet_trt.live.session.records import Link
from kinet_trt.live.session.schema import DELETED
from kinet_trt.live.session.store.database import Database
from kinet_trt.live.session.store.fields import FieldTable

_MAX_OFFSET, _MAX_PAIRS = 10_000_000, 10_000_000  # um, nuclei


class LinkTable:
    """Links between overlapping fields; see :class:`~kinet_trt.live.session.store.Store`."""

    def __init__(self, database: Database, fields: FieldTable) -> None:
        self._database, self._fields = database, fields

    def save(self, field: int, links: Sequence[Link], version: int) -> None:
        """Store the links that a version of the registration found for a field; replaces links of the same pairs."""
        with self._database.write() as db:
            self._fields.get(field)
            db.executemany(
                "INSERT OR REPLACE INTO links (first, second, dx, dy, pairs, likeness) VALUES (?, ?, ?, ?, ?, ?)",
                [(one.first, one.second, one.dx, one.dy, one.pairs, one.likeness) for one in links],
            )
            db.execute("UPDATE fields SET registered = ? WHERE id = ?", (version, field))

    def in_session(self, session: int) -> list[Link]:
        """Return the links between the fields of a session."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT l.first, l.second, l.dx, l.dy, l.pairs, l.likeness FROM links l "  # noqa: S608
                f"JOIN fields f ON f.id = l.first WHERE f.session = ? AND l.first NOT IN {DELETED} "
                f"AND l.second NOT IN {DELETED} ORDER BY l.second, l.first",
                (session,),
            ).fetchall()
        links = [Link(*row) for row in self._database.checked(rows, "iiffif")]
        if any(max(abs(one.dx), abs(one.dy)) > _MAX_OFFSET or not 0 < one.pairs < _MAX_PAIRS for one in links):
            raise self._database.damaged("a link")
        return links
