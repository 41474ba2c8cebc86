"""A network camera: rtsp:// or http:// (MJPEG), read through OpenCV's FFmpeg."""

from __future__ import annotations

import re
import time

import cv2

from kinet_trt.camera import CameraError, Properties, Shot
from kinet_trt.camera._opencv import OPEN_TIMEOUT, READ_TIMEOUT, Reader
from kinet_trt.frame import Frame


class StreamSource:
    """A network camera.

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
        self._sequence = 0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        open_ms, read_ms = (round(1000 * s) for s in self._timeouts)
        settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        settings += [cv2.CAP_PROP_N_THREADS, 1]  # each further decoding thread holds a frame back
        hint = f"no video within {self._timeouts[0]:g} s: is the camera on, are address and password right?"
        self._reader = Reader(self._name, self._address, cv2.CAP_FFMPEG, settings, hint)
        return Properties(self._name, *self._reader.size, fps=self._reader.fps)

    def newest(self, timeout: float) -> Shot:  # noqa: ARG002 - FFmpeg is told its limit when it opens
        """See `kinet_trt.camera.FrameSource.newest`."""
        pixels = self._reader.read() if self._reader else None
        if pixels is None:
            raise CameraError(f"{self._name} stopped: it ended, or gave nothing for {self._timeouts[1]:g} s")
        self._sequence += 1
        return Shot(Frame(pixels, time=time.time()), self._sequence)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        if self._reader:
            self._reader.close()
            self._reader = None
