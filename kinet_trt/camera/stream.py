"""A network camera: rtsp:// or http:// (MJPEG), read through OpenCV's FFmpeg."""

from __future__ import annotations

import re
import time

import cv2

from kinet_trt.camera import motion_jpeg
from kinet_trt.camera._opencv import OPEN_TIMEOUT, READ_TIMEOUT, Reader
from kinet_trt.camera.source import CameraError, Properties, SourceFrame
from kinet_trt.core.frame import Frame

_MJPG = cv2.VideoWriter.fourcc(*"MJPG")


class StreamSource:
    """A network camera.

    OpenCV 4.7 and later stretch every frame of a stream to the size of its first one (its issue 27116), which would
    leave the um/px silently wrong. MJPEG over HTTP is therefore decoded here, frame by frame, at its own size. A camera
    that changes the size within a running RTSP stream, without ending it as most do, is not noticed: restart it then.

    Parameters
    ----------
    address
        ``rtsp://...`` or ``http://...``, with ``user:password@`` where the camera asks for it.
    open_timeout, read_timeout
        s after which a camera that does not answer, or stops, is given up.
    """

    def __init__(self, address: str, open_timeout: float = OPEN_TIMEOUT, read_timeout: float = READ_TIMEOUT) -> None:
        self._address, self._timeouts = address, (open_timeout, read_timeout)
        # What a person reads, or sends on in a log, must not hold the camera's password.
        self._name = re.sub(r"//[^/]*@", "//", address)
        self._reader: Reader | None = None
        self._is_jpeg = False
        self._sequence = 0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        self._is_jpeg = False
        if self._address.lower().startswith("http"):
            self._reader = self._connect([cv2.CAP_PROP_FORMAT, -1])
            self._is_jpeg = int(self._reader.get(cv2.CAP_PROP_FOURCC)) == _MJPG
        if not self._is_jpeg:
            self.close()
            self._reader = self._connect([])
        assert self._reader is not None
        return Properties(self._name, *self._reader.size, fps=self._reader.fps)

    def _connect(self, how: list[int]) -> Reader:
        open_ms, read_ms = (round(1000 * s) for s in self._timeouts)
        settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        settings += [cv2.CAP_PROP_N_THREADS, 1]  # each further decoding thread holds a frame back
        hint = f"no video within {self._timeouts[0]:g} s: is the camera on, are address and password right?"
        return Reader(self._name, self._address, cv2.CAP_FFMPEG, settings + how, hint)

    def newest(self, timeout: float) -> SourceFrame:  # noqa: ARG002 - FFmpeg is told its limit when it opens
        """See `kinet_trt.camera.FrameSource.newest`.

        A damaged JPEG is an ImageError; the next call returns the next frame.
        """
        pixels = None
        if self._reader is not None:
            if not self._is_jpeg:
                pixels = self._reader.read()
            elif (packet := self._reader.read_packet()) is not None:
                pixels = motion_jpeg.decode(packet)
        if pixels is None:
            raise CameraError(f"{self._name} stopped: it ended, or gave nothing for {self._timeouts[1]:g} s")
        self._sequence += 1
        return SourceFrame(Frame(pixels, time=time.time()), self._sequence)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        if self._reader:
            self._reader.close()
            self._reader = None
