"""Network cameras: rtsp:// or http:// (MJPEG), read through OpenCV's FFmpeg."""

from __future__ import annotations

import re

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.camera import motion_jpeg
from kinet_trt.camera.opencv import OPEN_TIMEOUT, PACKETS, READ_TIMEOUT, Capture, OpenCVSource
from kinet_trt.camera.source import Properties


class StreamSource(OpenCVSource):
    """A network camera, ``rtsp://...`` or ``http://...``, with ``user:password@`` if it requires one; timeouts in s.

    OpenCV 4.7 and later scale every frame of a stream to the size of its first one (its issue 27116), which would make
    the um/px wrong without notice. MJPEG over HTTP is therefore decoded here, frame by frame, at its own size. A
    damaged JPEG is an ImageError. A size change within a running RTSP stream is not detected; most cameras end the
    stream then.
    """

    def __init__(self, address: str, open_timeout: float = OPEN_TIMEOUT, read_timeout: float = READ_TIMEOUT) -> None:
        # Messages and logs must not contain the camera's password.
        self._name = re.sub(r"//[^/]*@", "//", address)
        super().__init__(f"{self._name} stopped: it ended, or gave nothing for {read_timeout:g} s")
        self._address, self._timeouts = address, (open_timeout, read_timeout)
        self._is_jpeg = False

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`."""
        self._is_jpeg = False
        if self._address.lower().startswith("http"):
            self._capture = self._connect(PACKETS)
            self._is_jpeg = self._capture.is_motion_jpeg
        if not self._is_jpeg:
            self.close()
            self._capture = self._connect([])
        assert self._capture is not None
        return Properties(self._name, *self._capture.size, fps=self._capture.fps)

    def _connect(self, settings: list[int]) -> Capture:
        open_ms, read_ms = (round(1000 * s) for s in self._timeouts)
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        threads = [cv2.CAP_PROP_N_THREADS, 1]  # each further decoding thread delays by a frame
        hint = f"no video within {self._timeouts[0]:g} s: is the camera on, are address and password right?"
        return Capture(self._name, self._address, cv2.CAP_FFMPEG, [*timeouts, *threads, *settings], hint)

    def _read(self, capture: Capture) -> NDArray[np.uint8] | None:
        if not self._is_jpeg:
            return capture.read()
        packet = capture.read_packet()
        return None if packet is None else motion_jpeg.decode(packet)
