"""The loop: takes the newest frame, counts it, and hands the result to every viewer; capture never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from kinet_trt.camera.flat_field import FlatField
from kinet_trt.camera.grabber import CameraState, FrameGrabber
from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.core.frame import NO_COLOUR, Frame
from kinet_trt.core.ki67 import Ki67
from kinet_trt.core.units import check_mpp
from kinet_trt.inference.counter import NucleusCounter, Threshold
from kinet_trt.live import clock
from kinet_trt.live.acquisition.mailbox import Mailbox
from kinet_trt.live.acquisition.quality import Quality, QualityMonitor
from kinet_trt.live.acquisition.rolling import Rolling
from kinet_trt.quality.incomplete import check_not_blank

log = logging.getLogger(__name__)

WINDOW = 10.0
"""s over which latencies are summed up."""
_POLL = 0.25  # s after which the loop looks up from waiting for a frame
_JOIN = 30.0  # s that `Loop.close` waits for a count that is under way
PATIENCE = 3.0
"""s after which a loop that lets no frame through counts as stalled."""

MppSource = Literal["option", "calibrated", "objective", "camera", "file", "model"]
"""How um/px is known: typed; measured with a stage micrometer; from an objective preset; told by the camera or the
microscope; from a file's tag; or only assumed, the model's own."""
Phase = Literal["counting", "paused", "failed", "ended", "closed"]


class FrameCheck(Protocol):
    """Something to be said of a frame beside its count, such as that it is unlike the training data."""

    def __call__(self, frame: Frame, detections: Detections) -> str:
        """Return a sentence for a person; empty when there is nothing to say. It runs between two counts: be quick."""
        ...


@dataclass(frozen=True, eq=False)
class FrameResult:
    """One frame that went through the loop, and what is known of it.

    Attributes
    ----------
    number
        The how manieth counted frame, from 1; of a frame that was not counted, that of the last one.
    sequence
        The camera's number of it: a gap says that frames were dropped.
    captured
        When it was taken, s since the epoch.
    frame
        The picture, corrected by the blank field where there is one; ``frame.mpp`` is None when it is not known.
    mpp, mpp_source
        um/px that it was counted at, and how that is known.
    threshold, precision
        What it was counted with.
    detections
        Its nuclei; None when it was not counted.
    uncounted
        Why not, in words; empty when it was.
    quality
        Sharpness and motion.
    remarks
        What else a person should know, each a sentence: above all that um/px is only assumed.
    counting_ms
        How long the count took.
    latency_ms
        From capture to the end of the count; `Viewer.shown` says how long until it was shown.
    camera
        The camera's state when it was counted: frames a second, dropped and missed frames.
    unlike
        The one of the remarks that says how the frame looks unlike the training data; None where it does not.
    rests
        How often the stage has come to rest so far on a field that may be captured (`rested`): who skips frames sees by
        it that it did.
    at
        When it had gone through the loop, s of `kinet_trt.live.clock`.
    """

    number: int
    sequence: int
    captured: float
    frame: Frame
    mpp: float
    mpp_source: MppSource
    threshold: Threshold
    precision: str
    detections: Detections | None
    uncounted: str
    quality: Quality
    remarks: tuple[str, ...]
    counting_ms: float
    latency_ms: float
    camera: CameraState
    rests: int = 0
    at: float = 0.0
    unlike: str | None = None

    @property
    def ki67(self) -> Ki67 | None:
        """The index of this frame alone."""
        return None if self.detections is None else Ki67.from_counts(self.detections.counts())

    @property
    def capture_blockers(self) -> tuple[str, ...]:
        """Why it is shown, but not offered for capture: "uncounted", "damaged", "empty", "blurred", "moving"."""
        holds = {
            "uncounted": self.detections is None,
            "damaged": self.quality.damaged,
            "empty": self.quality.empty,
            "blurred": self.quality.blurred,
            "moving": self.quality.moving,
        }
        return tuple(word for word, held in holds.items() if held)

    @property
    def can_capture(self) -> bool:
        """Whether it may be captured."""
        return not self.capture_blockers

    @property
    def rested(self) -> bool:
        """Whether with this frame the stage came to rest on a field that may be captured; once for each place."""
        return self.quality.rested and self.can_capture


@dataclass(frozen=True)
class Status:
    """What the loop is doing now.

    Attributes
    ----------
    phase
        "counting"; "paused"; "failed": the engine failed, and `Loop.resume` tries it again; "ended": a recording is
        over; "closed".
    why
        What failed.
    camera
        The camera's state.
    counted
        Frames counted.
    fps
        Frames counted a second, over the last seconds.
    counted_p50, counted_p99
        ms from capture to the end of the count, of the last `WINDOW` s; None without frames.
    shown_p50, shown_p99
        ms from capture until a viewer had shown it.
    silent
        s since a frame last went through; 0 before the first.
    stalled
        Whether the camera gives frames and none of them has gone through for too long: the model hangs.
    """

    phase: Phase
    why: str
    camera: CameraState
    counted: int
    fps: float
    counted_p50: float | None
    counted_p99: float | None
    shown_p50: float | None
    shown_p99: float | None
    silent: float = 0.0
    stalled: bool = False


class Viewer(Mailbox[FrameResult]):
    """Where one viewer takes its frames: always the newest, so a slow one skips. Close it when the viewer is gone."""

    def __init__(self, latencies: Rolling, *, every: bool) -> None:
        super().__init__(every=every)
        self._latencies = latencies

    def shown(self, seen: FrameResult) -> float:
        """Note that a frame can be seen now; return the ms since it was captured."""
        latency = _ms_since(seen.captured)
        self._latencies.add(latency, time.monotonic())
        return latency


class Loop:
    """Counts what a camera sees. Use it as a context manager; every method may be called from any thread.

    The camera's thread (`FrameGrabber`), this loop's thread, and each viewer's thread pass frames through one-slot
    mailboxes. The camera never waits; the loop waits for the camera, and only for viewers opened with ``every``.

    While the loop is paused or after the engine has failed, frames still pass, uncounted, so that the slide stays
    visible. If a frame cannot be counted (too small at this um/px, not the size of the blank field),
    `FrameResult.uncounted` contains the reason.

    Parameters
    ----------
    grabber
        The camera, entered by the caller, who also closes it: after the loop.
    counter
        What counts.
    stated
        How um/px that comes from the source is known: "camera" or "file".
    mpp_source
        How um/px that ``grabber`` was given by a person is known.
    mpp
        um/px that ``grabber`` was given by a person; None: none.
    remarks
        What else is to be said of each counted frame.
    patience
        s without a frame after which it counts as stalled, see `Status.stalled`.
    """

    def __init__(
        self,
        grabber: FrameGrabber,
        counter: NucleusCounter,
        *,
        mpp: float | None = None,
        mpp_source: MppSource = "option",
        stated: MppSource = "camera",
        remarks: Sequence[FrameCheck] = (),
        patience: float = PATIENCE,
    ) -> None:
        self.grabber = grabber
        self._patience = patience
        self._set_after = -1  # number of the last frame before the um/px was set
        self._passed: float | None = None  # when a frame last went through
        self._longest = 0.0  # s that the last count took
        self._counter, self._stated, self._remarks = counter, stated, tuple(remarks)
        self._person: tuple[float, MppSource] | None = None if mpp is None else (mpp, mpp_source)
        self._correction: FlatField | None = None
        self._blanks: list[Frame] | None = None  # while somebody waits for frames of a blank field
        self._blanks_wanted = 0
        self._phase: Phase = "counting"
        self._why = ""
        self._viewers: tuple[Viewer, ...] = ()
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="count", daemon=True)
        self._counted = self._rests = 0
        self._counted_latencies, self._shown_latencies = Rolling(WINDOW), Rolling(WINDOW)
        self._counts = Rolling(2.0)
        self._watch = QualityMonitor(counter.engine.card.mpp)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- from any thread -------------------------------------------------------------------------------------------

    def viewer(self, *, every: bool = False) -> Viewer:
        """Open a viewer; one that is opened before the loop is entered sees the first frame too.

        Parameters
        ----------
        every
            Counting waits for this viewer, so that it sees each counted frame. The camera still waits for nobody.
        """
        viewer = Viewer(self._shown_latencies, every=every)
        with self._lock:
            if self._phase in ("ended", "closed"):
                viewer.close()
            self._viewers = (*(v for v in self._viewers if not v.closed), viewer)
        return viewer

    @property
    def counter(self) -> NucleusCounter:
        """What counts now: the model and the threshold."""
        with self._lock:
            return self._counter

    @property
    def status(self) -> Status:
        """What is going on."""
        now, camera = time.monotonic(), self.grabber.state
        with self._lock:
            phase, why, counted = self._phase, self._why, self._counted
            silent = 0.0 if self._passed is None else clock.now() - self._passed
            slow = silent > max(self._patience, 3 * self._longest)
        return Status(
            phase=phase,
            why=why,
            camera=camera,
            counted=counted,
            fps=self._counts.rate(now),
            counted_p50=self._counted_latencies.percentile(0.5, now),
            counted_p99=self._counted_latencies.percentile(0.99, now),
            shown_p50=self._shown_latencies.percentile(0.5, now),
            shown_p99=self._shown_latencies.percentile(0.99, now),
            silent=silent,
            stalled=slow and camera.phase == "connected" and phase not in ("ended", "closed"),
        )

    @property
    def scale(self) -> tuple[float, MppSource]:
        """The um/px that holds from the next frame on, and how it is known."""
        with self._lock:
            person, card, stated = self._person, self._counter.engine.card, self.grabber.state.mpp
        return _how_known(stated, person, self._stated) or (card.mpp, "model")

    def outdated(self, seen: FrameResult) -> bool:
        """Whether a person has set another um/px since a frame came."""
        with self._lock:
            return seen.sequence <= self._set_after and seen.mpp != self.scale[0]

    def pause(self) -> None:
        """Stop counting; frames still come."""
        with self._lock:
            if self._phase == "counting":
                self._phase = "paused"

    def resume(self) -> None:
        """Count again, also after a failure."""
        with self._lock:
            if self._phase in ("paused", "failed"):
                self._phase, self._why = "counting", ""

    def set_threshold(self, threshold: Threshold) -> None:
        """Count with another threshold from the next frame on.

        Raises
        ------
        KinetError
            If the model is fused and the threshold relative.
        """
        with self._lock:
            self._counter = self._counter.with_threshold(threshold)

    def set_mpp(self, mpp: float | None, source: MppSource = "option") -> None:
        """Set the um/px from the next frame of the camera on; None goes back to what the camera says.

        Parameters
        ----------
        mpp
            um/px.
        source
            How it is known.

        Raises
        ------
        KinetError
            If it is not from 0.01 to 100.
        """
        if mpp is not None:
            check_mpp(mpp)
        with self._lock:
            self._person = None if mpp is None else (mpp, source)
            self._set_after = self.grabber.set_mpp(mpp)

    def set_correction(self, correction: FlatField | None) -> None:
        """Even out the light of the next frames by a blank field; None: no more."""
        with self._lock:
            self._correction = correction

    @property
    def corrected(self) -> bool:
        """Whether a blank field evens out the light."""
        with self._lock:
            return self._correction is not None

    def take_blank(self, frames: int = 10, timeout: float = 20.0) -> FlatField:
        """Make a correction of the next frames, which must show a blank field, and use it.

        Parameters
        ----------
        frames
            How many.
        timeout
            How long to wait for them, s.

        Raises
        ------
        ImageError
            If they are no blank field, somebody else is taking one, or too few frames come; the correction from
            before stays.
        """
        with self._lock:
            if self._blanks is not None:
                raise ImageError("blank field: one is being taken already: wait for it")
            self._blanks, self._blanks_wanted = [], frames
            self._lock.wait_for(lambda: len(self._blanks or ()) >= frames or self._stop.is_set(), timeout)
            taken, self._blanks = self._blanks, None
        if len(taken) < frames:
            raise ImageError(f"blank field: expected {frames} frames, {len(taken)} came: is the camera running?")
        correction = FlatField.from_blank(taken)
        self.set_correction(correction)
        return correction

    def close(self) -> None:
        """End the thread and close all viewers; the count that is under way is waited for."""
        self._stop.set()
        self._finish("closed")
        if self._thread.ident is not None:
            self._thread.join(_JOIN)
            if self._thread.is_alive():
                log.warning("the model does not answer: its thread is left behind")

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            shot = self.grabber.take(_POLL)
            if shot is None:
                # In this order: a frame may have come between the two.
                if self.grabber.state.phase in ("ended", "closed") and (shot := self.grabber.take(0)) is None:
                    self._finish("ended")
                    return
                if shot is None:
                    continue
            try:
                seen = self._see(shot.frame, shot.sequence)
            # Whatever is wrong with one frame, the next one may be right, and the page must go on and say so.
            except Exception as error:
                self._failed(error)
                continue
            with self._lock:
                self._passed, self._longest = seen.at, seen.counting_ms / 1000
                if self.outdated(seen):
                    continue
                viewers = self._viewers = tuple(viewer for viewer in self._viewers if not viewer.closed)
            for viewer in viewers:
                viewer.put(seen)

    def _see(self, raw: Frame, sequence: int) -> FrameResult:
        captured = time.time() if raw.time is None else raw.time
        with self._lock:
            counter, correction, person, phase = self._counter, self._correction, self._person, self._phase
            if self._blanks is not None and len(self._blanks) < self._blanks_wanted:
                self._blanks.append(raw)
                self._lock.notify_all()
        card, frame, detections = counter.engine.card, raw, None
        uncounted = {"paused": "paused", "failed": "counting has stopped"}.get(phase, "")
        remarks = list(raw.remarks)
        unlike: str | None = None
        camera = self.grabber.state
        started = time.perf_counter()
        try:
            check_not_blank(raw.pixels)
            frame = correction(raw) if correction else raw
            if frame.is_grey:
                # The counter would say so of every frame in the log.
                remarks.append(NO_COLOUR)
                detections = None if uncounted else Detections.empty(card.classes)
            elif not uncounted:
                detections = counter(frame)
        except ImageError as error:
            uncounted = str(error)
        # The engine's or a library's failure stops the counting, not the process: the page must say it.
        except Exception as error:
            uncounted = self._failed(error)
        counting_ms = (time.perf_counter() - started) * 1000
        mpp, mpp_source = _how_known(frame.mpp, person, self._stated) or (card.mpp, "model")
        quality = self._watch.look(frame, mpp, captured)
        if mpp_source == "model":
            unused = raw.unused_size and f"the file {raw.unused_size}"
            why = camera.mpp_note or unused or "um/px is not known: set it"
            remarks.append(f"Counted at the model's {card.mpp:g} um/px, which is only assumed: {why}.")
        if detections is not None:
            unlike = " ".join(self._remarks_on(frame, detections)) or None
            remarks += [unlike] if unlike else []
            now = time.monotonic()
            with self._lock:
                self._counted += 1
            self._counts.add(1.0, now)
            self._counted_latencies.add(_ms_since(captured), now)
        seen = FrameResult(
            number=self._counted,
            sequence=sequence,
            captured=captured,
            frame=frame,
            mpp=mpp,
            mpp_source=mpp_source,
            threshold=counter.threshold,
            precision=counter.engine.precision,
            detections=detections,
            uncounted=uncounted,
            quality=quality,
            remarks=tuple(remarks),
            counting_ms=counting_ms,
            latency_ms=_ms_since(captured),
            camera=camera,
            rests=self._rests,
            unlike=unlike,
            at=clock.now(),
        )
        if not seen.rested:
            return seen
        self._rests += 1
        return replace(seen, rests=self._rests)

    def _failed(self, error: Exception) -> str:
        """Stop counting, and return why."""
        if isinstance(error, KinetError):
            why = str(error)
        else:
            log.debug("counting raised", exc_info=error)
            why = f"{type(error).__name__}: {error}"
        with self._lock:
            if self._phase == "counting":
                self._phase, self._why = "failed", why
        log.error("counting stopped: %s", why)
        return why

    def _remarks_on(self, frame: Frame, detections: Detections) -> list[str]:
        said = []
        for remark in self._remarks:
            try:
                said.append(remark(frame, detections))
            # A remark is a help; the count stands without it.
            except Exception:
                log.warning("a remark on a frame failed", exc_info=True)
        return [sentence for sentence in said if sentence]

    def _finish(self, phase: Phase) -> None:
        with self._lock:
            if self._phase != "closed":
                self._phase = phase
            viewers = self._viewers
            self._lock.notify_all()
        for viewer in viewers:
            viewer.close()


def _how_known(
    mpp: float | None, person: tuple[float, MppSource] | None, stated: MppSource
) -> tuple[float, MppSource] | None:
    """Return a frame's um/px and how it is known; None if it is not."""
    if mpp is None:
        return None
    # A frame that was captured before somebody set the um/px still has what the source stated.
    return person if person and person[0] == mpp else (mpp, stated)


def _ms_since(captured: float) -> float:
    # The wall clock may be set back meanwhile.
    return max(0.0, (time.time() - captured) * 1000)
