"""What people changed of the model's answer: an append-only record, and the answer that replaying it gives.

Nothing is ever overwritten: a nucleus that was removed or given another class keeps what the model said of it, and an
undo or a redo is one more entry. Nuclei are numbered within a field: the model's first, in raster order, then those
that were added, in the order of the record (undone ones keep their number).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError, shown

Kind = Literal["add", "remove", "reclassify", "region", "undo", "redo"]
KINDS: tuple[Kind, ...] = ("add", "remove", "reclassify", "region", "undo", "redo")
REVERSALS = ("undo", "redo")
"""Kinds of entries that cancel an earlier one."""


@dataclass(frozen=True)
class Edit:
    """One entry of the record.

    Attributes
    ----------
    id
        Ascending in the order in which they were made.
    field, reading
        What it belongs to.
    kind
        ``"add"``, ``"remove"``, ``"reclassify"``, ``"region"`` (another region of the field counts), ``"undo"`` or
        ``"redo"``.
    nucleus
        Number of the nucleus in its field; -1 where the entry is about the region.
    x, y
        Of an added nucleus, px of the frame; else None.
    cls
        New class by name, of ``"add"`` and ``"reclassify"``; else None.
    undoes
        Of ``"undo"``: the id of the correction that no longer counts. Of ``"redo"``: the id of the undo that no longer
        counts.
    reader
        Who made it, as typed.
    time
        s since the epoch.
    """

    id: int
    field: int
    reading: int
    kind: Kind
    nucleus: int
    x: float | None
    y: float | None
    cls: str | None
    undoes: int | None
    reader: str
    time: float


@dataclass(frozen=True, eq=False)
class EditedNuclei:
    """The nuclei of a field in one reading, those that a person removed included.

    Attributes
    ----------
    x, y
        Centres, float32 [n], px of the frame.
    cls
        Class now, index in ``classes``, uint8 [n].
    model_cls
        Class that the model gave, int16 [n]; -1 where it found none.
    score
        The model's, float32 [n]; NaN where it found none.
    removed
        Whether a person removed it, bool [n].
    touched
        id of the last correction that holds for it, int64 [n]; -1: as the model left it.
    classes
        Class names.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]
    model_cls: NDArray[np.int16]
    score: NDArray[np.float32]
    removed: NDArray[np.bool_]
    touched: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)

    def detections(self) -> Detections:
        """Return the nuclei that are there, in raster order; a nucleus that a person added has the score 1."""
        there = np.flatnonzero(~self.removed)
        there = there[np.lexsort((self.x[there], self.y[there]))]
        score = np.where(np.isnan(self.score), np.float32(1), self.score)
        return Detections(self.x[there], self.y[there], self.cls[there], score[there], self.classes)

    def counts(self) -> dict[str, int]:
        """Return the number of nuclei of each class that are there."""
        numbers = np.bincount(self.cls[~self.removed], minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, numbers, strict=True)}


def active(record: Sequence[Edit]) -> list[Edit]:
    """Return the corrections that count: those that were not undone, or were redone; without undos and redos."""
    cancelled = _cancelled(record)
    return [one for one in record if one.kind not in REVERSALS and one.id not in cancelled]


def redoable(record: Sequence[Edit]) -> Edit | None:
    """Return the undo that a redo takes back: the last one that no correction follows. None: nothing can be redone."""
    cancelled = _cancelled(record)
    for one in reversed(record):
        if one.kind == "undo" and one.id not in cancelled:
            return one
        if one.kind not in REVERSALS:
            return None
    return None


def _cancelled(record: Sequence[Edit]) -> set[int]:
    """Return the ids of the entries that a later one cancels."""
    cancelled: set[int] = set()
    # From the end: a redo cancels an undo, which then cancels nothing.
    for one in reversed(record):
        if one.kind in REVERSALS and one.undoes is not None and one.id not in cancelled:
            cancelled.add(one.undoes)
    return cancelled


def replay(model: Detections, record: Sequence[Edit]) -> EditedNuclei:
    """Return the answer of a reading of one field.

    Parameters
    ----------
    model
        What the reading began with: the model's nuclei, or none.
    record
        The field's corrections in that reading, in order.

    Raises
    ------
    KinetError
        If an entry speaks of a nucleus or a class that does not exist: the record is damaged.
    """
    record = [one for one in record if one.nucleus >= 0 or one.kind not in ("region", *REVERSALS)]
    added = [one for one in record if one.kind == "add"]
    n, total = len(model), len(model) + len(added)
    grown = len(added)
    x, y, cls = (
        np.concatenate([model.x, np.array([one.x or 0.0 for one in added], np.float32)]),
        np.concatenate([model.y, np.array([one.y or 0.0 for one in added], np.float32)]),
        np.concatenate([model.cls, np.zeros(grown, np.uint8)]),
    )
    model_cls = np.concatenate([model.cls.astype(np.int16), np.full(grown, -1, np.int16)])
    score = np.concatenate([model.score, np.full(grown, np.nan, np.float32)])
    removed = np.arange(total) >= n  # an added nucleus is there only while its entry stands
    touched = np.full(total, -1, np.int64)
    for one in record:
        if not 0 <= one.nucleus < total or (one.cls is None) != (one.kind in ("remove", *REVERSALS)):
            raise KinetError(f"the record of corrections is damaged: entry {one.id} refers to no nucleus of its field")
    for one in active(record):
        removed[one.nucleus] = one.kind == "remove"
        touched[one.nucleus] = one.id
        if one.cls is not None:
            cls[one.nucleus] = class_index(one.cls, model.classes)
    return EditedNuclei(x, y, cls, model_cls, score, removed, touched, model.classes)


def class_index(name: str, classes: tuple[str, ...]) -> int:
    """Return the index of a class.

    Raises
    ------
    KinetError
        If the model has no such class.
    """
    if name not in classes:
        raise KinetError(f"a nucleus' class: expected one of {', '.join(classes)}, found {shown(name)}")
    return classes.index(name)
