"""Headless: one JSON line a counted frame, for programs that read from a pipe (``kinet-trt live SOURCE --headless``).

Every line is one object with these keys; within a schema keys are only ever added.

========================  ============================================================================================
``schema``                1
``number``                the how manieth counted frame, from 1
``sequence``              the camera's number of the frame; a gap says that frames were dropped
``time``                  when it was taken, s since the epoch
``width``, ``height``     px
``mpp``                   um/px that it was counted at
``mpp_source``            ``"option"``, ``"camera"``, ``"file"``, or ``"model"``: only assumed
``stage``                 stage position ``[x, y]``, um; null where there is none
``model``, ``precision``  what counted it, and what that computed in
``threshold``             least height of a peak; ``"relative:XI"`` for the paper's rule
``counts``                nuclei by class
``ki67_index``            fraction of this frame alone; null without tumour nuclei
``interval``              its 95% Wilson interval; null as well
``sharpness``             0 to 1; null where there is no tissue (`kinet_trt.live.acquisition.quality.Quality`)
``shift_um``              way since the frame before, um; null where it cannot be told
``speed_um_s``            the same a second; null as well
``offered``               whether it may be captured: neither damaged, empty, blurred nor moving
``hindrances``            why not: ``"damaged"`` (a part of the picture is missing), ``"empty"``, ``"blurred"``,
                          ``"moving"``
``rested``                whether the stage has just come to rest on a field that may be captured
``remarks``               sentences that a person should read: that um/px is only assumed, that the field is unlike
                          those that the model learnt from (`kinet_trt.quality.domain_check`)
``unlike``                the one of them that says how the field looks unlike the training data; null where it does not
``latency_ms``            from capture to the end of the count
``counting_ms``           how long the count took
``p50_ms``, ``p99_ms``    ms from capture until a line was written, of the last 10 s; null on the first line
``fps``                   frames counted a second, over the last 2 s
``camera_fps``            frames a second that the camera gave, over the last 2 s
``dropped``               frames that gave way to a newer one before they were counted
``missed``                frames that the camera counted but that never came in
``detections``            with ``--detections``: ``{"x", "y", "class", "score"}`` of each nucleus, px of the frame
========================  ============================================================================================
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from kinet_trt.camera.folder import FolderSource
from kinet_trt.camera.grabber import CameraState, FrameGrabber
from kinet_trt.camera.source import CameraError, FrameSource
from kinet_trt.camera.video import VideoSource
from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.live.acquisition.loop import FrameResult, Loop, Status
from kinet_trt.quality.domain_check import DomainCheck

SCHEMA = 1
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""
_LOOK = 0.25  # s after which the camera's state is looked at when no frame comes


def run(
    source: FrameSource,
    counter: NucleusCounter,
    out: BinaryIO,
    tell: Callable[[str], None],
    *,
    mpp: float | None = None,
    frames: int | None = None,
    detections: bool = False,
) -> int:
    """Count a source and write a line for each counted frame, until it ends, ``frames`` are counted, or Ctrl-C.

    Parameters
    ----------
    source
        Not open. A recording should wait for each frame to be taken.
    counter
        What counts.
    out
        Where the lines go; each is flushed.
    tell
        Takes a sentence when the state of the camera or of the count changes.
    mpp
        um/px, stated by a person.
    frames
        How many frames to count; None: no end.
    detections
        Whether lines hold each nucleus.

    Returns
    -------
    int
        Exit status: 0, also when the reader of ``out`` has gone; 130 after Ctrl-C.

    Raises
    ------
    KinetError
        If the engine fails, a recording cannot be read, or the lines cannot be written.
    """
    recorded = isinstance(source, FolderSource | VideoSource)
    news, counted = _News(tell, recorded), 0
    grabber = FrameGrabber(source, mpp=mpp)
    remarks = (DomainCheck(counter.engine.card.mpp),)
    loop = Loop(grabber, counter, mpp=mpp, stated="file" if recorded else "camera", remarks=remarks)
    viewer = loop.viewer(every=True)  # before it runs: the first frame counts too
    try:
        with grabber, loop:
            while not viewer.closed:
                seen = viewer.take(_LOOK)
                status = loop.status
                news.of(status, seen)
                if seen is None or seen.detections is None:
                    continue
                _write(out, record(seen, status, counter, detections))
                viewer.shown(seen)
                counted += 1
                if seen.number == frames:
                    return 0
            news.end(loop.status.camera, counted)
    except KeyboardInterrupt:
        return INTERRUPTED
    except _ReaderGoneError:
        return 0
    return 0


def record(seen: FrameResult, status: Status, counter: NucleusCounter, detections: bool = False) -> dict[str, Any]:
    """Return the object of a counted frame's line; the keys are in the docstring of this module."""
    ki67, quality, threshold = seen.ki67, seen.quality, seen.threshold
    if seen.detections is None or ki67 is None:
        raise ValueError(f"expected a counted frame, found one that was not: {seen.uncounted}")
    return {
        "schema": SCHEMA,
        "number": seen.number,
        "sequence": seen.sequence,
        "time": round(seen.captured, 4),
        "width": seen.frame.width,
        "height": seen.frame.height,
        "mpp": seen.mpp,
        "mpp_source": seen.mpp_source,
        "stage": None if seen.frame.stage is None else [round(axis, 3) for axis in seen.frame.stage],
        "model": counter.engine.card.name,
        "precision": seen.precision,
        "threshold": str(threshold) if threshold.relative else threshold.value,
        "counts": seen.detections.counts(),
        "ki67_index": ki67.index,
        "interval": list(ki67.interval) if ki67.interval else None,
        "sharpness": _rounded(quality.sharpness, 4),
        "shift_um": _rounded(quality.shift, 2),
        "speed_um_s": _rounded(quality.speed, 1),
        "offered": seen.can_capture,
        "hindrances": list(seen.capture_blockers),
        "rested": seen.rested,
        "remarks": list(seen.remarks),
        "unlike": seen.unlike,
        "latency_ms": round(seen.latency_ms, 1),
        "counting_ms": round(seen.counting_ms, 1),
        "p50_ms": _rounded(status.shown_p50, 1),
        "p99_ms": _rounded(status.shown_p99, 1),
        "fps": round(status.fps, 2),
        "camera_fps": round(status.camera.fps, 2),
        "dropped": status.camera.dropped,
        "missed": status.camera.missed,
        **({"detections": seen.detections.records()} if detections else {}),
    }


class _News:
    """Tells what changed: once when it begins, not once a second; and at the end what was not counted."""

    def __init__(self, tell: Callable[[str], None], recorded: bool) -> None:
        self._tell, self._recorded = tell, recorded
        self._trouble, self._uncounted, self._last_uncounted, self._times_uncounted = "", "", "", 0
        self._remarks: tuple[str, ...] = ()

    def of(self, status: Status, seen: FrameResult | None) -> None:
        """Look at the state, and at a frame where there is one."""
        camera = status.camera
        if status.phase == "failed":
            raise EngineError(f"counting stopped: {status.why}")
        if self._recorded and camera.phase == "reconnecting":
            # Opened again it would begin with its first frame: those before would be counted twice.
            raise CameraError(camera.why)
        # "connecting" is no news: it comes before every further attempt.
        if camera.phase in ("reconnecting", "stalled"):
            trouble = camera.why or camera.phase
            if trouble != self._trouble:
                self._tell(camera.sentence())
            self._trouble = trouble
        elif camera.phase == "connected" and self._trouble:
            self._trouble = ""
            self._tell(camera.sentence())
        if seen is None:
            return
        if seen.remarks != self._remarks:
            for remark in seen.remarks:
                if remark not in self._remarks:
                    self._tell(remark)
            self._remarks = seen.remarks
        if seen.uncounted:
            self._last_uncounted = seen.uncounted
            self._times_uncounted += 1
        if seen.uncounted != self._uncounted:
            self._uncounted = seen.uncounted
            if seen.uncounted:
                self._tell(f"not counted: {seen.uncounted}")

    def end(self, camera: CameraState, counted: int) -> None:
        """Report what was not counted of a source that has ended; raise if it ended early, or nothing was counted."""
        if camera.bad:
            self._tell(f"{camera.damage()}.")
        if self._times_uncounted:
            self._tell(f"{self._times_uncounted} of {camera.frames} frames were not counted: {self._last_uncounted}")
        if camera.why:
            raise CameraError(camera.why)
        if not counted:
            why = self._last_uncounted or camera.bad_why or "it gave none"
            raise CameraError(f"{camera.name}: not one frame was counted: {why}")


class _ReaderGoneError(Exception):
    """Who read the lines has gone, as ``head`` does."""


def _write(out: BinaryIO, line: dict[str, Any]) -> None:
    try:
        out.write(json.dumps(line, allow_nan=False).encode("ascii") + b"\n")
        out.flush()
    except OSError as error:
        # Python flushes standard output once more when it ends, and would say so again.
        _silence(out)
        # Windows calls a pipe without a reader an invalid argument.
        if error.errno in (errno.EPIPE, errno.EINVAL):
            raise _ReaderGoneError from None
        raise KinetError(f"standard output cannot be written: {error.strerror}") from error


def _silence(out: BinaryIO) -> None:
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)
    except OSError:
        pass


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
