"""Views: immutable snapshots of the open session for the page, computed quickly first and in full later."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.ki67 import Bands
from kinet_trt.live.session.agreement import ReaderAgreement
from kinet_trt.live.session.edits import EditedNuclei, active, redoable
from kinet_trt.live.session.layout import Placed
from kinet_trt.live.session.records import Field, Note, Reading, Session
from kinet_trt.live.session.region import Mask
from kinet_trt.live.session.session import OpenSession, nuclei_of
from kinet_trt.live.session.summary import SessionCount, Summary, summarise

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 30.0
"""s that closing waits for a computation in progress."""


@dataclass(frozen=True, eq=False)
class FieldView:
    """A captured field as the page shows it."""

    field: Field
    answer: EditedNuclei  # its nuclei in the displayed reading
    counts: dict[str, int]  # nuclei inside its region by class, including those that another field also shows
    corrections: int  # number of corrected nuclei in that reading
    undoable: bool  # that reading has an edit to undo
    redoable: bool
    placed: Placed | None  # position on the map; None until it is known
    counted: NDArray[np.bool_] | None  # its nuclei that are in the session's total, bool [n]; None until it is known
    notes: tuple[Note, ...]
    finished: bool  # done in the recount in progress
    blind: bool  # a blind recount is in progress
    unlike: str = ""  # how it differs from the training data, one sentence; empty if it does not, or until it is known


@dataclass(frozen=True)
class Recount:
    """A second reader's count and its agreement with the first; ``agreement`` is None while no field is done."""

    reading: Reading
    done: int
    agreement: ReaderAgreement | None


@dataclass(frozen=True, eq=False)
class SessionView:
    """The open session as the page shows it.

    A recount is blind: fields then have the second reader's nuclei, and there is no summary.
    """

    version: int  # grows with every change, across all sessions of a controller
    session: Session
    resumed: bool  # an earlier process was killed while it was open
    reading: Reading  # the first one
    recount: Reading | None  # in progress, or None
    fields: tuple[FieldView, ...]  # in the order of capture
    notes: tuple[Note, ...]  # on the session; during a recount only those written in it
    deleted: tuple[Field, ...] = ()  # can be restored, the last deleted one last
    count: SessionCount | None = None  # None until it is computed, and during a recount
    summary: Summary | None = None  # None as `count`
    recounts: tuple[Recount, ...] = ()  # with their agreement; empty during a recount
    joining: bool = True  # fields are being registered or summed
    trouble: str = ""  # error of the last computation; empty if there was none


def quick_view(
    session: OpenSession, recount: Reading | None, version: int, *, resumed: bool, previous: SessionView | None
) -> SessionView:
    """Return a view without registration; positions and totals are those of ``previous`` if of the same reading."""
    store = session.store
    readings, fields = store.readings.in_session(session.id), store.fields.in_session(session.id)
    notes = store.notes.in_session(session.id)
    reading = recount or readings[0]
    if recount:  # blind: no note of the first reader and no tumour map of the model
        notes = [note for note in notes if note.reading == recount.id]
        fields = [replace(field, region=None) if isinstance(field.region, Mask) else field for field in fields]
    answers, finished = store.edits.nuclei_of(fields, reading), store.readings.finished(reading.id)
    edits = store.edits.by_field(reading)
    if previous and (previous.session.id, previous.recount) != (session.id, recount):
        previous = None
    known = {view.field.id: view for view in previous.fields} if previous else {}
    views = []
    for field, answer in zip(fields, answers, strict=True):
        effective, before = active(edits[field.id]), known.get(field.id)
        views.append(
            FieldView(
                field=field,
                answer=answer,
                counts=nuclei_of(field, answer).detections().counts(),
                corrections=sum(edit.kind != "region" for edit in effective),
                undoable=bool(effective),
                redoable=redoable(edits[field.id]) is not None,
                placed=before.placed if before else None,
                counted=None,
                notes=tuple(note for note in notes if note.field == field.id),
                finished=field.id in finished,
                blind=recount is not None,
                unlike=before.unlike if before else "",
            )
        )
    view = SessionView(
        version=version,
        session=session.session,
        resumed=resumed,
        reading=readings[0],
        recount=recount,
        fields=tuple(views),
        notes=tuple(note for note in notes if note.field is None),
        deleted=() if recount else tuple(store.fields.deleted(session.id)),
    )
    if previous is None or recount:
        return view
    return replace(view, count=previous.count, summary=previous.summary, recounts=previous.recounts)


def full_view(
    session: OpenSession, quick: SessionView, *, hot_spot: int, bands: Bands | None, protocol: str | None = None
) -> SessionView:
    """Return a view with positions, the total, the summary and the agreement of recounts."""
    count = session.count()
    recounts = [
        Recount(reading, len(session.store.readings.finished(reading.id)), session.agreement(reading))
        for reading in session.store.readings.in_session(session.id)[1:]
    ]
    fields = [
        replace(
            view,
            placed=count.layout.placed.get(view.field.id),
            counted=count.merged.counted.get(view.field.id),
            unlike=count.domain_warnings.get(view.field.id, ""),
        )
        for view in quick.fields
    ]
    summary = summarise(count, hot_spot=hot_spot, bands=bands, protocol=protocol)
    return replace(quick, fields=tuple(fields), count=count, summary=summary, recounts=tuple(recounts))


class ViewUpdater:
    """Keeps the view of the open session up to date, in a thread that calls ``notify``. Thread-safe."""

    def __init__(
        self,
        session: OpenSession,
        resumed: bool,
        hot_spot: int,
        bands: Bands | None,
        notify: Callable[[], None],
        protocol: str | None = None,
    ) -> None:
        self._hot_spot, self._bands, self._notify, self._protocol = hot_spot, bands, notify, protocol
        self._condition = threading.Condition()
        self._stop = False
        self._version, self._session, self._resumed = 1, session, resumed
        self._recount: Reading | None = None
        self._view = quick_view(session, None, 1, resumed=resumed, previous=None)
        self.thread = threading.Thread(target=self._run, name="sum", daemon=True)

    def close(self) -> None:
        """Stop the thread."""
        with self._condition:
            self._stop = True
            self._condition.notify_all()
        self.thread.join(CLOSE_TIMEOUT)

    @property
    def latest(self) -> SessionView:
        """Latest view, which may be older than the last change."""
        with self._condition:
            return replace(self._view, joining=self._view.joining or self._view.version != self._version)

    def current(self) -> SessionView:
        """Return a view with every change made so far; positions and totals may be older."""
        with self._condition:
            version, view, session, recount = self._version, self._view, self._session, self._recount
        return view if view.version == version else self._quick(session, recount, version)

    def update(self, session: OpenSession, recount: Reading | None, *, at_once: bool) -> None:
        """Request a new view after a change; ``at_once`` replaces the old one before this returns."""
        if session is not self._session:
            self._resumed = False
        view = self._quick(session, recount, self._version + 1) if at_once else None
        with self._condition:
            self._version += 1
            self._session, self._recount, self._view = session, recount, view or self._view
            self._condition.notify_all()

    def _run(self) -> None:
        done = 0
        prepared: OpenSession | None = None
        while True:
            with self._condition:
                while not self._stop and self._version == done:
                    self._condition.wait()
                if self._stop:
                    return
                done, session, recount = self._version, self._session, self._recount
            try:
                view = self._quick(session, recount, done)
                self._publish(view, session, recount)
                if prepared is not session:
                    session.prepare()
                    prepared = session
                if not recount:
                    view = full_view(session, view, hot_spot=self._hot_spot, bands=self._bands, protocol=self._protocol)
                view = replace(view, joining=False)
            except KinetError as error:
                view = replace(self.latest, version=done, joining=False, trouble=str(error))
            # Capture must go on after any failure here, and the page must show it.
            except Exception as error:
                log.exception("the session could not be summed up")
                trouble = f"the session could not be summed up: {type(error).__name__}: {error}"
                view = replace(self.latest, version=done, joining=False, trouble=trouble)
            self._publish(view, session, recount)

    def _publish(self, view: SessionView, session: OpenSession, recount: Reading | None) -> None:
        with self._condition:
            # Another session or a blind recount may have begun meanwhile, which must not show this view.
            if session is self._session and recount == self._recount:
                self._view = view
        self._notify()

    def _quick(self, session: OpenSession, recount: Reading | None, version: int) -> SessionView:
        return quick_view(session, recount, version, resumed=self._resumed, previous=self._view)
