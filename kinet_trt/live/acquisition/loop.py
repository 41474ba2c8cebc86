"""Loop that counts the newest frame of a camera and passes the result to its viewers."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from kinet_trt.camera.flat_field import FlatField
from kinet_trt.camera.grabber import FrameGrabber
from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.core.frame import NO_COLOUR, Frame
from kinet_trt.core.units import check_mpp
from kinet_trt.inference.counter import NucleusCounter, Threshold
from kinet_trt.live import clock
from kinet_trt.live.acquisition.frame_quality import QualityMonitor
from kinet_trt.live.acquisition.mailbox import Mailbox
from kinet_trt.live.acquisition.results import FrameCheck, FrameResult, MppSource, Phase, Status
from kinet_trt.live.acquisition.rolling import Rolling
from kinet_trt.quality.incomplete import check_has_picture

log = logging.getLogger(__name__)

WINDOW = 10.0
"""Window of the latency percentiles, s."""
_POLL = 0.25  # s: timeout of waiting for a frame
_JOIN = 30.0  # s: how long `Loop.close` waits for the current count
MIN_STALL = 3.0
"""Minimum time without a result after which the loop is stalled, s."""


class Viewer(Mailbox[FrameResult]):
    """Mailbox of one viewer: it keeps the newest result, so a slow viewer skips some. Close it after use."""

    def __init__(self, latencies: Rolling, *, every: bool) -> None:
        super().__init__(every=every)
        self._latencies = latencies

    def record_shown(self, result: FrameResult) -> float:
        """Record that a frame is visible now; return its latency, ms."""
        latency = _ms_since(result.captured)
        self._latencies.add(latency, time.monotonic())
        return latency


class Loop:
    """Thread that counts the frames of a camera. Use it as a context manager. Thread-safe.

    The camera's thread (`FrameGrabber`), this loop's thread, and each viewer's thread pass frames through one-slot
    mailboxes. The camera never waits; the loop waits for the camera, and only for viewers opened with ``every``.

    While the loop is paused or after the engine has failed, frames still pass, uncounted, so that the slide stays
    visible. If a frame cannot be counted (too small at this um/px, not the size of the blank field),
    `FrameResult.uncounted` contains the reason.

    The caller enters ``grabber`` before the loop and closes it after the loop. ``mpp`` is the um/px that a person gave
    to ``grabber`` too; ``source_kind`` is where the source's um/px comes from. A warning of ``check`` becomes a remark.
    """

    def __init__(
        self,
        grabber: FrameGrabber,
        counter: NucleusCounter,
        *,
        mpp: float | None = None,
        source_kind: MppSource = "camera",
        check: FrameCheck | None = None,
    ) -> None:
        self.grabber = grabber
        self._set_after = -1  # sequence number of the last frame before um/px was set
        self._last_result: float | None = None  # time of the last result
        self._counting_time = 0.0  # of the last count, s
        self.counter, self._source_kind, self._check = counter, source_kind, check
        self._entered: tuple[float, MppSource] | None = None if mpp is None else (mpp, "option")
        self.flat_field: FlatField | None = None
        self._blanks: list[Frame] | None = None  # frames of a blank field, while a caller waits for them
        self._blanks_wanted = 0
        self._phase: Phase = "counting"
        self._why = ""
        self._viewers: tuple[Viewer, ...] = ()
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="count", daemon=True)
        self._counted = self._stage_stops = 0
        self._shown_latencies = Rolling(WINDOW)
        self._counts = Rolling(2.0)
        self._monitor = QualityMonitor(counter.engine.card.mpp)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- methods for any thread ------------------------------------------------------------------------------------

    def viewer(self, *, every: bool = False) -> Viewer:
        """Open a viewer. Open it before entering the loop to receive the first frame.

        With ``every``, counting waits for this viewer, so that it receives each counted frame.
        """
        viewer = Viewer(self._shown_latencies, every=every)
        with self._lock:
            if self._phase in ("ended", "closed"):
                viewer.close()
            self._viewers = (*(v for v in self._viewers if not v.closed), viewer)
        return viewer

    @property
    def status(self) -> Status:
        """State of the loop."""
        now, camera = time.monotonic(), self.grabber.state
        with self._lock:
            phase, why, counted = self._phase, self._why, self._counted
            seconds_since_result = 0.0 if self._last_result is None else clock.now() - self._last_result
            slow = seconds_since_result > max(MIN_STALL, 3 * self._counting_time)
        return Status(
            phase=phase,
            why=why,
            camera=camera,
            counted=counted,
            fps=self._counts.rate(now),
            shown_p50=self._shown_latencies.percentile(0.5, now),
            shown_p99=self._shown_latencies.percentile(0.99, now),
            seconds_since_result=seconds_since_result,
            stalled=slow and camera.phase == "connected" and phase not in ("ended", "closed"),
        )

    @property
    def scale(self) -> tuple[float, MppSource]:
        """um/px of the next frame, and its origin."""
        with self._lock:
            entered, card, current = self._entered, self.counter.engine.card, self.grabber.state.mpp
        return _with_origin(current, entered, self._source_kind) or (card.mpp, "model")

    def is_outdated(self, result: FrameResult) -> bool:
        """Return whether a person has changed um/px since a frame was captured."""
        with self._lock:
            return result.sequence <= self._set_after and result.mpp != self.scale[0]

    def pause(self) -> None:
        """Stop counting; frames still pass."""
        with self._lock:
            if self._phase == "counting":
                self._phase = "paused"

    def resume(self) -> None:
        """Resume counting, also after a failure."""
        with self._lock:
            if self._phase in ("paused", "failed"):
                self._phase, self._why = "counting", ""

    def set_threshold(self, threshold: Threshold) -> None:
        """Change the threshold from the next frame on; KinetError if the model is fused and the threshold relative."""
        with self._lock:
            self.counter = self.counter.with_threshold(threshold)

    def set_mpp(self, mpp: float | None, source: MppSource = "option") -> None:
        """Set um/px, from 0.01 to 100, from the next frame of the camera on; None restores the camera's value."""
        if mpp is not None:
            check_mpp(mpp)
        with self._lock:
            self._entered = None if mpp is None else (mpp, source)
            self._set_after = self.grabber.set_mpp(mpp)

    def set_flat_field(self, flat_field: FlatField | None) -> None:
        """Set the flat-field correction from the next frame on; None for no correction."""
        with self._lock:
            self.flat_field = flat_field

    def take_flat_field(self, frames: int = 10, timeout: float = 20.0) -> FlatField:
        """Set the flat-field correction from the next frames, which must show a blank field; timeout in s.

        ImageError if they do not, another call is in progress, or too few frames come; the previous correction stays.
        """
        with self._lock:
            if self._blanks is not None:
                raise ImageError("another blank field is being captured. Wait for it")
            self._blanks, self._blanks_wanted = [], frames
            self._lock.wait_for(lambda: len(self._blanks or ()) >= frames or self._stop.is_set(), timeout)
            taken, self._blanks = self._blanks, None
        if len(taken) < frames:
            raise ImageError(
                f"blank field: expected {frames} frames, received {len(taken)}. Check that the camera is running"
            )
        flat_field = FlatField.from_blank(taken)
        self.set_flat_field(flat_field)
        return flat_field

    def close(self) -> None:
        """Stop the thread after the current count, and close all viewers."""
        self._stop.set()
        self._finish("closed")
        if self._thread.ident is not None:
            self._thread.join(_JOIN)
            if self._thread.is_alive():
                log.warning("the model does not respond: its thread is abandoned")

    # --- counting thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            grabbed = self.grabber.take(_POLL)
            if grabbed is None:
                # Check the phase, then take once more: a last frame may arrive in between.
                if self.grabber.state.phase in ("ended", "closed") and (grabbed := self.grabber.take(0)) is None:
                    self._finish("ended")
                    return
                if grabbed is None:
                    continue
            try:
                result = self._process(grabbed.frame, grabbed.sequence)
            # The next frame may be fine, and the page must report the error.
            except Exception as error:
                self._fail(error)
                continue
            with self._lock:
                self._last_result, self._counting_time = result.at, result.counting_ms / 1000
                if self.is_outdated(result):
                    continue
                viewers = self._viewers = tuple(viewer for viewer in self._viewers if not viewer.closed)
            for viewer in viewers:
                viewer.put(result)

    def _process(self, raw: Frame, sequence: int) -> FrameResult:
        captured = time.time() if raw.time is None else raw.time
        with self._lock:
            counter, flat_field, entered, phase = self.counter, self.flat_field, self._entered, self._phase
            if self._blanks is not None and len(self._blanks) < self._blanks_wanted:
                self._blanks.append(raw)
                self._lock.notify_all()
        card, frame, detections = counter.engine.card, raw, None
        uncounted = {"paused": "paused", "failed": "counting has stopped"}.get(phase, "")
        remarks = list(raw.remarks)
        domain_warning: str | None = None
        camera = self.grabber.state
        started = time.perf_counter()
        try:
            check_has_picture(raw.pixels)
            frame = flat_field(raw) if flat_field else raw
            if frame.is_grey:
                # The counter would log a warning for every frame.
                remarks.append(NO_COLOUR)
                detections = None if uncounted else Detections.empty(card.classes)
            elif not uncounted:
                detections = counter(frame)
        except ImageError as error:
            uncounted = str(error)
        # A failure of the engine or of a library stops the counting, not the process; the page reports it.
        except Exception as error:
            uncounted = self._fail(error)
        counting_ms = (time.perf_counter() - started) * 1000
        mpp, mpp_source = _with_origin(frame.mpp, entered, self._source_kind) or (card.mpp, "model")
        quality = self._monitor.assess(frame, mpp, captured)
        if mpp_source == "model":
            unused = raw.unused_size and f"the file {raw.unused_size}"
            why = camera.mpp_note or unused or "µm/px is unknown: set it"
            remarks.append(f"Counted at the model's {card.mpp:g} µm/px, which is only assumed: {why}.")
        if detections is not None:
            domain_warning = self._warning(frame, detections)
            remarks += [domain_warning] if domain_warning else []
            with self._lock:
                self._counted += 1
            self._counts.add(1.0, time.monotonic())
        result = FrameResult(
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
            stage_stops=self._stage_stops,
            domain_warning=domain_warning,
            at=clock.now(),
        )
        if not result.rested:
            return result
        self._stage_stops += 1
        return replace(result, stage_stops=self._stage_stops)

    def _fail(self, error: Exception) -> str:
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

    def _warning(self, frame: Frame, detections: Detections) -> str | None:
        try:
            return (self._check and self._check(frame, detections)) or None
        # The count is valid without the check.
        except Exception:
            log.warning("the check of a frame failed", exc_info=True)
            return None

    def _finish(self, phase: Phase) -> None:
        with self._lock:
            if self._phase != "closed":
                self._phase = phase
            viewers = self._viewers
            self._lock.notify_all()
        for viewer in viewers:
            viewer.close()


def _with_origin(
    mpp: float | None, entered: tuple[float, MppSource] | None, source_kind: MppSource
) -> tuple[float, MppSource] | None:
    """Return a frame's um/px with its origin; None if the um/px is unknown."""
    if mpp is None:
        return None
    # A frame captured before a person entered um/px still has the value of its source.
    return entered if entered and entered[0] == mpp else (mpp, source_kind)


def _ms_since(captured: float) -> float:
    # The wall clock may be set back.
    return max(0.0, (time.time() - captured) * 1000)
