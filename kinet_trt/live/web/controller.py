"""The station: the loop and the session together, and everything that a person at the page may do to them.

What a method that changes something has returned is on disk. What it means for the session (where fields overlap, the
sum, the hot spot) is worked out afterwards in a thread of the station's own; `Station.view` is the last that is known.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.core.ki67 import NET, Bands
from kinet_trt.live import clock
from kinet_trt.live.acquisition.loop import FrameResult, Loop
from kinet_trt.live.session.agreement import ReaderAgreement
from kinet_trt.live.session.edits import Edit, EditedNuclei, active, redoable
from kinet_trt.live.session.records import Field, Model, Note, Reading, Session
from kinet_trt.live.session.region import Mask, Polygon, Region
from kinet_trt.live.session.registration import Placed
from kinet_trt.live.session.session import OpenSession, nuclei_of
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import HOT_SPOT, SessionCount, Summary, field_counts, summarise

log = logging.getLogger(__name__)

KEPT = 6
"""Frames that were shown lately and can still be captured: what a person saw when the key went down."""
OLD = 5.0
"""s after which a picture is too old to be captured, where newer ones come."""
_POLL = 0.25  # s
_JOIN = 30.0  # s that `close` waits for the sum that is under way

TUMOR = 0.5
"""Probability from which on a pixel counts as tumour."""

HINDERED = {
    "damaged": "The lower part of the picture is missing.",
    "empty": "There is no tissue in the picture.",
    "blurred": "The picture is out of focus.",
    "moving": "The stage is moving.",
}
"""Why a frame is not offered for capture, as a person should read it."""


class RefusedError(KinetError):
    """What was asked for cannot be done now; nothing was changed."""


@dataclass(frozen=True, eq=False)
class FieldView:
    """A captured field as the page shows it.

    Attributes
    ----------
    field
        As it is stored.
    answer
        Its nuclei in the reading that is shown.
    counts
        Of them those in its region, by class, whether or not another field shows them too.
    corrections
        How many of a person's corrections of nuclei stand in that reading.
    undoable, redoable
        Whether there is a correction to undo, or an undone one to redo, in that reading.
    placed
        Where it lies; None until that is known.
    counted
        Which nuclei the session's sum takes from this field, bool [n]; None until that is known.
    notes
        About it.
    finished
        Whether the recount that is under way is done with it.
    blind
        Whether it is shown in a blind recount.
    unlike
        In which way it looks unlike the training data, a sentence; empty where it does not, or until that is known.
    """

    field: Field
    answer: EditedNuclei
    counts: dict[str, int]
    corrections: int
    undoable: bool
    redoable: bool
    placed: Placed | None
    counted: NDArray[np.bool_] | None
    notes: tuple[Note, ...]
    finished: bool
    blind: bool
    unlike: str = ""


@dataclass(frozen=True)
class Recount:
    """A second reader's count, and how it compares; ``agreement`` is None while no field is done."""

    reading: Reading
    done: int
    agreement: ReaderAgreement | None


@dataclass(frozen=True, eq=False)
class View:
    """What is known of the open session.

    Attributes
    ----------
    version
        Grows with every change, over all sessions of a station.
    session
        As it is stored.
    resumed
        Whether it was open when an earlier program was killed.
    reading, recount
        The session's first reading; and the recount that is under way, or None. A recount is blind: fields then hold
        that reader's nuclei, and there is no summary.
    fields
        In the order of capture.
    notes
        About the session; in a recount only those that were written in it.
    deleted
        Deleted fields that can be restored, the last deleted one last.
    count, summary
        None until they are worked out, and during a recount.
    recounts
        All, with how they agree; none during a recount.
    joining
        Whether fields are being joined or summed up now.
    trouble
        What went wrong with that; empty when nothing did.
    """

    version: int
    session: Session
    resumed: bool
    reading: Reading
    recount: Reading | None
    fields: tuple[FieldView, ...]
    notes: tuple[Note, ...]
    deleted: tuple[Field, ...] = ()
    count: SessionCount | None = None
    summary: Summary | None = None
    recounts: tuple[Recount, ...] = ()
    joining: bool = True
    trouble: str = ""

    def field(self, field: int) -> FieldView:
        """Return one field.

        Raises
        ------
        RefusedError
            If it is not of this session.
        """
        for one in self.fields:
            if one.field.id == field:
                return one
        raise RefusedError("there is no such field in the open session: it may have been deleted")


class Station:
    """A microscope with its open session. Use it as a context manager; every method may be called from any thread.

    Parameters
    ----------
    loop
        Entered by the caller after the station, and closed before it.
    store
        Where sessions are kept; the caller closes it. A session in it that was open when a program was killed is gone
        on with; else a new one begins. One that is left empty does not stay.
    title, reader
        Of a new session.
    bands
        Grade ranges; None: none.
    hot_spot
        Tumour nuclei of a hot spot.
    auto
        Capture automatically when the stage stops.
    old
        s after which a picture is too old to be captured. A paused picture, and the last one of a recording, never are;
        where pictures come slowly, it is three times the time between two of them.
    """

    def __init__(
        self,
        loop: Loop,
        store: Store,
        *,
        title: str = "",
        reader: str = "",
        bands: Bands | None = NET,
        hot_spot: int = HOT_SPOT,
        auto: bool = False,
        old: float = OLD,
    ) -> None:
        self._old, self._pace = old, 0.0  # s; pace: between the last two frames
        self._held: FrameResult | None = None  # the picture at which the page is paused
        self.loop, self.store, self.bands, self.hot_spot = loop, store, bands, hot_spot
        # Changes are one at a time, and may wait for a disk; what is known is read under a lock of its own meanwhile.
        self._changing = threading.RLock()
        self._lock = threading.Condition()
        self._stop = False
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._shown: OrderedDict[int, FrameResult] = OrderedDict()
        self._captured: dict[int, Field] = {}  # by sequence of the frame, of this session
        self._latest: FrameResult | None = None
        self._auto, self._rests = auto, 0
        self._region: Polygon | None = None
        self._said = ""  # what became of the last automatic capture, where it failed
        left = [one for one in store.sessions() if one.closed is None]
        session = left[-1] if left else store.create_session(title, reader)
        self._open = OpenSession(store, session.id)
        self._resumed = bool(left and store.fields(session.id))
        self._recount: Reading | None = None
        self._version = 1
        self._view = self._quick(self._open, None, 1)
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._summer = threading.Thread(target=self._sum_up, name="sum", daemon=True)

    def __enter__(self) -> Station:
        self._viewer = self.loop.viewer()
        self._watcher.start()
        self._summer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and leave the session, so that the next visit begins a new one."""
        with self._lock:
            if self._stop:
                return
            self._stop = True
            self._lock.notify_all()
        self._viewer.close()
        for thread in (self._watcher, self._summer):
            thread.join(_JOIN)
        try:
            self._leave()
        except KinetError as error:
            log.warning("the session could not be marked as left: %s", error)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function, from any thread, after every change; return what ends that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(one for one in self._listeners if one is not listener)

        return end

    # --- what can be seen ------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """The open session, as far as it is known."""
        with self._lock:
            joining = self._view.joining or self._view.version != self._version
            return replace(self._view, joining=joining)

    def field(self, field: int) -> FieldView:
        """Return a field of the open session with its nuclei as they are now, in the reading that is under way.

        Raises
        ------
        RefusedError
            If it is not of this session.
        """
        with self._lock:
            version, view = self._version, self._view
        # A correction that was just made must be seen in the answer to the next question.
        return (view if view.version == version else self._quick(self._open, self._recount, version)).field(field)

    def unblinded(self) -> OpenSession:
        """Return the open session, for its report.

        Raises
        ------
        RefusedError
            During a recount, which must see nothing of the first reading.
        """
        with self._changing:
            if self._recount is not None:
                raise RefusedError("a recount is in progress: end it before looking at the session's count")
            return self._open

    @property
    def blind(self) -> bool:
        """Whether a recount is under way, which must see nothing of the model's and the first reader's nuclei."""
        return self._recount is not None

    @property
    def held(self) -> FrameResult | None:
        """The picture that every page shows while the live picture is paused; None: it is not."""
        with self._lock:
            return self._held

    def pause(self, sequence: int | None = None) -> None:
        """Stop counting, and hold a picture, which can be captured as long as it is held.

        Parameters
        ----------
        sequence
            `FrameResult.sequence` of the picture that was shown; None, or one that has passed: the last counted one.
        """
        with self._lock:
            shown = None if sequence is None else self._shown.get(sequence)
            counted = [one for one in (self._latest, *self._shown.values()) if one and one.detections is not None]
            self._held = self._held or shown or (counted[-1] if counted else None)
        self.loop.pause()
        if self.loop.status.phase != "paused":
            with self._lock:
                self._held = None
        self._tell()

    def resume(self) -> None:
        """Count again, also after a failure, and let the held picture go."""
        self.loop.resume()
        with self._lock:
            self._held = None
        self._tell()

    @property
    def latest(self) -> FrameResult | None:
        """The newest frame that went through the loop."""
        with self._lock:
            return self._latest

    @property
    def said(self) -> str:
        """Why the last automatic capture failed; empty when it did not."""
        with self._lock:
            return self._said

    def show(self, seen: FrameResult) -> None:
        """Note that a frame goes to a page: it can be captured while it is one of the last six."""
        with self._lock:
            self._shown[seen.sequence] = seen
            while len(self._shown) > KEPT:
                self._shown.popitem(last=False)

    # --- capture ---------------------------------------------------------------------------------------------------

    def capture(self, sequence: int, *, anyway: bool = False, automatic: bool = False) -> Field:
        """Keep the frame that was shown. When this returns, it is on disk.

        Parameters
        ----------
        sequence
            `FrameResult.sequence` of a frame that was shown.
        anyway
            Even if it is blurred or moves; a note says so.
        automatic
            Whether the resting stage did it.

        Returns
        -------
        Field
            What was kept; of a frame that was captured before, the field of then.

        Raises
        ------
        RefusedError
            If the frame is not there any more, too old, counted with another um/px than the one that was set since,
            not counted, empty, blurred or moving, or a recount is under way.
        KinetError
            If it could not be kept; nothing of it is then on disk.
        """
        with self._changing:
            if self._recount is not None:
                raise RefusedError("a recount is in progress: end it before capturing fields")
            if known := self._captured.get(sequence):
                return known
            with self._lock:
                held = self._held
                seen = held if held and held.sequence == sequence else self._shown.get(sequence)
                old = max(self._old, 3 * self._pace)
            if seen is None:
                raise RefusedError("that frame is no longer available: capture the one shown now")
            status = self.loop.status
            if seen is not held and status.phase != "ended" and (age := clock.now() - seen.at) > old:
                raise RefusedError(f"that frame is {age:.0f} s old: capture the one shown now")
            if self.loop.outdated(seen):
                again = "resume, so that it is counted again" if seen is held else "capture the next one"
                raise RefusedError(f"the pixel size was set after this picture was counted: {again}")
            if seen.detections is None:
                raise RefusedError(f"this picture was not counted: {seen.uncounted}")
            waived = {"blurred", "moving"} if anyway else set()
            hindrances = [word for word in seen.capture_blockers if word not in waived]
            if hindrances:
                raise RefusedError(" ".join(HINDERED[word] for word in hindrances))
            field = self._open.capture(
                seen.frame,
                seen.detections,
                model=Model.of(self.loop.counter),
                threshold=seen.threshold,
                mpp=seen.mpp,
                mpp_source=seen.mpp_source,
                automatic=automatic,
                region=self.region,
            )
            self._captured[sequence] = field
            self._change()
        if seen.capture_blockers:
            self.note(f"Captured although {' and '.join(seen.capture_blockers)}.", field.id)
        return field

    @property
    def auto(self) -> bool:
        """Whether a field is captured when the stage comes to rest."""
        with self._lock:
            return self._auto

    def set_auto(self, on: bool) -> None:
        """Capture automatically from the next stop of the stage on, or stop doing so."""
        with self._lock:
            self._auto, self._rests, self._said = on, self._latest.rests if self._latest else 0, ""
        self._tell()

    @property
    def region(self) -> Polygon | None:
        """What of the next captured fields counts; None: all."""
        with self._lock:
            return self._region

    def set_region(self, region: Polygon | None) -> None:
        """Let only a part of the next captured fields count."""
        with self._lock:
            self._region = region
        self._tell()

    # --- sessions --------------------------------------------------------------------------------------------------

    def begin(self, title: str = "", reader: str = "") -> Session:
        """Leave the open session and begin a new one."""
        with self._changing:
            session = self.store.create_session(title, reader)
            self._leave()
            self._enter(session)
        return session

    def reopen(self, session: int) -> Session:
        """Close the open session and continue an earlier one."""
        with self._changing:
            found = self.store.mark_session(session, opened=True)
            if session != self._open.id:
                self._leave()
                self._enter(found)
        return found

    def rename(self, title: str | None = None, reader: str | None = None) -> None:
        """Give the open session another title, or its first reader another name."""
        with self._changing:
            if title is not None:
                self.store.rename_session(self._open.id, title)
            if reader is not None:
                self._must_see("renaming its reader")
                self.store.rename_reader(self.store.readings(self._open.id)[0].id, reader)
            self._change()

    def delete_session(self, session: int) -> None:
        """Delete a session for good; where it is the open one, a new one begins."""
        with self._changing:
            if session == self._open.id:
                self._enter(self.store.create_session())
            self.store.delete_session(session)
            self._change()

    # --- fields ----------------------------------------------------------------------------------------------------

    def add(self, field: int, x: float, y: float, cls: str) -> Edit:
        """Add a nucleus at x, y, px of the field, in the reading that is under way."""
        return self._corrected(lambda reading: self.store.add(self._mine(field), x, y, cls, reading=reading))

    def remove(self, field: int, nucleus: int) -> Edit:
        """Remove a nucleus by its number."""
        return self._corrected(lambda reading: self.store.remove(self._mine(field), nucleus, reading=reading))

    def reclassify(self, field: int, nucleus: int, cls: str) -> Edit:
        """Give a nucleus another class, or confirm the one that it has."""
        return self._corrected(lambda reading: self.store.reclassify(self._mine(field), nucleus, cls, reading=reading))

    def undo(self, field: int | None = None) -> Edit | None:
        """Undo the last correction that stands; of one field, or of all."""
        return self._reversed(self.store.undo, field)

    def redo(self, field: int | None = None) -> Edit | None:
        """Redo the correction that was undone last; of one field, or of all."""
        return self._reversed(self.store.redo, field)

    def _reversed(self, reverse: Callable[..., Edit | None], field: int | None) -> Edit | None:
        chosen = None if field is None else self._mine(field)
        with self._changing:
            done = reverse(self._open.id, field=chosen, reading=self._recount.id if self._recount else None)
            self._change()
        return done

    def set_field_region(self, field: int, region: Region | None) -> None:
        """Let only a part of a field count."""
        with self._changing:
            self._must_see("changing the region of a field")
            self.store.set_region(self._mine(field), region)
            self._change()

    def limit_to_tumor(self, field: int) -> None:
        """Let only what the model takes for tumour count of a field.

        Raises
        ------
        KinetError
            If the model gives no tumour map, or finds no tumour in the field.
        """
        with self._changing:
            self._must_see("changing the region of a field")
            known = self.store.field(self._mine(field))
            frame = Frame(self.store.pixels(field), known.mpp)
            inside = self.loop.counter.tumor_map(frame) >= TUMOR
            if not inside.any():
                raise RefusedError("the model finds no tumour in this field: all of it counts as before")
            self.set_field_region(field, Mask(inside))

    def delete_field(self, field: int) -> None:
        """Take a field out of the session; it can be restored until the session is closed."""
        with self._changing:
            self._must_see("deleting a field")
            self.store.delete_field(self._mine(field))
            self._captured = {key: one for key, one in self._captured.items() if one.id != field}
            self._change()

    def restore_field(self, field: int) -> Field:
        """Bring a deleted field of the open session back."""
        with self._changing:
            self._must_see("restoring a field")
            if field not in {one.id for one in self.store.deleted_fields(self._open.id)}:
                raise RefusedError("there is no such deleted field in the open session")
            found = self.store.restore_field(field)
            self._change()
        return found

    def note(self, text: str, field: int | None = None) -> Note:
        """Write a note about the session or one of its fields."""
        with self._changing:
            if not text.strip():
                raise RefusedError("a note: expected text, found none")
            recount = self._recount
            reader = (recount or self.store.readings(self._open.id)[0]).reader
            about, written = field and self._mine(field), recount.id if recount else None
            note = self.store.note(self._open.id, text, reader=reader, field=about, reading=written)
            self._change()
        return note

    # --- second readers --------------------------------------------------------------------------------------------

    def begin_recount(self, reader: str, *, with_model: bool = False) -> Reading:
        """Let a second reader count the session blind, from nothing or from the model's nuclei."""
        with self._changing:
            if not self.store.fields(self._open.id):
                raise RefusedError("there is no field to recount yet")
            reading = self.store.start_recount(self._open.id, reader, "model" if with_model else "nothing")
            return self.go_on_recounting(reading.id)

    def go_on_recounting(self, reading: int) -> Reading:
        """Continue a recount."""
        with self._changing:
            found = [one for one in self.store.readings(self._open.id)[1:] if one.id == reading]
            if not found:
                raise RefusedError("the open session has no such recount")
            self._recount = found[0]
            self._change(at_once=True)
            return found[0]

    def end_recount(self) -> None:
        """Go back to the first reading."""
        with self._changing:
            self._recount = None
            self._change(at_once=True)

    def finish(self, field: int, done: bool = True) -> None:
        """Say that the recount is done with a field: only then it is compared."""
        with self._changing:
            if self._recount is None:
                raise RefusedError("no recount is in progress")
            self.store.finish(self._recount.id, self._mine(field), done)
            self._change()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _corrected(self, correct: Callable[[int | None], Edit]) -> Edit:
        with self._changing:
            made = correct(self._recount.id if self._recount else None)
            self._change()
        return made

    def _must_see(self, what: str) -> None:
        """Refuse what belongs to the first reading while a recount is in progress."""
        if self._recount is not None:
            raise RefusedError(f"a recount is in progress: end it before {what}")

    def _mine(self, field: int) -> int:
        """Return a field's id if it is of the open session: nobody changes another by a stale page."""
        known = self.store.field(field)
        if known.session != self._open.id:
            raise RefusedError("that field does not belong to the open session")
        return known.id

    def _enter(self, session: Session) -> None:
        self._open, self._recount, self._resumed = OpenSession(self.store, session.id), None, False
        self._captured, self._region = {}, None
        self._change(at_once=True)

    def _leave(self) -> None:
        """Close the session; one that nothing came into does not stay."""
        left = self.store.session(self._open.id)
        empty = not (self.store.fields(left.id) or self.store.notes(left.id) or left.title)
        if empty:
            self.store.delete_session(left.id)
        else:
            self.store.mark_session(left.id, opened=False)

    def _change(self, *, at_once: bool = False) -> None:
        """Let what is known be worked out anew; ``at_once``: show nothing of what was known before."""
        quick = self._quick(self._open, self._recount, self._version + 1) if at_once else None
        with self._lock:
            self._version += 1
            self._view = quick or self._view
            self._lock.notify_all()
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            listeners = self._listeners
        for listener in listeners:
            try:
                listener()
            # A page that is just being closed must not spoil what another one does.
            except Exception:
                log.debug("a listener failed", exc_info=True)

    def _watch(self) -> None:
        while not self._viewer.closed:
            seen = self._viewer.take(_POLL)
            if seen is None:
                continue
            with self._lock:
                self._pace = seen.at - self._latest.at if self._latest else 0.0
                self._latest = seen
                due = self._auto and seen.rests > self._rests and seen.can_capture and self._recount is None
                if due:
                    self._rests = seen.rests
                    self._shown.setdefault(seen.sequence, seen)
            if due:
                try:
                    self.capture(seen.sequence, automatic=True)
                    said = ""
                except KinetError as error:
                    log.warning("a field could not be captured automatically: %s", error)
                    said = str(error)
                with self._lock:
                    self._said = said
                self._tell()

    def _sum_up(self) -> None:
        done = 0
        prepared: OpenSession | None = None
        while True:
            with self._lock:
                while not self._stop and self._version == done:
                    self._lock.wait()
                if self._stop:
                    return
                done, session, recount = self._version, self._open, self._recount
            try:
                quick = self._quick(session, recount, done)
                self._publish(quick, session, recount)
                if prepared is not session:
                    session.prepare()
                    prepared = session
                view = quick if recount else self._full(session, quick)
                view = replace(view, joining=False)
            except KinetError as error:
                with self._lock:
                    view = replace(self._view, version=done, joining=False, trouble=str(error))
            # Whatever is wrong with one sum, fields must be captured on, and the page must say that it is.
            except Exception as error:
                log.exception("the session could not be summed up")
                with self._lock:
                    trouble = f"the session could not be summed up: {type(error).__name__}: {error}"
                    view = replace(self._view, version=done, joining=False, trouble=trouble)
            self._publish(view, session, recount)

    def _publish(self, view: View, session: OpenSession, recount: Reading | None) -> None:
        with self._lock:
            # Another session, or a blind recount, may have begun meanwhile: this view must not be seen in it.
            if session is self._open and recount == self._recount:
                self._view = view
        self._tell()

    def _quick(self, session: OpenSession, recount: Reading | None, version: int) -> View:
        """Return what needs no registration; what was known of the same session and reading stays until it is new."""
        store = self.store
        readings, fields, notes = store.readings(session.id), store.fields(session.id), store.notes(session.id)
        reading = recount or readings[0]
        if recount:  # blind: nothing that the first reader wrote, and no map by the model
            notes = [note for note in notes if note.reading == recount.id]
            fields = [replace(one, region=None) if isinstance(one.region, Mask) else one for one in fields]
        answers, done = store.answers(fields, reading), store.finished(reading.id)
        record: dict[int, list[Edit]] = {}
        for one in store.session_corrections(session.id):
            if one.reading == reading.id:
                record.setdefault(one.field, []).append(one)
        before = getattr(self, "_view", None)
        if before is not None and (before.session.id, before.recount) != (session.id, recount):
            before = None
        placed = {one.field.id: one.placed for one in before.fields} if before else {}
        unlike = {one.field.id: one.unlike for one in before.fields} if before else {}
        views = [
            FieldView(
                field=field,
                answer=answer,
                counts=field_counts(nuclei_of(field, answer)),
                corrections=sum(one.kind != "region" for one in active(record.get(field.id, []))),
                undoable=bool(active(record.get(field.id, []))),
                redoable=redoable(record.get(field.id, [])) is not None,
                placed=placed.get(field.id),
                counted=None,
                notes=tuple(note for note in notes if note.field == field.id),
                finished=field.id in done,
                unlike=unlike.get(field.id, ""),
                blind=recount is not None,
            )
            for field, answer in zip(fields, answers, strict=True)
        ]
        return View(
            version=version,
            session=session.session,
            resumed=self._resumed,
            reading=readings[0],
            recount=recount,
            fields=tuple(views),
            notes=tuple(note for note in notes if note.field is None),
            deleted=() if recount else tuple(store.deleted_fields(session.id)),
            count=before.count if before and not recount else None,
            summary=before.summary if before and not recount else None,
            recounts=before.recounts if before and not recount else (),
        )

    def _full(self, session: OpenSession, quick: View) -> View:
        """Add the sum, and how recounts agree with it."""
        counted = session.count()
        recounts = [
            Recount(one, len(self.store.finished(one.id)), session.agreement(one))
            for one in self.store.readings(session.id)[1:]
        ]
        fields = [
            replace(
                one,
                placed=counted.layout.placed.get(one.field.id),
                counted=counted.merged.counted.get(one.field.id),
                unlike=counted.unlike.get(one.field.id, ""),
            )
            for one in quick.fields
        ]
        return replace(
            quick,
            fields=tuple(fields),
            count=counted,
            summary=summarise(counted, hot_spot=self.hot_spot, bands=self.bands),
            recounts=tuple(recounts),
        )
