"""Cameras of the operating system (USB, built in), by their number."""

from __future__ import annotations

import re
import sys

import cv2

from kinet_trt.camera.detected import advice, list_cameras
from kinet_trt.camera.opencv import Capture, OpenCVSource
from kinet_trt.camera.options import number, parse_options, size
from kinet_trt.camera.source import Properties, SourceTextError
from kinet_trt.core.errors import shown


class DeviceSource(OpenCVSource):
    """A camera of the operating system, /dev/video``index``, read through OpenCV. Its timeout is the driver's.

    On Linux that is 10 s. The camera may refuse the requested ``frame_size`` (width, height, px), ``fps`` and
    ``fourcc`` (pixel encoding, such as YUYV, or MJPG, which a USB 2 camera needs above 640 x 480); its frames show what
    it uses.
    """

    def __init__(self, index: int, frame_size: tuple[int, int] | None, fps: float | None, fourcc: str | None) -> None:
        super().__init__(f"camera {index} gives no more frames: is it still plugged in?")
        self._index, self._frame_size, self._fps, self._fourcc = index, frame_size, fps, fourcc

    @classmethod
    def parse(cls, text: str) -> DeviceSource:
        """Parse ``N,size=1920x1080,fps=30,fourcc=MJPG`` or ``/dev/videoN,...``."""
        place, _, rest = text.partition(",")
        index = re.fullmatch(r"(?:/dev/video)?([0-9]{1,3})", place)
        if not index:
            raise SourceTextError(f"device: expected a number or /dev/videoN, found {shown(place)}")
        options = parse_options(rest, ("size", "fps", "fourcc"))
        fourcc = options.get("fourcc")
        if fourcc is not None and not re.fullmatch(r"[A-Za-z0-9]{4}", fourcc):
            raise SourceTextError(f"option fourcc: expected four letters such as MJPG, found {shown(fourcc)}")
        return cls(
            int(index[1]),
            size("size", options["size"]) if "size" in options else None,
            number("fps", options["fps"], 0.1, 1000) if "fps" in options else None,
            fourcc,
        )

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        name, hint = f"camera {self._index}", advice(self._index, list_cameras())
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        capture = self._capture = Capture(name, self._index, backend, [], hint)
        if self._fourcc:
            capture.request(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc))
        if self._frame_size:
            capture.request(cv2.CAP_PROP_FRAME_WIDTH, self._frame_size[0])
            capture.request(cv2.CAP_PROP_FRAME_HEIGHT, self._frame_size[1])
        if self._fps:
            capture.request(cv2.CAP_PROP_FPS, self._fps)
        # Drivers queue several frames by default and deliver the oldest first.
        capture.request(cv2.CAP_PROP_BUFFERSIZE, 1)
        return Properties(name, *capture.size, fps=capture.fps)
