"""Cameras: the protocol `FrameSource`, and `open_source`, which creates a source from its text."""

from kinet_trt.camera.pixels import to_rgb as to_rgb
from kinet_trt.camera.registry import open_source as open_source
from kinet_trt.camera.source import CameraError as CameraError
from kinet_trt.camera.source import FrameSource as FrameSource
from kinet_trt.camera.source import NoFrameError as NoFrameError
from kinet_trt.camera.source import Properties as Properties
from kinet_trt.camera.source import RecordingError as RecordingError
from kinet_trt.camera.source import SourceFrame as SourceFrame
from kinet_trt.camera.source import SourceTextError as SourceTextError

Shot = SourceFrame
"""Old name of :class:`SourceFrame`, until 1.0."""
