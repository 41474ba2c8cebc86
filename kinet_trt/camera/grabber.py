"""Read a source in a thread: keep its newest frame, reconnect, and check the um/px."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

from kinet_trt.camera.source import CameraError, FrameSource, NoFrameError, Properties, RecordingError, SourceFrame
from kinet_trt.core.errors import ImageError, KinetError

log = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses before the first, second, ... attempt to reconnect, s; the last one repeats."""
PATIENCE = 5.0
"""Time without a frame after which a camera is closed and opened again, s."""
_READ = 0.5  # s: timeout of one call of `FrameSource.newest`, and so how long `close` waits if the source obeys
_CLOSE = 15.0  # s: how long `FrameGrabber.close` waits for a source that ignores its timeout
_WINDOW = 2.0  # s: window of the frame rate
_BAD_FRAMES = 10  # consecutive: the camera is opened again

Phase = Literal["connecting", "connected", "stalled", "reconnecting", "ended", "closed"]


@dataclass(frozen=True)
class CameraState:
    """State of the camera."""

    phase: Phase  # stalled: connected, but without frames; reconnecting: waiting for the next attempt
    seconds: float  # time in this phase, s
    why: str = ""  # last error; empty while frames come
    retry_in: float | None = None  # s; None unless reconnecting
    name: str = ""  # empty before it is opened
    fps: float = 0.0  # frames received per second, over the last 2 s
    frames: int = 0  # received
    dropped: int = 0  # received, and replaced by a newer one before they were taken
    missed: int = 0  # numbered by the camera, but not received
    bad: int = 0  # damaged and skipped
    width: int = 0  # px of the last frame, as `height`; 0 before the first
    height: int = 0
    mpp: float | None = None  # um/px of the last frame; None if unknown
    mpp_note: str = ""  # why the um/px of frames is rejected; empty if it is accepted
    bad_why: str = ""  # error of the last damaged frame

    def sentence(self) -> str:
        """Return the state as a sentence."""
        if self.phase == "connected":
            lost = self.dropped + self.missed
            return f"{self.name} connected: {self.fps:.0f} frames a second, {lost} dropped"
        if self.phase == "reconnecting":
            return f"reconnecting in {self.retry_in or 0:.0f} s because {self.why}"
        if self.phase == "stalled":
            return f"{self.name} stalled: no frame for {self.seconds:.0f} s"
        if self.phase == "connecting":
            since = f" for {self.seconds:.0f} s" if self.seconds >= 3 else ""
            return f"connecting{since}" + (f", again after: {self.why}" if self.why else "")
        if self.phase == "ended":
            return "; ".join(part for part in (self.why or "the recording has ended", self.damage()) if part)
        return "closed"

    def damage(self) -> str:
        """Return a sentence on the damaged frames; empty if there were none."""
        if not self.bad:
            return ""
        frames = "1 damaged frame was" if self.bad == 1 else f"{self.bad} damaged frames were"
        return f"{frames} skipped ({self.bad_why})"


@dataclass(frozen=True)
class _AcceptedMpp:
    """um/px and the frames that it applies to: of this size, and with this um/px stated by the source."""

    mpp: float
    size: tuple[int, int]
    stated: float | None


class FrameGrabber:
    """Thread that reads a source and keeps its newest frame. Use it as a context manager. Thread-safe.

    The reading thread does not wait for consumers: it keeps one frame, the newest, and counts frames that were not
    taken as dropped. Only a recording with `Properties.waits` is read as fast as its frames are taken.

    A camera that fails is closed and opened again, after the ``pauses``, until `close`. Sequence numbers keep growing.
    A um/px that a person entered (``mpp``, or a source's constant) applies only to frames of the size that it was first
    used with: when the size changes, ``Frame.mpp`` is None, and `CameraState.mpp_note` states the reason.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        mpp: float | None = None,
        pauses: tuple[float, ...] = PAUSES,
        patience: float = PATIENCE,
    ) -> None:
        self._source, self._pauses, self._patience = source, pauses, patience
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._newest: SourceFrame | None = None
        self._state = CameraState("connecting", 0.0, mpp=mpp)
        self._since = time.monotonic()
        self._retry_at: float | None = None
        self._properties: Properties | None = None
        self._arrivals: deque[float] = deque()
        self._sequence = 0  # of the last frame, in the grabber's count
        self._camera_sequence: int | None = None  # of the last frame, in the camera's count since it was opened
        self._given = mpp  # entered by a person, and not yet tied to a frame size
        self._person: _AcceptedMpp | None = None
        self._own: _AcceptedMpp | None = None
        self._last: tuple[tuple[int, int], float | None] | None = None  # size and own um/px of the last frame

    def __enter__(self) -> FrameGrabber:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, timeout: float) -> SourceFrame | None:
        """Take the newest frame that was not taken yet.

        None after ``timeout`` s, at the end of a recording, and after `close`.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._newest is not None or self._state.phase in ("ended", "closed"), timeout)
            received, self._newest = self._newest, None
            self._lock.notify_all()
            return received

    @property
    def state(self) -> CameraState:
        """State of the camera now."""
        with self._lock:
            now = time.monotonic()
            state, seconds = self._state, now - self._since
            while self._arrivals and self._arrivals[0] < now - _WINDOW:
                self._arrivals.popleft()
            if state.phase == "connected":
                silent = now - (self._arrivals[-1] if self._arrivals else self._since)
                nominal = self._properties.fps if self._properties else None
                waits = self._properties is not None and self._properties.waits
                if not waits and silent > max(1.0, 3 / nominal if nominal else 0.0):
                    state, seconds = replace(state, phase="stalled"), silent
            return replace(
                state,
                seconds=seconds,
                retry_in=None if self._retry_at is None else max(0.0, self._retry_at - now),
                fps=len(self._arrivals) / _WINDOW,
            )

    def set_mpp(self, mpp: float | None) -> int:
        """Set the um/px from the next frame on, for frames of its size; None restores the source's value.

        Returns the sequence number of the last frame before the change.
        """
        with self._lock:
            self._given, self._person = mpp, None
            note = ""
            # The state shows the new value at once.
            if mpp is None and self._last and self._properties:
                own = self._own
                mpp, note = self._scale(*self._last, self._properties)
                self._own = own  # the source's um/px is tied to the size of the next frame
            self._state = replace(self._state, mpp=mpp, mpp_note=note)
            return self._sequence

    def close(self) -> None:
        """Stop the thread and close the source; after 15 s a source that hangs is abandoned with a warning."""
        self._stop.set()
        with self._lock:
            self._lock.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE)
            if self._thread.is_alive():
                log.warning("the camera does not respond: its thread is abandoned")
        with self._lock:
            self._newest = None
            self._enter("closed")

    # --- reading thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            frames = self._state.frames
            try:
                self._enter("connecting", self._state.why)
                properties = self._source.open()
                self._connected(properties)
                self._read(properties)
                self._enter("closed" if self._stop.is_set() else "ended")
                why = ""
            except RecordingError as error:
                self._enter("ended", str(error))
                why = ""
            except KinetError as error:
                why = str(error)
            # Vendor code may raise anything; it must be reported and not end the thread.
            except Exception as error:
                log.debug("the camera's source raised", exc_info=True)
                why = f"{type(error).__name__}: {error}"
            self._close_source()
            if not why:
                return
            failures = 0 if self._state.frames > frames else failures
            pause = self._pauses[min(failures, len(self._pauses) - 1)]
            failures += 1
            log.info("camera: %s; next attempt in %g s", why, pause)
            self._enter("reconnecting", why, retry_in=pause)
            self._stop.wait(pause)

    def _read(self, properties: Properties) -> None:
        """Read frames until the end of the recording or `close`; raise if the camera must be opened again."""
        last, bad = time.monotonic(), 0
        while not self._stop.is_set():
            try:
                received = self._source.newest(_READ)
            except NoFrameError:
                # A source with a low nominal frame rate gets more time.
                if time.monotonic() - last > max(self._patience, 3 / properties.fps if properties.fps else 0.0):
                    raise
                continue
            except ImageError as error:
                bad += 1
                with self._lock:
                    self._state = replace(self._state, bad=self._state.bad + 1, bad_why=str(error))
                if bad >= _BAD_FRAMES and not properties.recorded:
                    raise CameraError(f"{bad} damaged frames in a row: {error}") from error
                continue
            if received is None:
                return
            last, bad = time.monotonic(), 0
            self._put(received, properties)

    def _put(self, received: SourceFrame, properties: Properties) -> None:
        with self._lock:
            if properties.waits:
                self._lock.wait_for(lambda: self._newest is None or self._stop.is_set())
            step = 1 if self._camera_sequence is None else max(1, received.sequence - self._camera_sequence)
            self._camera_sequence = received.sequence
            self._sequence += step
            self._last = (received.frame.width, received.frame.height), received.frame.mpp
            mpp, note = self._scale(*self._last, properties)
            self._state = replace(
                self._state,
                why="",
                frames=self._state.frames + 1,
                dropped=self._state.dropped + (self._newest is not None),
                missed=self._state.missed + step - 1,
                width=received.frame.width,
                height=received.frame.height,
                mpp=mpp,
                mpp_note=note,
            )
            frame = received.frame if mpp == received.frame.mpp else replace(received.frame, mpp=mpp)
            self._newest = SourceFrame(frame, self._sequence)
            self._arrivals.append(time.monotonic())
            while self._arrivals[0] < self._arrivals[-1] - _WINDOW:
                self._arrivals.popleft()
            self._lock.notify_all()

    def _scale(self, size: tuple[int, int], stated: float | None, properties: Properties) -> tuple[float | None, str]:
        """Return the accepted um/px of a frame with this size and stated um/px, and a note on a rejected one."""
        if self._given is not None:
            self._person, self._given = _AcceptedMpp(self._given, size, stated), None
        if person := self._person:
            if stated != person.stated:
                now = "no µm/px" if stated is None else f"{stated:g} µm/px"
                return None, f"the camera now states {now}, which it did not when {person.mpp:g} was set: set it again"
            # A source that accounts for binning and states the same value reads another part of its sensor.
            if size != person.size and not (properties.mpp_is_per_frame and stated is not None):
                return None, _resized(size, person)
            return person.mpp, ""
        if stated is None:
            return None, "µm/px is unknown: set it"
        if not properties.mpp_is_per_frame and self._own and self._own.mpp == stated and self._own.size != size:
            return None, _resized(size, self._own)
        self._own = _AcceptedMpp(stated, size, stated)
        return stated, ""

    def _enter(self, phase: Phase, why: str = "", retry_in: float | None = None) -> None:
        with self._lock:
            self._since = time.monotonic()
            self._retry_at = None if retry_in is None else self._since + retry_in
            self._state = replace(self._state, phase=phase, why=why)
            self._lock.notify_all()

    def _connected(self, properties: Properties) -> None:
        with self._lock:
            self._properties, self._camera_sequence = properties, None
            self._arrivals.clear()
            self._state = replace(self._state, name=properties.name)
        self._enter("connected", self._state.why)

    def _close_source(self) -> None:
        try:
            self._source.close()
        # Vendor code; a failure must not prevent opening the camera again.
        except Exception:
            log.warning("the camera's source could not be closed", exc_info=True)


def _resized(size: tuple[int, int], accepted: _AcceptedMpp) -> str:
    return (
        f"frames are now {size[0]} x {size[1]} px; {accepted.mpp:g} µm/px was set for "
        f"{accepted.size[0]} x {accepted.size[1]}: set it again"
    )
