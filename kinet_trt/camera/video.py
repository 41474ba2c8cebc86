"""Video files, read at their own pace or frame by frame."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kinet_trt.camera import motion_jpeg
from kinet_trt.camera.opencv import PACKETS, Capture
from kinet_trt.camera.source import CameraError, NoFrameError, Properties, RecordingError, SourceFrame
from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import Frame

_FAILURES = 1000
"""Consecutive failed reads that end a file without a stated number of frames."""
_EXACT = (b"AVI ", b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""Bytes 4 to 8, or 8 to 12, of files that list their frames; others, such as Matroska, state an estimate."""
_ESTIMATE = 0.9
_PROBE_TIMEOUT = 60.0  # s
_PROBE = """
import cv2, sys
film = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
for _ in range(int(sys.argv[2])):
    film.read()
"""
_NOT_CONVERTED = (b"Cannot convert", b"Slice parameters", b"image pointers", b"not supported as input")
"""Messages of libswscale when it cannot convert the pixels of a frame."""

Item = NDArray[np.uint8] | ImageError | None
"""A frame, RGB uint8 [height, width, 3]; its decoding error; or None for a frame that is empty on purpose."""


class VideoSource:
    """A video file that OpenCV's FFmpeg reads.

    A frame that cannot be decoded raises ImageError; the next call returns the next frame. A file without a whole
    frame, or with fewer frames than it states, raises RecordingError.

    Parameters
    ----------
    path
        The file.
    every_frame
        Whether every frame waits until it is taken; otherwise frames come at the file's pace, and late ones are
        skipped.
    """

    def __init__(self, path: Path, *, every_frame: bool = False) -> None:
        self._path, self._every_frame = path, every_frame
        self._capture: Capture | None = None
        self._items: Iterator[Item] = iter(())
        self._sequence = self._whole = 0
        self._started = 0.0
        self._fps = 25.0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`. Restarts the file."""
        if not self._path.is_file():
            raise CameraError(f"{self._path}: expected a video file, found none: check the name")
        capture = self._connect([])
        size, self._fps = capture.size, capture.fps or 25.0
        self._items = self._decoded(capture)
        if capture.is_motion_jpeg and self._has_whole_frames(size):
            # OpenCV does not report which JPEG frames are damaged.
            capture.close()
            capture = self._connect(PACKETS)
            self._items = _jpegs(capture)
        self._capture = capture
        self._sequence, self._whole, self._started = 0, 0, time.monotonic()
        return Properties(self._path.name, *size, fps=self._fps, waits=self._every_frame, recorded=True)

    def _connect(self, settings: list[int]) -> Capture:
        # The absolute path: FFmpeg takes "a:b.avi" for a URL.
        place = str(self._path.absolute())
        return Capture(str(self._path), place, cv2.CAP_FFMPEG, settings, "expected a video (AVI, MP4, MKV, MOV)")

    def _has_whole_frames(self, size: tuple[int, int]) -> bool:
        """Return whether one of the first packets is a whole frame; in interlaced video it is half of one."""
        capture = self._connect(PACKETS)
        try:
            for n in range(10):
                packet = capture.read_packet()
                if packet is None:
                    return n > 0  # all are damaged; OpenCV would return some pixels
                try:
                    height, width = motion_jpeg.decode(packet).shape[:2]
                except ImageError:
                    continue
                return (width, height) == size
        finally:
            capture.close()
        return True

    def newest(self, timeout: float) -> SourceFrame | None:
        """See `kinet_trt.camera.FrameSource.newest`."""
        if self._capture is None:
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
                return shot  # the last frame is shown, however late
            shot = later
        return shot

    def _next(self) -> SourceFrame | None:
        for item in self._items:
            self._sequence += 1
            if isinstance(item, ImageError):
                raise item
            if item is not None:
                self._whole += 1
                return SourceFrame(Frame(item, time=time.time()), self._sequence)
        self._check_end()
        return None

    def _decoded(self, capture: Capture) -> Iterator[Item]:
        """Yield the frames that OpenCV decodes. A failed read is the end only if all later reads fail too."""
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        pending: NDArray[np.uint8] | None = None  # yielded once the next frame shows that it is real
        failed, read, checked = 0, 0, False
        while failed < (max(1, stated - read) if stated else _FAILURES):
            pixels = capture.read()
            if pixels is None:
                failed += 1
                continue
            if not checked and pending is not None and _same(pending, pixels):
                self._check_conversion(read + failed + 1)
                checked = True
            if pending is not None:
                yield pending
            for _ in range(failed):
                yield ImageError("it cannot be decoded")
            pending, read, failed = pixels, read + failed + 1, 0
        if pending is None:
            return
        if read == 1:
            self._check_conversion(read)
        yield pending
        if stated > read:
            # Packets that were not decoded are damaged; missing packets are reported by _check_end.
            packets = self._connect(PACKETS)
            there = packets.count_packets()
            packets.close()
            for _ in range(min(there, stated) - read):
                yield ImageError("it cannot be decoded")

    def _check_conversion(self, frames: int) -> None:
        """Raise if OpenCV cannot convert the pixels of one of the first frames, as in interlaced video.

        It then returns the previous frame or uninitialised memory. Only FFmpeg's messages reveal it, which can be read
        from a subprocess.
        """
        if not sys.executable:
            return
        quiet = {**os.environ, "OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "16"}
        command = [sys.executable, "-c", _PROBE, str(self._path.absolute()), str(frames)]
        try:
            probe = subprocess.run(  # noqa: S603 - this Python, with a file name as its only argument
                command,
                env=quiet,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_PROBE_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return
        if any(words in probe.stdout for words in _NOT_CONVERTED):
            kind = "its video is interlaced" if b"interlaced" in probe.stdout else "its pixel format is not supported"
            raise RecordingError(
                f"{self._path}: its frames cannot be read: {kind}. Convert it first: ffmpeg -i INPUT -vf yadif -crf 12 "
                "OUTPUT.mp4"
            )

    def _check_end(self) -> None:
        """Raise if the file has no frame, or fewer than it states."""
        assert self._capture is not None
        if not self._whole:
            raise RecordingError(f"{self._path}: not one frame could be read: copy it again")
        stated = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        with self._path.open("rb") as file:
            head = file.read(12)
        least = stated if head[4:8] in _EXACT or head[8:12] in _EXACT else round(_ESTIMATE * stated)
        if self._sequence < least:
            raise RecordingError(f"{self._path} ended early: {self._sequence} of {stated} frames: copy it again")

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        self._items = iter(())
        if self._capture:
            self._capture.close()
            self._capture = None


def _jpegs(capture: Capture) -> Iterator[Item]:
    """Yield the frames of Motion JPEG."""
    stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    read = failed = 0
    while failed < (max(1, stated - read) if stated else _FAILURES):
        packet = capture.read_packet()
        if packet is None:
            failed += 1
            continue
        for _ in range(failed):
            yield ImageError("it cannot be read")
        read, failed = read + failed + 1, 0
        if not packet.size:  # it repeats the previous frame
            yield None
            continue
        try:
            yield motion_jpeg.decode(packet)
        except ImageError as error:
            yield error


def _same(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    if first.shape != second.shape:
        return False
    return np.array_equal(first[::64], second[::64]) and np.array_equal(first, second)
