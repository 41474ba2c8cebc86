"""Reading with cv2.VideoCapture: what devices, streams, files and pipelines share."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.camera.pixels import to_rgb
from kinet_trt.camera.source import CameraError

OPEN_TIMEOUT, READ_TIMEOUT = 10.0, 5.0
"""s after which a stream that does not open, or gives nothing, is given up."""


class Reader:
    """An open cv2.VideoCapture.

    Parameters
    ----------
    what
        What it is called in messages.
    source
        Device number, file name, address or pipeline.
    backend
        One of cv2.CAP_*.
    settings
        Pairs of cv2.CAP_PROP_* and value, set as it is opened; one that is refused keeps it from being opened.
    hint
        What to do when it cannot be opened.

    Raises
    ------
    CameraError
        If it cannot be opened.
    """

    def __init__(self, what: str, source: int | str, backend: int, settings: list[int], hint: str) -> None:
        self._what = what
        try:
            self._capture = cv2.VideoCapture(source, backend, settings)
        except cv2.error as error:
            raise CameraError(f"{what} cannot be opened ({error.err}): {hint}") from error
        if not self._capture.isOpened():
            self._capture.release()
            raise CameraError(f"{what} cannot be opened: {hint}")

    def ask(self, name: int, value: float) -> None:
        """Ask for a cv2.CAP_PROP_*; what the driver refuses stays as it was."""
        self._capture.set(name, value)

    def get(self, name: int) -> float:
        """Return a cv2.CAP_PROP_*, 0 where it is not known."""
        return max(0.0, float(self._capture.get(name)))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return int(self.get(cv2.CAP_PROP_FRAME_WIDTH)), int(self.get(cv2.CAP_PROP_FRAME_HEIGHT))

    @property
    def fps(self) -> float | None:
        """Frames a second as the source states them; None when it states none that a camera could have."""
        fps = self.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps <= 1000 else None

    def read(self) -> NDArray[np.uint8] | None:
        """Return the next frame as RGB uint8 [height, width, 3]; None when there is none any more."""
        try:
            there, raw = self._capture.read()
        except cv2.error as error:
            raise CameraError(f"{self._what} cannot be read ({error.err})") from error
        if not there or raw is None:
            return None
        if raw.dtype not in (np.uint8, np.uint16):
            raise CameraError(f"{self._what}: expected pixels of 8 or 16 bits, found {raw.dtype}")
        values: NDArray[np.integer[Any]] = np.asarray(raw)
        grey = values.ndim == 2 or values.shape[2] == 1
        return to_rgb(values, "GREY" if grey else "BGR", 8 * values.itemsize)

    def read_packet(self) -> NDArray[np.uint8] | None:
        """Return the next frame as it travelled, uint8 [n], of a reader opened with CAP_PROP_FORMAT = -1."""
        there, raw = self._capture.read()
        return np.asarray(raw, np.uint8).ravel() if there and raw is not None else None

    def count_packets(self) -> int:
        """Return how many frames there still are, decodable or not, of a reader opened with CAP_PROP_FORMAT = -1."""
        n = 0
        while self._capture.grab():
            n += 1
        return n

    def close(self) -> None:
        """Release it."""
        self._capture.release()
