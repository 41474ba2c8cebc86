"""Headless counting: one JSON line per counted frame (``kinet-trt live SOURCE --headless``).

Every line is an object with these keys; within a schema, keys are only added.

========================  ============================================================================================
``schema``                1
``number``                1-based index of the counted frame
``sequence``              the camera's number of the frame; gaps are dropped frames
``time``                  time of the frame, s since the epoch
``width``, ``height``     px
``mpp``                   um/px of the count
``mpp_source``            ``"option"``, ``"camera"``, ``"file"``, or ``"model"`` (only assumed)
``stage``                 stage position ``[x, y]``, um; null if unknown
``model``, ``precision``  model, and numeric precision
``threshold``             lowest height of a peak; ``"relative:FRACTION"`` for the paper's rule
``counts``                nuclei by class
``ki67_index``            index of this frame alone, a fraction; null without tumour nuclei
``interval``              its 95% Wilson interval; null as well
``sharpness``             0 to 1; null without tissue (`kinet_trt.live.acquisition.frame_quality.Quality`)
``shift_um``              shift since the previous frame, um; null if unknown
``speed_um_s``            speed of the stage, um/s; null if unknown
``offered``               whether it can be captured: not damaged, empty, blurred or moving
``hindrances``            reasons against it: ``"damaged"`` (a part is missing), ``"empty"``, ``"blurred"``,
                          ``"moving"``
``rested``                whether the stage has just stopped on a field that can be captured
``remarks``               sentences for people: that um/px is only assumed, that the field is out of distribution
                          (`kinet_trt.quality.domain_check`)
``unlike``                the remark that the field is out of distribution; null if it is not
``latency_ms``            time from capture to the end of the count
``counting_ms``           duration of the count
``p50_ms``, ``p99_ms``    latency from capture to the written line over the last 10 s; null on the first line
``fps``                   frames counted per second, over the last 2 s
``camera_fps``            frames received per second, over the last 2 s
``dropped``               frames that were replaced by a newer one before they were counted
``missed``                frames that the camera numbered but that were not received
``detections``            with ``--detections``: ``{"x", "y", "class", "score"}`` of each nucleus, px of the frame
========================  ============================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from kinet_trt.camera.folder import FolderSource
from kinet_trt.camera.grabber import CameraState, FrameGrabber
from kinet_trt.camera.source import CameraError, FrameSource
from kinet_trt.camera.video import VideoSource
from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.acquisition.loop import Loop
from kinet_trt.live.acquisition.results import FrameResult, Status, rounded
from kinet_trt.quality.domain_check import DomainCheck

SCHEMA = 1
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as in shells."""
_POLL = 0.25  # s: interval of checking the camera's state without a frame


def run(
    source: FrameSource,
    counter: NucleusCounter,
    out: BinaryIO,
    notify: Callable[[str], None],
    *,
    mpp: float | None = None,
    frames: int | None = None,
    detections: bool = False,
) -> int:
    """Count a source and write one line per counted frame, until its end, ``frames`` counted frames, or Ctrl-C.

    A recording should wait until each frame is taken. Each line is flushed. ``notify`` is called with a sentence when
    the state of the camera or of the count changes. ``mpp`` is the um/px that a person entered. ``detections`` adds
    each nucleus to the lines.

    Returns the exit status: 0, also if ``out`` is a closed pipe; 130 after Ctrl-C. KinetError if the engine fails, a
    recording cannot be read, or the lines cannot be written.
    """
    recorded = isinstance(source, FolderSource | VideoSource)
    notifier, counted = _Notifier(notify, recorded), 0
    grabber = FrameGrabber(source, mpp=mpp)
    check = DomainCheck(counter.engine.card.mpp)
    loop = Loop(grabber, counter, mpp=mpp, source_kind="file" if recorded else "camera", check=check)
    viewer = loop.viewer(every=True)  # opened before the loop starts, to receive the first frame
    try:
        with grabber, loop:
            while not viewer.closed:
                result = viewer.take(_POLL)
                status = loop.status
                notifier.update(status, result)
                if result is None or result.detections is None:
                    continue
                _write(out, record(result, status, counter, detections))
                viewer.record_shown(result)
                counted += 1
                if result.number == frames:
                    return 0
            notifier.end(loop.status.camera, counted)
    except KeyboardInterrupt:
        return INTERRUPTED
    except _PipeClosedError:
        return 0
    return 0


def record(result: FrameResult, status: Status, counter: NucleusCounter, detections: bool = False) -> dict[str, Any]:
    """Return the line of a counted frame as an object; see the module for its keys."""
    ki67, quality, threshold = result.ki67, result.quality, result.threshold
    if result.detections is None or ki67 is None:
        raise ValueError(f"expected a counted frame, found an uncounted one: {result.uncounted}")
    return {
        "schema": SCHEMA,
        "number": result.number,
        "sequence": result.sequence,
        "time": round(result.captured, 4),
        "width": result.frame.width,
        "height": result.frame.height,
        "mpp": result.mpp,
        "mpp_source": result.mpp_source,
        "stage": None if result.frame.stage is None else [round(axis, 3) for axis in result.frame.stage],
        "model": counter.engine.card.name,
        "precision": result.precision,
        "threshold": str(threshold) if threshold.relative else threshold.value,
        "counts": result.detections.counts(),
        "ki67_index": ki67.index,
        "interval": list(ki67.interval) if ki67.interval else None,
        "sharpness": rounded(quality.sharpness, 4),
        "shift_um": rounded(quality.shift, 2),
        "speed_um_s": rounded(quality.speed, 1),
        "offered": result.can_capture,
        "hindrances": list(result.capture_blockers),
        "rested": result.rested,
        "remarks": list(result.remarks),
        "unlike": result.domain_warning,
        "latency_ms": round(result.latency_ms, 1),
        "counting_ms": round(result.counting_ms, 1),
        "p50_ms": rounded(status.shown_p50, 1),
        "p99_ms": rounded(status.shown_p99, 1),
        "fps": round(status.fps, 2),
        "camera_fps": round(status.camera.fps, 2),
        "dropped": status.camera.dropped,
        "missed": status.camera.missed,
        **({"detections": result.detections.records()} if detections else {}),
    }


class _Notifier:
    """Report each change of state once, and uncounted frames at the end."""

    def __init__(self, notify: Callable[[str], None], recorded: bool) -> None:
        self._notify, self._recorded = notify, recorded
        self._trouble, self._uncounted, self._last_uncounted, self._times_uncounted = "", "", "", 0
        self._remarks: tuple[str, ...] = ()

    def update(self, status: Status, result: FrameResult | None) -> None:
        """Compare the state, and a result if there is one, with the previous ones."""
        camera = status.camera
        if status.phase == "failed":
            raise EngineError(f"counting stopped: {status.why}")
        if self._recorded and camera.phase == "reconnecting":
            # Opening it again would count its first frames twice.
            raise CameraError(camera.why)
        # "connecting" precedes every attempt and is not reported.
        if camera.phase in ("reconnecting", "stalled"):
            trouble = camera.why or camera.phase
            if trouble != self._trouble:
                self._notify(camera.sentence())
            self._trouble = trouble
        elif camera.phase == "connected" and self._trouble:
            self._trouble = ""
            self._notify(camera.sentence())
        if result is None:
            return
        if result.remarks != self._remarks:
            for remark in result.remarks:
                if remark not in self._remarks:
                    self._notify(remark)
            self._remarks = result.remarks
        if result.uncounted:
            self._last_uncounted = result.uncounted
            self._times_uncounted += 1
        if result.uncounted != self._uncounted:
            self._uncounted = result.uncounted
            if result.uncounted:
                self._notify(f"not counted: {result.uncounted}")

    def end(self, camera: CameraState, counted: int) -> None:
        """Report uncounted frames at the end of a source; raise if it ended early, or no frame was counted."""
        if camera.bad:
            self._notify(f"{camera.damage()}.")
        if self._times_uncounted:
            self._notify(f"{self._times_uncounted} of {camera.frames} frames were not counted: {self._last_uncounted}")
        if camera.why:
            raise CameraError(camera.why)
        if not counted:
            why = self._last_uncounted or camera.bad_why or "it delivered none"
            raise CameraError(f"{camera.name}: not one frame was counted: {why}")


class _PipeClosedError(Exception):
    """The reading end of the pipe was closed, as ``head`` does."""


def _write(out: BinaryIO, line: dict[str, Any]) -> None:
    try:
        out.write(json.dumps(line, allow_nan=False).encode("ascii") + b"\n")
        out.flush()
    except OSError as error:
        # Python flushes standard output at exit and would report the error again.
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), out.fileno())
        # On Windows, writing to a closed pipe is an invalid argument.
        if error.errno in (errno.EPIPE, errno.EINVAL):
            raise _PipeClosedError from None
        raise KinetError(f"standard output cannot be written: {error.strerror}") from error
