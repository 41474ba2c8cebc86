"""A video file: at its own pace, like a camera, or every frame as fast as it is taken."""

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
from kinet_trt.camera._opencv import Reader
from kinet_trt.camera.source import CameraError, NoFrameError, Properties, RecordingError, SourceFrame
from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import Frame

_MJPG = cv2.VideoWriter.fourcc(*"MJPG")
_FAILURES = 1000
"""Failed reads in a row after which a file is over, where it does not state how many frames it has."""
_EXACT = (b"AVI ", b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""Bytes 4 to 8, or 8 to 12, of files that list their frames; of others, such as Matroska, the number is an estimate."""
_ESTIMATE = 0.9
_PROBE_TIMEOUT = 60.0  # s
_PROBE = """
import cv2, sys
film = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
for _ in range(int(sys.argv[2])):
    film.read()
"""
_NOT_CONVERTED = (b"Cannot convert", b"Slice parameters", b"image pointers", b"not supported as input")
"""What libswscale says when it cannot convert the pixels of a frame."""

Item = NDArray[np.uint8] | ImageError | None
"""A frame, RGB uint8 [height, width, 3]; why it cannot be decoded; or None for a frame that is empty on purpose."""


class VideoSource:
    """A video file that OpenCV's FFmpeg reads.

    A frame that cannot be decoded is an ImageError, and the next call returns the one after it. A file without a whole
    frame, and one that ends before the number of frames that it states, is a RecordingError.

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
        self._items: Iterator[Item] = iter(())
        self._sequence = self._whole = 0
        self._started = 0.0
        self._fps = 25.0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`. The file starts again from its first frame."""
        if not self._path.is_file():
            raise CameraError(f"{self._path}: expected a video file, found none: check the name")
        reader = self._connect([])
        size, self._fps = reader.size, reader.fps or 25.0
        self._items = self._decoded(reader)
        if int(reader.get(cv2.CAP_PROP_FOURCC)) == _MJPG and self._holds_jpegs(size):
            # OpenCV does not say which of its JPEG frames are damaged.
            reader.close()
            reader = self._connect([cv2.CAP_PROP_FORMAT, -1])
            self._items = _jpegs(reader)
        self._reader = reader
        self._sequence, self._whole, self._started = 0, 0, time.monotonic()
        return Properties(self._path.name, *size, fps=self._fps, waits=self._every_frame, recorded=True)

    def _connect(self, settings: list[int]) -> Reader:
        # The absolute path: FFmpeg takes "a:b.avi" for an address.
        place = str(self._path.absolute())
        return Reader(str(self._path), place, cv2.CAP_FFMPEG, settings, "expected a video (AVI, MP4, MKV, MOV)")

    def _holds_jpegs(self, size: tuple[int, int]) -> bool:
        """Say whether one of the first packets is a whole frame; of interlaced video it is half of one."""
        reader = self._connect([cv2.CAP_PROP_FORMAT, -1])
        try:
            for n in range(10):
                packet = reader.read_packet()
                if packet is None:
                    return n > 0  # all are damaged: OpenCV would decode them to something
                try:
                    height, width = motion_jpeg.decode(packet).shape[:2]
                except ImageError:
                    continue
                return (width, height) == size
        finally:
            reader.close()
        return True

    def newest(self, timeout: float) -> SourceFrame | None:
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

    def _decoded(self, reader: Reader) -> Iterator[Item]:
        """Give what OpenCV decodes. A read that fails is the end only if all those after it fail too."""
        stated = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        held: NDArray[np.uint8] | None = None  # each frame waits until the next one shows that it is real
        failed, read, checked = 0, 0, False
        while failed < (max(1, stated - read) if stated else _FAILURES):
            pixels = reader.read()
            if pixels is None:
                failed += 1
                continue
            if not checked and held is not None and _same(held, pixels):
                self._check_conversion(read + failed + 1)
                checked = True
            if held is not None:
                yield held
            for _ in range(failed):
                yield ImageError("it cannot be decoded")
            held, read, failed = pixels, read + failed + 1, 0
        if held is None:
            return
        if read == 1:
            self._check_conversion(read)
        yield held
        if stated > read:
            # What is in the file and was not decoded is damaged; what is not in it is for _check_end to report.
            packets = self._connect([cv2.CAP_PROP_FORMAT, -1])
            there = packets.count_packets()
            packets.close()
            for _ in range(min(there, stated) - read):
                yield ImageError("it cannot be decoded")

    def _check_conversion(self, frames: int) -> None:
        """Raise if OpenCV cannot convert the pixels of one of the first frames, as of interlaced video.

        It then returns the frame before it once more, or memory that it never wrote to, and only FFmpeg's message says
        so: another process lets us read that.
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
        """Raise if the file holds no frame, or less than it states."""
        assert self._reader is not None
        if not self._whole:
            raise RecordingError(f"{self._path}: not one frame could be read: copy it again")
        stated = int(self._reader.get(cv2.CAP_PROP_FRAME_COUNT))
        with self._path.open("rb") as file:
            head = file.read(12)
        least = stated if head[4:8] in _EXACT or head[8:12] in _EXACT else round(_ESTIMATE * stated)
        if self._sequence < least:
            raise RecordingError(f"{self._path} ended early: {self._sequence} of {stated} frames: copy it again")

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        self._items = iter(())
        if self._reader:
            self._reader.close()
            self._reader = None


def _jpegs(reader: Reader) -> Iterator[Item]:
    """Give the frames of Motion JPEG."""
    stated = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    read = failed = 0
    while failed < (max(1, stated - read) if stated else _FAILURES):
        packet = reader.read_packet()
        if packet is None:
            failed += 1
            continue
        for _ in range(failed):
            yield ImageError("it cannot be read")
        read, failed = read + failed + 1, 0
        if not packet.size:  # it stands for the frame before it
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
