"""A GStreamer pipeline, where OpenCV was built with GStreamer: cameras of a Jetson, industrial cameras."""

from __future__ import annotations

import time

import cv2

from kinet_trt.camera._opencv import OPEN_TIMEOUT, READ_TIMEOUT, Reader
from kinet_trt.camera.source import CameraError, Properties, SourceFrame
from kinet_trt.core.frame import Frame

# One frame, the newest, waits in the sink.
SINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


class GStreamerSource:
    """A GStreamer pipeline.

    Parameters
    ----------
    pipeline
        As ``gst-launch-1.0`` takes it, such as ``nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx``. Where it has
        no ``appsink``, one that keeps the newest frame is added. OpenCV before 4.8 waits for a silent camera
        without limit: `kinet_trt.camera.grabber.CameraState` then says "stalled", and a person must start it again.
    """

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline if "appsink" in pipeline else f"{pipeline} ! {SINK}"
        self._reader: Reader | None = None
        self._sequence = 0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        if not _built_in():
            raise CameraError(
                f"gst: needs an OpenCV with GStreamer; this one ({cv2.__version__}) was built without: on a Jetson "
                "use the system's OpenCV (python3-opencv of JetPack) instead of opencv-python-headless; elsewhere "
                "/dev/videoN or rtsp:// need no GStreamer"
            )
        settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * OPEN_TIMEOUT)]
        settings += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * READ_TIMEOUT)]
        hint = f"try it with gst-launch-1.0 first: {self._pipeline}"
        try:
            self._reader = Reader("the GStreamer pipeline", self._pipeline, cv2.CAP_GSTREAMER, settings, hint)
        except CameraError:
            # OpenCV before 4.8, as JetPack brings it, refuses a pipeline for which it is given time limits.
            self._reader = Reader("the GStreamer pipeline", self._pipeline, cv2.CAP_GSTREAMER, [], hint)
        return Properties("GStreamer pipeline", *self._reader.size, fps=self._reader.fps)

    def newest(self, timeout: float) -> SourceFrame:  # noqa: ARG002 - the pipeline is told its limit when it opens
        """See `kinet_trt.camera.FrameSource.newest`."""
        pixels = self._reader.read() if self._reader else None
        if pixels is None:
            raise CameraError(f"the GStreamer pipeline stopped, or gave nothing for {READ_TIMEOUT:g} s")
        self._sequence += 1
        return SourceFrame(Frame(pixels, time=time.time()), self._sequence)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        if self._reader:
            self._reader.close()
            self._reader = None


def _built_in() -> bool:
    """Say whether OpenCV's build lists GStreamer; its registry names it in wheels that do not have it."""
    return any(line.split()[:2] == ["GStreamer:", "YES"] for line in cv2.getBuildInformation().splitlines())
