"""Edits of the model's nuclei: an append-only list, and its replay.

Nothing is overwritten: a removed or reclassified nucleus keeps the model's result, and an undo or a redo is one more
entry. Nuclei are numbered within a field: the model's first, in raster order, then added ones, in the order of the
edits; undone ones keep their number.
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
"""Kinds of edits that cancel an earlier one."""


@dataclass(frozen=True)
class Edit:
    """One edit; ids are in the order of the edits."""

    id: int
    field: int
    reading: int
    kind: Kind  # region: change of the region of the field
    nucleus: int  # its number in the field; -1 for edits of the region
    x: float | None  # px of the frame, of an added nucleus; None for other edits
    y: float | None
    cls: str | None  # new class by name for add and reclassify; None for other edits
    undoes: int | None  # id of the edit that it cancels: for undo any edit, for redo an undo
    reader: str
    time: float  # s since the epoch


@dataclass(frozen=True, eq=False)
class EditedNuclei:
    """Nuclei of a field after the edits of one reading, removed ones included."""

    x: NDArray[np.float32]  # [n], px of the frame
    y: NDArray[np.float32]
    cls: NDArray[np.uint8]  # index in `classes`
    model_cls: NDArray[np.int16]  # -1 for added nuclei
    score: NDArray[np.float32]  # by the model; NaN for added nuclei
    removed: NDArray[np.bool_]
    last_edit: NDArray[np.int64]  # id of the last active edit; -1 without edits
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)

    def detections(self, inside: NDArray[np.bool_] | bool = True) -> Detections:
        """Return the nuclei ``inside``, [n], that were not removed, in raster order; added nuclei have the score 1."""
        kept = np.flatnonzero(~self.removed & inside)
        kept = kept[np.lexsort((self.x[kept], self.y[kept]))]
        score = np.where(np.isnan(self.score), np.float32(1), self.score)
        return Detections(self.x[kept], self.y[kept], self.cls[kept], score[kept], self.classes)


def active(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits in effect: neither undone nor themselves undos or redos."""
    cancelled = _cancelled(edits)
    return [one for one in edits if one.kind not in REVERSALS and one.id not in cancelled]


def redoable(edits: Sequence[Edit]) -> Edit | None:
    """Return the undo that a redo cancels: the last one that no new edit follows; None if nothing can be redone."""
    cancelled = _cancelled(edits)
    for one in reversed(edits):
        if one.kind == "undo" and one.id not in cancelled:
            return one
        if one.kind not in REVERSALS:
            return None
    return None


def _cancelled(edits: Sequence[Edit]) -> set[int]:
    """Return the ids of the edits that a later one cancels."""
    cancelled: set[int] = set()
    # From the end, because a redo cancels an undo, which then cancels nothing.
    for one in reversed(edits):
        if one.kind in REVERSALS and one.undoes is not None and one.id not in cancelled:
            cancelled.add(one.undoes)
    return cancelled


def replay(model: Detections, edits: Sequence[Edit]) -> EditedNuclei:
    """Return the nuclei of a field after the edits, in order, of one reading, which started with ``model`` or none.

    KinetError if an edit refers to a nucleus or a class that does not exist.
    """
    edits = [one for one in edits if one.nucleus >= 0 or one.kind not in ("region", *REVERSALS)]
    added = [one for one in edits if one.kind == "add"]
    n, total = len(model), len(model) + len(added)
    x, y, cls = (
        np.concatenate([model.x, np.array([one.x or 0.0 for one in added], np.float32)]),
        np.concatenate([model.y, np.array([one.y or 0.0 for one in added], np.float32)]),
        np.concatenate([model.cls, np.zeros(len(added), np.uint8)]),
    )
    model_cls = np.concatenate([model.cls.astype(np.int16), np.full(len(added), -1, np.int16)])
    score = np.concatenate([model.score, np.full(len(added), np.nan, np.float32)])
    removed = np.arange(total) >= n  # an added nucleus exists while its edit is active
    last_edit = np.full(total, -1, np.int64)
    for one in edits:
        if not 0 <= one.nucleus < total or (one.cls is None) != (one.kind in ("remove", *REVERSALS)):
            raise KinetError(f"edit {one.id} refers to no nucleus of its field")
    for one in active(edits):
        removed[one.nucleus] = one.kind == "remove"
        last_edit[one.nucleus] = one.id
        if one.cls is not None:
            cls[one.nucleus] = class_index(one.cls, model.classes)
    return EditedNuclei(x, y, cls, model_cls, score, removed, last_edit, model.classes)


def class_index(name: str, classes: tuple[str, ...]) -> int:
    """Return the index of a class; KinetError if it is unknown."""
    if name not in classes:
        raise KinetError(f"a nucleus' class: expected one of {', '.join(classes)}, found {shown(name)}")
    return classes.index(name)
