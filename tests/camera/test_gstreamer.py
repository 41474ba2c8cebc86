"""GStreamer pipelines, and the message of an OpenCV without GStreamer."""

from __future__ import annotations

import pytest

from kinet_trt.camera import open_source
from kinet_trt.camera.gstreamer import SINK, GStreamerSource, _has_gstreamer
from kinet_trt.camera.source import CameraError


def test_opencv_without_gstreamer_is_one_message() -> None:
    source = open_source("gst:videotestsrc")
    if _has_gstreamer():  # a Jetson's OpenCV
        source.open()
        assert source.newest(5.0) is not None
    else:
        with pytest.raises(CameraError, match=r"needs an OpenCV with GStreamer; this one \(.*\) was built without"):
            source.open()
    source.close()


def test_sink_keeps_the_newest_frame() -> None:
    assert GStreamerSource("videotestsrc")._pipeline == f"videotestsrc ! {SINK}"
    assert GStreamerSource("videotestsrc ! appsink")._pipeline == "videotestsrc ! appsink"
    assert "drop=true max-buffers=1" in SINK
