"""GStreamer pipelines, for an OpenCV that was built with GStreamer: cameras of a Jetson, industrial cameras."""

from __future__ import annotations

import cv2

from kinet_trt.camera.opencv import OPEN_TIMEOUT, READ_TIMEOUT, Capture, OpenCVSource
from kinet_trt.camera.source import CameraError, Properties

# The sink keeps one frame, the newest.
SINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


class GStreamerSource(OpenCVSource):
    """A pipeline as for ``gst-launch-1.0``, such as ``nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx``.

    Without an ``appsink``, one that keeps the newest frame is appended. OpenCV before 4.8 has no timeout:
    `kinet_trt.camera.grabber.CameraState` then reports "stalled", and the program must be restarted.
    """

    def __init__(self, pipeline: str) -> None:
        super().__init__(f"the GStreamer pipeline stopped, or gave nothing for {READ_TIMEOUT:g} s")
        self._pipeline = pipeline if "appsink" in pipeline else f"{pipeline} ! {SINK}"

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        if not _has_gstreamer():
            raise CameraError(
                f"gst: needs an OpenCV with GStreamer; this one ({cv2.__version__}) was built without: on a Jetson "
                "use the system's OpenCV (python3-opencv of JetPack) instead of opencv-python-headless; elsewhere "
                "/dev/videoN or rtsp:// need no GStreamer"
            )
        settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * OPEN_TIMEOUT)]
        settings += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * READ_TIMEOUT)]
        try:
            self._capture = self._connect(settings)
        except CameraError:
            # OpenCV before 4.8, which JetPack installs, cannot open a pipeline with timeouts.
            self._capture = self._connect([])
        return Properties("GStreamer pipeline", *self._capture.size, fps=self._capture.fps)

    def _connect(self, settings: list[int]) -> Capture:
        hint = f"try it with gst-launch-1.0 first: {self._pipeline}"
        return Capture("the GStreamer pipeline", self._pipeline, cv2.CAP_GSTREAMER, settings, hint)


def _has_gstreamer() -> bool:
    """Return whether OpenCV's build lists GStreamer; its registry names it also in wheels without it."""
    return any(line.split()[:2] == ["GStreamer:", "YES"] for line in cv2.getBuildInformation().splitlines())
