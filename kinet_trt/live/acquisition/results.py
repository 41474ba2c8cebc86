"""Results of the loop: counted frames, and the state of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from kinet_trt.camera.grabber import CameraState
from kinet_trt.core.detections import Detections
from kinet_trt.core.frame import Frame
from kinet_trt.core.ki67 import Ki67
from kinet_trt.inference.counter import Threshold
from kinet_trt.live.acquisition.frame_quality import Quality

MppSource = Literal["option", "calibrated", "objective", "camera", "file", "model"]
"""How um/px is known; see :data:`kinet_trt.io.pixel_size.HOW_KNOWN`."""
Phase = Literal["counting", "paused", "failed", "ended", "closed"]


class FrameCheck(Protocol):
    """Check of a counted frame, such as whether it is out of distribution."""

    def __call__(self, frame: Frame, detections: Detections) -> str:
        """Return a warning; empty if there is none. It runs in the counting thread and must be fast."""
        ...


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Result of one frame.

    Attributes
    ----------
    number
        1-based index of the counted frame; for a frame that was not counted, that of the last counted one.
    sequence
        The camera's number of the frame; gaps are dropped frames.
    captured
        Time of the frame, s since the epoch.
    frame
        The frame, after flat-field correction if there is one; ``frame.mpp`` is None if unknown.
    mpp, mpp_source
        um/px of the count, and how it is known.
    threshold, precision
        Threshold and numeric precision of the count.
    detections
        Its nuclei; None if it was not counted.
    uncounted
        Why it was not counted; empty if it was.
    quality
        Sharpness and motion.
    remarks
        Sentences for people, above all that um/px is only assumed.
    counting_ms
        Duration of the count, ms.
    latency_ms
        Time from capture to the end of the count, ms; see also `Viewer.shown`.
    camera
        State of the camera at the time of the count.
    rests
        Number of times the stage has stopped so far on a field that can be captured (`rested`), so that consumers that
        skip frames notice it.
    at
        Time of this result, s of `kinet_trt.live.clock`.
    domain_warning
        The remark that the frame is out of distribution; None if it is not.
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
    domain_warning: str | None = None

    @property
    def ki67(self) -> Ki67 | None:
        """Index of this frame alone."""
        return None if self.detections is None else Ki67.from_counts(self.detections.counts())

    @property
    def capture_blockers(self) -> tuple[str, ...]:
        """Reasons against capturing it: "uncounted", "damaged", "empty", "blurred", "moving"."""
        quality = self.quality
        blockers = {
            "uncounted": self.detections is None,
            "damaged": quality.damaged,
            "empty": quality.empty,
            "blurred": quality.blurred,
            "moving": quality.moving,
        }
        return tuple(name for name, applies in blockers.items() if applies)

    @property
    def can_capture(self) -> bool:
        """Whether it can be captured without a warning."""
        return not self.capture_blockers

    @property
    def rested(self) -> bool:
        """Whether the stage has just stopped on a field that can be captured; once for each place."""
        return self.quality.rested and self.can_capture


@dataclass(frozen=True)
class Status:
    """State of the loop.

    Attributes
    ----------
    phase
        "counting"; "paused"; "failed": the engine failed, and `Loop.resume` retries; "ended": end of a recording;
        "closed".
    why
        Error of the engine.
    camera
        State of the camera.
    counted
        Frames counted.
    fps
        Frames counted per second, over the last seconds.
    counted_p50, counted_p99
        Percentiles of the latency from capture to the end of the count, ms; None without frames.
    shown_p50, shown_p99
        Percentiles of the latency from capture until a viewer had shown the frame, ms.
    silent
        Time since the last frame passed, s; 0 before the first.
    stalled
        Whether the camera delivers frames and none has passed for too long: the model hangs.
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
