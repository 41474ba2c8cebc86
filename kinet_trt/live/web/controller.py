"""The controller: the counting loop and the open session together, with every action of the page.

Changes are on disk when a method returns. Registration and totals follow in a background thread; `Controller.view` is
the latest result.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.core.ki67 import NET, Bands
from kinet_trt.live.acquisition.loop import Loop
from kinet_trt.live.session.records import Field, Model, Note, Reading, Session
from kinet_trt.live.session.region import Mask, Polygon
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import HOT_SPOT
from kinet_trt.live.web.displayed import MAX_AGE, DisplayedFrames, RefusedError
from kinet_trt.live.web.view import CLOSE_TIMEOUT, FieldView, SessionView, ViewUpdater

log = logging.getLogger(__name__)

TUMOR_THRESHOLD = 0.5
"""Probability from which a pixel of the tumour map counts as tumour."""
CAPTURE_BLOCKERS = {
    "damaged": "The lower part of the picture is missing.",
    "empty": "There is no tissue in the picture.",
    "blurred": "The picture is out of focus.",
    "moving": "The stage is moving.",
}
"""Reasons not to offer a frame for capture, as sentences."""
_POLL = 0.25  # s


class Controller:
    """A microscope with its open session. Thread-safe; use it as a context manager.

    The caller enters ``loop`` after the controller and closes it before, and closes ``store``. A session that was open
    when an earlier process was killed is resumed, else a new one starts, with ``title`` and ``reader``. An empty
    session is removed when it is left. ``auto`` captures a field whenever the stage stops; ``hot_spot`` is the
    size of the hot spot in tumour nuclei; ``max_age`` is that of ``frames``, the `DisplayedFrames`.
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
        protocol: str | None = None,
        auto: bool = False,
        max_age: float = MAX_AGE,
    ) -> None:
        self.loop, self.store, self.bands, self.hot_spot = loop, store, bands, hot_spot
        self.protocol = protocol
        self.frames = DisplayedFrames(loop, max_age)
        # Serializes changes, which may wait for the disk; `_lock` guards what is read meanwhile.
        self._changing = threading.RLock()
        self._lock = threading.Lock()
        self._closed = False
        self._listeners: tuple[Callable[[], object], ...] = ()
        self._captured: dict[int, Field] = {}  # of this session, by sequence number of the frame
        self.auto, self._stage_stops = auto, 0
        self.auto_error = ""  # of the last automatic capture; empty if it succeeded
        self.region: Polygon | None = None  # of interest, for the next captured fields; None: the whole field
        interrupted = [session for session in store.sessions.all() if session.closed is None]
        session = interrupted[-1] if interrupted else store.sessions.create(title, reader)
        resumed = bool(interrupted and store.fields.in_session(session.id))
        self._open = OpenSession(store, session.id)
        self._recount: Reading | None = None
        self._views = ViewUpdater(self._open, resumed, hot_spot, bands, self.notify, protocol)
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Controller:
        self._viewer = self.loop.viewer()
        self._watcher.start()
        self._views.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and close the session, so that the next start begins a new one."""
        if self._closed:
            return
        self._closed = True
        self._viewer.close()
        self._watcher.join(CLOSE_TIMEOUT)
        self._views.close()
        try:
            self._leave()
        except KinetError as error:
            log.warning("the session could not be closed: %s", error)

    def listen(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener``, from any thread, after every change; return a function that ends it."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return end

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def view(self) -> SessionView:
        """Latest view of the open session."""
        return self._views.latest

    def field(self, field: int) -> FieldView:
        """Return a field of the open session with its current nuclei in the reading in progress."""
        for view in self._views.current().fields:
            if view.field.id == field:
                return view
        raise RefusedError("there is no such field in the open session: it may have been deleted")

    def unblinded(self) -> OpenSession:
        """Return the open session for reports and exports; refused during a recount, which is blind to them."""
        with self._changing:
            self._require_no_recount("looking at the session's count")
            return self._open

    @property
    def blind(self) -> bool:
        """Whether a recount is in progress, which is blind to the nuclei of the model and of the first reader."""
        return self._recount is not None

    # --- live view ---------------------------------------------------------------------------------------------------

    def set_auto(self, on: bool) -> None:
        """Capture automatically from the next stop of the stage on, or no longer."""
        latest = self.frames.latest
        with self._lock:
            self.auto, self._stage_stops, self.auto_error = on, latest.stage_stops if latest else 0, ""
        self.notify()

    def set_region(self, region: Polygon | None) -> None:
        """Set the region of interest for the next captured fields."""
        self.region = region
        self.notify()

    def capture(self, sequence: int, *, anyway: bool = False, automatic: bool = False) -> Field:
        """Capture a displayed frame by its sequence number; it is on disk when this returns, or nothing of it is.

        ``anyway`` captures it even if blurred or moving, with a note. A frame that was captured before returns its
        field. RefusedError if the frame is no longer available, too old, not counted, counted before the pixel size
        changed, empty, blurred or moving, or during a recount.
        """
        with self._changing:
            self._require_no_recount("capturing fields")
            if known := self._captured.get(sequence):
                return known
            seen = self.frames.find(sequence)
            if seen.detections is None:
                raise RefusedError(f"this picture was not counted: {seen.uncounted}")
            waived = {"blurred", "moving"} if anyway else set()
            if blockers := [reason for reason in seen.capture_blockers if reason not in waived]:
                raise RefusedError(" ".join(CAPTURE_BLOCKERS[reason] for reason in blockers))
            field = self.store.fields.capture(
                self._open.id,
                seen.frame,
                seen.detections,
                model=Model.from_counter(self.loop.counter),
                threshold=seen.threshold,
                mpp=seen.mpp,
                mpp_source=seen.mpp_source,
                automatic=automatic,
                region=self.region,
            )
            self._captured[sequence] = field
            self._changed()
        if seen.capture_blockers:
            self.note(f"Captured although {' and '.join(seen.capture_blockers)}.", field.id)
        return field

    # --- sessions ----------------------------------------------------------------------------------------------------

    def begin(self, title: str = "", reader: str = "") -> Session:
        """Close the open session and start a new one."""
        with self._changing:
            session = self.store.sessions.create(title, reader)
            self._leave()
            self._enter(session)
        return session

    def reopen(self, session: int) -> Session:
        """Close the open session and open an earlier one."""
        with self._changing:
            found = self.store.sessions.reopen(session)
            if session != self._open.id:
                self._leave()
                self._enter(found)
        return found

    def rename(self, title: str | None = None, reader: str | None = None) -> None:
        """Change the title of the open session or the name of its first reader."""
        with self._changing:
            if title is not None:
                self.store.sessions.rename(self._open.id, title)
            if reader is not None:
                self._require_no_recount("renaming its reader")
                self.store.readings.rename_reader(self.store.readings.first(self._open.id).id, reader)
            self._changed()

    def delete_session(self, session: int) -> None:
        """Delete a session permanently; a new one starts if it was open."""
        with self._changing:
            if session == self._open.id:
                self._enter(self.store.sessions.create())
            self.store.sessions.delete(session)
            self._changed()

    # --- fields ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def editing(self, field: int | None = None) -> Iterator[int | None]:
        """Serialize an edit of the open session, and publish it if it succeeds.

        Yields the id of the recount in progress, None for the first reading. Refused if the field belongs to another
        session: the page may be out of date.
        """
        with self._changing:
            if field is not None and self.store.fields.get(field).session != self._open.id:
                raise RefusedError("that field does not belong to the open session")
            yield self._recount.id if self._recount else None
            self._changed()

    @contextlib.contextmanager
    def first_reading(self, field: int, action: str) -> Iterator[None]:
        """Serialize an edit that is refused during a recount; ``action`` completes the message."""
        with self._changing:
            self._require_no_recount(action)
            with self.editing(field):
                yield

    def limit_to_tumor(self, field: int) -> None:
        """Set the region of a field to the model's tumour map; refused if there is no tumour in it."""
        with self.first_reading(field, "changing the region of a field"):
            frame = Frame(self.store.fields.pixels(field), self.store.fields.get(field).mpp)
            inside = self.loop.counter.tumor_map(frame) >= TUMOR_THRESHOLD
            if not inside.any():
                raise RefusedError("the model finds no tumour in this field: all of it counts as before")
            self.store.edits.set_region(field, Mask(inside))

    def delete_field(self, field: int) -> None:
        """Delete a field; it can be restored until the session is closed."""
        with self.first_reading(field, "deleting a field"):
            self.store.fields.delete(field)
            self._captured = {key: known for key, known in self._captured.items() if known.id != field}

    def restore_field(self, field: int) -> Field:
        """Restore a deleted field of the open session."""
        with self._changing:
            self._require_no_recount("restoring a field")
            if field not in {deleted.id for deleted in self.store.fields.deleted(self._open.id)}:
                raise RefusedError("there is no such deleted field in the open session")
            restored = self.store.fields.restore(field)
            self._changed()
        return restored

    def note(self, text: str, field: int | None = None) -> Note:
        """Add a note to the session or to one of its fields."""
        if not text.strip():
            raise RefusedError("a note: expected text, found none")
        with self.editing(field) as recount:
            reader = (self._recount or self.store.readings.first(self._open.id)).reader
            return self.store.notes.add(self._open.id, text, reader=reader, field=field, reading=recount)

    # --- recounts ----------------------------------------------------------------------------------------------------

    def begin_recount(self, reader: str, *, with_model: bool = False) -> Reading:
        """Start a blind recount by a second reader, from no nuclei or from the model's."""
        with self._changing:
            if not self.store.fields.in_session(self._open.id):
                raise RefusedError("there is no field to recount yet")
            reading = self.store.readings.start_recount(self._open.id, reader, "model" if with_model else "nothing")
            return self.resume_recount(reading.id)

    def resume_recount(self, reading: int) -> Reading:
        """Resume a recount."""
        with self._changing:
            found = next((one for one in self.store.readings.in_session(self._open.id)[1:] if one.id == reading), None)
            if found is None:
                raise RefusedError("the open session has no such recount")
            self._recount = found
            self._changed(at_once=True)
            return found

    def end_recount(self) -> None:
        """Return to the first reading."""
        with self._changing:
            self._recount = None
            self._changed(at_once=True)

    def finish(self, field: int, done: bool = True) -> None:
        """Mark a field as done in the recount in progress: only then is it compared."""
        with self.editing(field) as recount:
            if recount is None:
                raise RefusedError("no recount is in progress")
            self.store.readings.finish(recount, field, done)

    # --- internals ---------------------------------------------------------------------------------------------------

    def _require_no_recount(self, action: str) -> None:
        if self._recount is not None:
            raise RefusedError(f"a recount is in progress: end it before {action}")

    def _enter(self, session: Session) -> None:
        self._open, self._recount = OpenSession(self.store, session.id), None
        self._captured, self.region = {}, None
        self._changed(at_once=True)

    def _leave(self) -> None:
        """Close the open session, or delete it if it is empty."""
        session = self.store.sessions.get(self._open.id)
        if self.store.fields.in_session(session.id) or self.store.notes.in_session(session.id) or session.title:
            self.store.sessions.close(session.id)
        else:
            self.store.sessions.delete(session.id)

    def _changed(self, *, at_once: bool = False) -> None:
        self._views.update(self._open, self._recount, at_once=at_once)
        self.notify()

    def notify(self) -> None:
        """Call every listener."""
        with self._lock:
            listeners = self._listeners
        for listener in listeners:
            try:
                listener()
            # A page that is just closing must not break the request of another one.
            except Exception:
                log.debug("a listener failed", exc_info=True)

    def _watch(self) -> None:
        """Follow the loop's frames and capture automatically."""
        while not self._viewer.closed:
            seen = self._viewer.take(_POLL)
            if seen is None:
                continue
            self.frames.latest = seen
            with self._lock:
                if not (
                    self.auto and seen.stage_stops > self._stage_stops and seen.can_capture and self._recount is None
                ):
                    continue
                self._stage_stops = seen.stage_stops
            self.frames.show(seen)
            error = ""
            try:
                self.capture(seen.sequence, automatic=True)
            except KinetError as reason:
                log.warning("a field could not be captured automatically: %s", reason)
                error = str(reason)
            self.auto_error = error
            self.notify()
