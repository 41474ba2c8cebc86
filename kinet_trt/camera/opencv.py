"""Sources that read with cv2.VideoCapture: base of devices, streams, pipelines and video files."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.camera.pixels import to_rgb
from kinet_trt.camera.source import CameraError, SourceFrame
from kinet_trt.core.frame import Frame

OPEN_TIMEOUT, READ_TIMEOUT = 10.0, 5.0
"""Timeouts for opening a stream and for its next frame, s."""
MJPG = cv2.VideoWriter.fourcc(*"MJPG")
PACKETS = [cv2.CAP_PROP_FORMAT, -1]
"""Settings of a :class:`Capture` that returns encoded frames, see :meth:`Capture.read_packet`."""


class Capture:
    """An open cv2.VideoCapture; CameraError if it cannot be opened.

    ``source`` is a device number, file name, address or pipeline. ``settings`` are pairs of cv2.CAP_PROP_* and value:
    OpenCV fails to open the source if it refuses one. ``hint`` is advice for the error.
    """

    def __init__(self, name: str, source: int | str, backend: int, settings: list[int], hint: str) -> None:
        self._name = name
        try:
            self._capture = cv2.VideoCapture(source, backend, settings)
        except cv2.error as error:
            raise CameraError(f"{name} cannot be opened ({error.err}): {hint}") from error
        if not self._capture.isOpened():
            self._capture.release()
            raise CameraError(f"{name} cannot be opened: {hint}")

    def request(self, name: int, value: float) -> None:
        """Request a value of a cv2.CAP_PROP_*; the driver may refuse it."""
        self._capture.set(name, value)

    def get(self, name: int) -> float:
        """Return a cv2.CAP_PROP_*; 0 if it is unknown."""
        return max(0.0, float(self._capture.get(name)))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return int(self.get(cv2.CAP_PROP_FRAME_WIDTH)), int(self.get(cv2.CAP_PROP_FRAME_HEIGHT))

    @property
    def fps(self) -> float | None:
        """Nominal frames per second; None if unknown or implausible."""
        fps = self.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps <= 1000 else None

    @property
    def is_motion_jpeg(self) -> bool:
        """Whether its frames are encoded as Motion JPEG."""
        return int(self.get(cv2.CAP_PROP_FOURCC)) == MJPG

    def read(self) -> NDArray[np.uint8] | None:
        """Return the next frame, RGB uint8 [height, width, 3]; None at the end."""
        try:
            ok, raw = self._capture.read()
        except cv2.error as error:
            raise CameraError(f"{self._name} cannot be read ({error.err})") from error
        if not ok or raw is None:
            return None
        if raw.dtype not in (np.uint8, np.uint16):
            raise CameraError(f"{self._name}: expected pixels of 8 or 16 bits, found {raw.dtype}")
        values: NDArray[np.integer[Any]] = np.asarray(raw)
        is_grey = values.ndim == 2 or values.shape[2] == 1
        return to_rgb(values, "GREY" if is_grey else "BGR", 8 * values.itemsize)

    def read_packet(self) -> NDArray[np.uint8] | None:
        """Return the next frame as it is encoded, uint8 [n]; requires :data:`PACKETS`."""
        ok, raw = self._capture.read()
        return np.asarray(raw, np.uint8).ravel() if ok and raw is not None else None

    def count_packets(self) -> int:
        """Return the number of remaining frames, decodable or not; requires :data:`PACKETS`."""
        n = 0
        while self._capture.grab():
            n += 1
        return n

    def close(self) -> None:
        """Release the capture."""
        self._capture.release()


class OpenCVSource:
    """Base of sources that read frames from a :class:`Capture`; a subclass adds ``open``.

    ``end_message`` is the error when no frame comes any more.
    """

    def __init__(self, end_message: str) -> None:
        self._end_message = end_message
        self._capture: Capture | None = None
        self._sequence = 0

    def newest(self, timeout: float) -> SourceFrame | None:  # noqa: ARG002 - OpenCV has its own timeout
        """See `kinet_trt.camera.FrameSource.newest`."""
        pixels = self._read(self._capture) if self._capture else None
        if pixels is None:
            raise CameraError(self._end_message)
        self._sequence += 1
        return SourceFrame(Frame(pixels, time=time.time()), self._sequence)

    def _read(self, capture: Capture) -> NDArray[np.uint8] | None:
        return capture.read()

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        if self._capture:
            self._capture.close()
            self._capture = None
