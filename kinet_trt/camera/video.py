"""A video file: at its own pace, like a camera, or every frame as fast as it is taken."""

from __future__ import annotations

import time
from pathlib import Path

import cv2

from kinet_trt.camera import CameraError, NoFrameError, Properties, Shot
from kinet_trt.camera._opencv import Reader
from kinet_trt.frame import Frame


class VideoSource:
    """A video file that OpenCV's FFmpeg reads.

    Parameters
    ----------
    path
        The file.
    every_frame
        Every frame waits to be taken; else frames come at the file's pace, and one that comes too late is left out.
    """

    def __init__(self, path: Path, *, every_frame: bool = False) -> None:
        self._path, self._every_frame = path, every_frame
        self._reader: Reader | None = None
        self._sequence = 0
        self._started = 0.0
        self._fps = 25.0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`. The file starts again from its first frame."""
        if not self._path.is_file():
            raise CameraError(f"{self._path}: expected a video file, found none: check the name")
        # The absolute path: FFmpeg takes "a:b.avi" for an address.
        place = str(self._path.absolute())
        self._reader = Reader(str(self._path), place, cv2.CAP_FFMPEG, [], "expected a video (AVI, MP4, MKV, MOV)")
        self._fps = self._reader.fps or 25.0
        self._sequence, self._started = 0, time.monotonic()
        return Properties(self._path.name, *self._reader.size, fps=self._fps, waits=self._every_frame)

    def newest(self, timeout: float) -> Shot | None:
        """See `kinet_trt.camera.FrameSource.newest`."""
        if self._reader is None:
            raise CameraError(f"{self._path}: not open")
        if self._every_frame:
            return self._next()
        wait = self._started + self._sequence / self._fps - time.monotonic()
        if wait > timeout:
            time.sleep(timeout)
            raise NoFrameError(f"{self._path}: its next frame is {wait:.1f} s away")
        if wait > 0:
            time.sleep(wait)
        due = int((time.monotonic() - self._started) * self._fps) + 1
        shot = self._next()
        while shot is not None and shot.sequence < due:
            later = self._next()
            if later is None:
                return shot  # the last frame of all is shown, however late
            shot = later
        return shot

    def _next(self) -> Shot | None:
        assert self._reader is not None
        pixels = self._reader.read()
        if pixels is None:
            return None
        self._sequence += 1
        return Shot(Frame(pixels, time=time.time()), self._sequence)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        if self._reader:
            self._reader.close()
            self._reader = None
