"""A camera of the operating system (USB, built in), by its number."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass

import cv2

from kinet_trt.camera._opencv import Reader
from kinet_trt.camera.detected import advice, list_cameras
from kinet_trt.camera.options import number, parse_options, size
from kinet_trt.camera.source import CameraError, Properties, SourceFrame, SourceTextError
from kinet_trt.core.errors import shown
from kinet_trt.core.frame import Frame


@dataclass(frozen=True)
class Wanted:
    """What is asked of a camera; it may give something else, and then that is what its frames say.

    Attributes
    ----------
    size
        Width, height, px; None: what the driver prefers, often 640 x 480.
    fps
        Frames a second; None: what the driver prefers.
    fourcc
        How pixels travel, such as MJPG (a USB 2 camera needs it above 640 x 480) or YUYV; None: the driver's choice.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    fourcc: str | None = None


class DeviceSource:
    """A camera of the operating system, read through OpenCV.

    Parameters
    ----------
    index
        Its number: N of /dev/videoN.
    wanted
        What is asked of it.
    """

    def __init__(self, index: int, wanted: Wanted | None = None) -> None:
        self._index, self._wanted = index, wanted or Wanted()
        self._reader: Reader | None = None
        self._sequence = 0

    @classmethod
    def of(cls, text: str) -> DeviceSource:
        """Read ``N,size=1920x1080,fps=30,fourcc=MJPG`` or ``/dev/videoN,...``.

        Raises
        ------
        SourceTextError
            If it is not that.
        """
        place, _, rest = text.partition(",")
        index = re.fullmatch(r"(?:/dev/video)?([0-9]{1,3})", place)
        if not index:
            raise SourceTextError(f"device: expected a number or /dev/videoN, found {shown(place)}")
        options = parse_options(rest, ("size", "fps", "fourcc"))
        fourcc = options.get("fourcc")
        if fourcc is not None and not re.fullmatch(r"[A-Za-z0-9]{4}", fourcc):
            raise SourceTextError(f"option fourcc: expected four letters such as MJPG, found {shown(fourcc)}")
        wanted = Wanted(
            size("size", options["size"]) if "size" in options else None,
            number("fps", options["fps"], 0.1, 1000) if "fps" in options else None,
            fourcc,
        )
        return cls(int(index[1]), wanted)

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        hint = advice(self._index, list_cameras())
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        reader = self._reader = Reader(f"camera {self._index}", self._index, backend, [], hint)
        wanted = self._wanted
        if wanted.fourcc:
            reader.ask(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*wanted.fourcc))
        if wanted.size:
            reader.ask(cv2.CAP_PROP_FRAME_WIDTH, wanted.size[0])
            reader.ask(cv2.CAP_PROP_FRAME_HEIGHT, wanted.size[1])
        if wanted.fps:
            reader.ask(cv2.CAP_PROP_FPS, wanted.fps)
        reader.ask(cv2.CAP_PROP_BUFFERSIZE, 1)  # else drivers queue some frames, and the oldest comes first
        return Properties(f"camera {self._index}", *reader.size, fps=reader.fps)

    def newest(self, timeout: float) -> SourceFrame:  # noqa: ARG002 - the driver's own limit holds (10 s on Linux)
        """See `kinet_trt.camera.FrameSource.newest`."""
        pixels = self._reader.read() if self._reader else None
        if pixels is None:
            raise CameraError(f"camera {self._index} gives no more frames: is it still plugged in?")
        self._sequence += 1
        return SourceFrame(Frame(pixels, time=time.time()), self._sequence)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        if self._reader:
            self._reader.close()
            self._reader = None
