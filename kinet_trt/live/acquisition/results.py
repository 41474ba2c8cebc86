"""Results of the loop: counted frames, and the state of the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kinet_trt.camera.grabber import CameraState
from kinet_trt.core.detections import Detections
from kinet_trt.core.frame import Frame
from kinet_trt.core.ki67 import Ki67
from kinet_trt.inference.counter import Threshold
from kinet_trt.live.acquisition.frame_quality import Quality

MppSource = Literal["option", "calibrated", "objective", "camera", "file", "model"]
"""How um/px is known; see :data:`kinet_trt.io.pixel_size.HOW_KNOWN`."""
Phase = Literal["counting", "paused", "failed", "ended", "closed"]


FrameCheck = Callable[[Frame, Detections], str]
"""Check whether a counted frame is out of distribution. It returns a warning, empty if there is none, runs in the
counting thread and must be fast."""


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Result of one frame."""

    number: int  # 1-based index of the counted frame; for a frame that was not counted, that of the last counted one
    sequence: int  # the camera's number of the frame; gaps are dropped frames
    captured: float  # s since the epoch
    frame: Frame  # after flat-field correction if there is one; its mpp is None if unknown
    mpp: float  # um/px of the count
    mpp_source: MppSource
    threshold: Threshold
    precision: str
    detections: Detections | None  # None if it was not counted
    uncounted: str  # why it was not counted; empty if it was
    quality: Quality
    remarks: tuple[str, ...]  # sentences for people, above all that um/px is only assumed
    counting_ms: float
    latency_ms: float  # from capture to the end of the count; see also `Viewer.record_shown`
    camera: CameraState  # at the time of the count
    stage_stops: int = 0  # number of stops (`rested`) so far, so that consumers that skip frames notice one
    at: float = 0.0  # time of this result, s of `kinet_trt.live.clock`
    domain_warning: str | None = None  # the remark that the frame is out of distribution; None if it is not

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
    """State of the loop."""

    phase: Phase  # failed: the engine failed, and `Loop.resume` retries; ended: end of a recording
    why: str  # error of the engine
    camera: CameraState
    counted: int  # frames
    fps: float  # frames counted per second, over the last seconds
    shown_p50: float | None  # latency from capture until a viewer had shown the frame, ms; None without frames
    shown_p99: float | None
    seconds_since_result: float = 0.0  # time since the last result, s; 0 before the first
    stalled: bool = False  # the camera delivers frames and none has passed for too long: the model hangs


def rounded(value: float | None, digits: int) -> float | None:
    """Round a value for JSON; None stays None."""
    return None if value is None else round(value, digits)
