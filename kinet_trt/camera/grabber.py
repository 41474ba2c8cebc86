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
"""s before each further attempt to reconnect; the last one repeats."""
PATIENCE = 5.0
"""s without a frame after which a camera is closed and opened again."""
_READ = 0.5  # s: timeout of one call of `FrameSource.newest`, and so how long `close` waits if the source obeys
_CLOSE = 15.0  # s that `FrameGrabber.close` waits for a source that does not
_WINDOW = 2.0  # s over which frames a second are counted
_BAD_FRAMES = 10  # in a row: then the camera is opened again

Phase = Literal["connecting", "connected", "stalled", "reconnecting", "ended", "closed"]


@dataclass(frozen=True)
class CameraState:
    """What a person may want to know of the camera.

    Attributes
    ----------
    phase
        "connecting"; "connected"; "stalled": connected, but no frame comes; "reconnecting": waiting for the next
        attempt; "ended": a recording is over; "closed".
    seconds
        How long it has been so.
    why
        What went wrong last; empty while frames come.
    retry_in
        s to the next attempt; None unless reconnecting.
    name
        The source's name; empty before it was open.
    fps
        Frames a second that came in, over the last 2 s.
    frames
        Frames that came in.
    dropped
        Of these, how many gave way to a newer one before anybody took them.
    missed
        Frames that the camera counted but that never came in.
    bad
        Frames that came damaged and were skipped.
    bad_why
        What is wrong with the last of them.
    width, height
        Size of the last frame, px; 0 before the first.
    mpp
        um/px of the last frame; None when it is not known.
    mpp_note
        Why the um/px of frames is not believed; empty when nothing speaks against it.
    """

    phase: Phase
    seconds: float
    why: str = ""
    retry_in: float | None = None
    name: str = ""
    fps: float = 0.0
    frames: int = 0
    dropped: int = 0
    missed: int = 0
    bad: int = 0
    width: int = 0
    height: int = 0
    mpp: float | None = None
    mpp_note: str = ""
    bad_why: str = ""

    def sentence(self) -> str:
        """Say it in one sentence."""
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
        """Return how many frames were damaged, in words; empty if none was."""
        if not self.bad:
            return ""
        frames = "1 damaged frame was" if self.bad == 1 else f"{self.bad} damaged frames were"
        return f"{frames} skipped ({self.bad_why})"


@dataclass(frozen=True)
class _Believed:
    """A um/px and the frames for which it holds: of this size, and with this um/px by the source's own account."""

    mpp: float
    size: tuple[int, int]
    stated: float | None


class FrameGrabber:
    """The newest frame of a source. Use it as a context manager; `take` and `state` may be called from any thread.

    The thread that reads the source never waits for whoever takes frames: one frame, the newest, lies ready, and one
    that nobody took is dropped and counted. Only a recording that says so (`Properties.waits`) is kept waiting.

    A camera that fails is closed and opened again, after pauses that grow, until `close`. Frames keep growing sequence
    numbers across that. A um/px that somebody typed (``mpp``, or a source's constant) is believed only for frames of
    the size that it was first seen with: when the size changes, ``Frame.mpp`` is None and
    `CameraState.mpp_note` says why.

    Parameters
    ----------
    source
        Not open; it is opened, read and closed in the thread.
    mpp
        um/px, stated by a person; None: what the source says.
    pauses
        s before the first, second, ... attempt to reconnect; the last one repeats.
    patience
        s without a frame after which the camera is closed and opened again.
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
        self._shot: SourceFrame | None = None
        self._state = CameraState("connecting", 0.0, mpp=mpp)
        self._since = time.monotonic()
        self._retry_at: float | None = None
        self._properties: Properties | None = None
        self._arrivals: deque[float] = deque()
        self._sequence = 0  # of the last frame, in our count
        self._camera_sequence: int | None = None  # of the last frame, in the camera's count since it was opened
        self._given = mpp  # stated by a person, and not yet tied to a frame
        self._person: _Believed | None = None
        self._own: _Believed | None = None
        self._last: tuple[tuple[int, int], float | None] | None = None  # size and own um/px of the last frame

    def __enter__(self) -> FrameGrabber:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, timeout: float) -> SourceFrame | None:
        """Take the newest frame that was not taken yet.

        Parameters
        ----------
        timeout
            How long to wait for one, s.

        Returns
        -------
        SourceFrame
            None when none came in time, at the end of a recording, and after `close`.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._shot is not None or self._state.phase in ("ended", "closed"), timeout)
            shot, self._shot = self._shot, None
            self._lock.notify_all()
            return shot

    @property
    def state(self) -> CameraState:
        """What the camera is doing now."""
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
        """Set the um/px by hand (a calibration, another objective); None goes back to what the source says.

        It holds from the next frame on, for frames like that one.

        Returns
        -------
        int
            Sequence number of the last frame before it.
        """
        with self._lock:
            self._given, self._person = mpp, None
            note = ""
            # The state tells at once what will hold.
            if mpp is None and self._last and self._properties:
                own = self._own
                mpp, note = self._scale(*self._last, self._properties)
                self._own = own  # it is the next frame's size that the source's um/px holds for
            self._state = replace(self._state, mpp=mpp, mpp_note=note)
            return self._sequence

    def close(self) -> None:
        """End the thread and close the source. A source that hangs is left behind, with a warning, after 15 s."""
        self._stop.set()
        with self._lock:
            self._lock.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE)
            if self._thread.is_alive():
                log.warning("the camera does not answer: its thread is left behind")
        with self._lock:
            self._shot = None
            self._enter("closed")

    # --- in the thread ---------------------------------------------------------------------------------------------

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
            # A camera maker's code: whatever it raises, the page must go on and say so.
            except Exception as error:
                log.debug("the camera's source raised", exc_info=True)
                why = f"{type(error).__name__}: {error}"
            self._let_go()
            if not why:
                return
            failures = 0 if self._state.frames > frames else failures
            pause = self._pauses[min(failures, len(self._pauses) - 1)]
            failures += 1
            log.info("camera: %s; next attempt in %g s", why, pause)
            self._enter("reconnecting", why, retry_in=pause)
            self._stop.wait(pause)

    def _read(self, properties: Properties) -> None:
        """Read frames until the recording ends or `close`; raises when the camera must be opened again."""
        last, bad = time.monotonic(), 0
        while not self._stop.is_set():
            try:
                shot = self._source.newest(_READ)
            except NoFrameError:
                # One that comes slowly by its own account is waited for.
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
            if shot is None:
                return
            last, bad = time.monotonic(), 0
            self._put(shot, properties)

    def _put(self, shot: SourceFrame, properties: Properties) -> None:
        with self._lock:
            if properties.waits:
                self._lock.wait_for(lambda: self._shot is None or self._stop.is_set())
            step = 1 if self._camera_sequence is None else max(1, shot.sequence - self._camera_sequence)
            self._camera_sequence = shot.sequence
            self._sequence += step
            self._last = (shot.frame.width, shot.frame.height), shot.frame.mpp
            mpp, note = self._scale(*self._last, properties)
            self._state = replace(
                self._state,
                why="",
                frames=self._state.frames + 1,
                dropped=self._state.dropped + (self._shot is not None),
                missed=self._state.missed + step - 1,
                width=shot.frame.width,
                height=shot.frame.height,
                mpp=mpp,
                mpp_note=note,
            )
            frame = shot.frame if mpp == shot.frame.mpp else replace(shot.frame, mpp=mpp)
            self._shot = SourceFrame(frame, self._sequence)
            self._arrivals.append(time.monotonic())
            while self._arrivals[0] < self._arrivals[-1] - _WINDOW:
                self._arrivals.popleft()
            self._lock.notify_all()

    def _scale(self, size: tuple[int, int], stated: float | None, properties: Properties) -> tuple[float | None, str]:
        """Return the um/px to believe of a frame of this size that states this um/px, and why not another."""
        if self._given is not None:
            self._person, self._given = _Believed(self._given, size, stated), None
        if person := self._person:
            if stated != person.stated:
                now = "no um/px" if stated is None else f"{stated:g} um/px"
                return None, f"the camera now states {now}, which it did not when {person.mpp:g} was set: set it again"
            # A source that accounts for binning by itself, and states the same, only reads another part of its sensor.
            if size != person.size and not (properties.mpp_is_per_frame and stated is not None):
                return None, _resized(size, person)
            return person.mpp, ""
        if stated is None:
            return None, "um/px is not known: set it"
        if not properties.mpp_is_per_frame and self._own and self._own.mpp == stated and self._own.size != size:
            return None, _resized(size, self._own)
        self._own = _Believed(stated, size, stated)
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

    def _let_go(self) -> None:
        try:
            self._source.close()
        # As above; what cannot be closed must not keep the camera from being opened again.
        except Exception:
            log.warning("the camera's source could not be closed", exc_info=True)


def _resized(size: tuple[int, int], believed: _Believed) -> str:
    return (
        f"frames are now {size[0]} x {size[1]} px; {believed.mpp:g} um/px was set for "
        f"{believed.size[0]} x {believed.size[1]}: set it again"
    )
