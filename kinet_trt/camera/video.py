"""Video files, played at their frame rate or read frame by frame."""

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

_MAX_FAILED_READS = 1000
"""Consecutive failed reads after which a file without a stated number of frames has ended."""
_EXACT_CONTAINERS = (b"AVI ", b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""Bytes 4 to 8, or 8 to 12, of containers that list their frames; others, such as Matroska, estimate the number."""
_MIN_READ_SHARE = 0.9
"""Share of an estimated number of frames below which the file ended early."""
_PROBE_TIMEOUT = 60.0  # s
_PROBE = """
import cv2, sys
video = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
for _ in range(int(sys.argv[2])):
    video.read()
"""
_CONVERSION_ERRORS = (b"Cannot convert", b"Slice parameters", b"image pointers", b"not supported as input")
"""Messages of libswscale about frames whose pixels it cannot convert."""

Item = NDArray[np.uint8] | ImageError | None
"""A frame, RGB uint8 [height, width, 3]; its decoding error; or None if it repeats the previous one."""


class VideoSource:
    """A video file, read by OpenCV's FFmpeg: every frame, or at its frame rate, skipping late frames.

    A frame that cannot be decoded raises ImageError; the next call returns the next frame. A file without any decodable
    frame, or with fewer frames than it states, raises RecordingError.
    """

    def __init__(self, path: Path, *, every_frame: bool = False) -> None:
        self._path, self._every_frame = path, every_frame
        self._capture: Capture | None = None
        self._items: Iterator[Item] = iter(())
        self._sequence = self._decoded_count = 0
        self._started = 0.0
        self._fps = 25.0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`. Restarts the file."""
        if not self._path.is_file():
            raise CameraError(f"{self._path}: expected a video file, found none. Check the name")
        capture = self._connect([])
        size, self._fps = capture.size, capture.fps or 25.0
        self._items = self._decoded(capture)
        if capture.is_motion_jpeg and self._packets_are_frames(size):
            # OpenCV does not report which JPEG frames are damaged.
            capture.close()
            capture = self._connect(PACKETS)
            self._items = _jpegs(capture)
        self._capture = capture
        self._sequence, self._decoded_count, self._started = 0, 0, time.monotonic()
        return Properties(self._path.name, *size, fps=self._fps, waits=self._every_frame, recorded=True)

    def _connect(self, settings: list[int]) -> Capture:
        # An absolute path, because FFmpeg takes "a:b.avi" for a URL.
        path = str(self._path.absolute())
        return Capture(str(self._path), path, cv2.CAP_FFMPEG, settings, "expected a video (AVI, MP4, MKV, MOV)")

    def _packets_are_frames(self, size: tuple[int, int]) -> bool:
        """Return whether a packet contains a frame of this size; a packet of interlaced video contains half of one."""
        capture = self._connect(PACKETS)
        try:
            for n in range(10):
                packet = capture.read_packet()
                if packet is None:
                    return n > 0  # all packets are damaged, which OpenCV would not report
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
            raise CameraError(f"{self._path} is not open")
        if self._every_frame:
            return self._next()
        wait = self._started + self._sequence / self._fps - time.monotonic()
        if wait > timeout:
            time.sleep(timeout)
            raise NoFrameError(f"{self._path}: the next frame is due in {wait:.1f} s")
        if wait > 0:
            time.sleep(wait)
        due = int((time.monotonic() - self._started) * self._fps) + 1
        frame = self._next()
        while frame is not None and frame.sequence < due:
            newer = self._next()
            if newer is None:
                return frame  # the last frame is never skipped
            frame = newer
        return frame

    def _next(self) -> SourceFrame | None:
        for item in self._items:
            self._sequence += 1
            if isinstance(item, ImageError):
                raise item
            if item is not None:
                self._decoded_count += 1
                return SourceFrame(Frame(item, time=time.time()), self._sequence)
        self._check_end()
        return None

    def _decoded(self, capture: Capture) -> Iterator[Item]:
        """Yield the frames that OpenCV decodes. The file has ended when all further reads fail."""
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        # Held back until the next frame is read: an equal one may mean a failed conversion.
        pending: NDArray[np.uint8] | None = None
        failed, read, checked = 0, 0, False
        while failed < (max(1, stated - read) if stated else _MAX_FAILED_READS):
            pixels = capture.read()
            if pixels is None:
                failed += 1
                continue
            if not checked and pending is not None and _are_equal(pending, pixels):
                self._check_conversion(read + failed + 1)
                checked = True
            if pending is not None:
                yield pending
            for _ in range(failed):
                yield ImageError("the frame cannot be decoded")
            pending, read, failed = pixels, read + failed + 1, 0
        if pending is None:
            return
        if read == 1:
            self._check_conversion(read)
        yield pending
        if stated > read:
            # The remaining packets are damaged frames; _check_end reports missing packets.
            packets = self._connect(PACKETS)
            packet_count = packets.count_packets()
            packets.close()
            for _ in range(min(packet_count, stated) - read):
                yield ImageError("the frame cannot be decoded")

    def _check_conversion(self, frames: int) -> None:
        """Raise if OpenCV cannot convert the pixels of one of the first frames, as in interlaced video.

        OpenCV then returns the previous frame or uninitialised memory without an error. FFmpeg prints a message, which
        only the output of a subprocess shows.
        """
        if not sys.executable:
            return
        quiet = {**os.environ, "OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "16"}
        command = [sys.executable, "-c", _PROBE, str(self._path.absolute()), str(frames)]
        try:
            probe = subprocess.run(  # noqa: S603 - runs this Python; the path is an argument, not code
                command,
                env=quiet,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_PROBE_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return
        if any(message in probe.stdout for message in _CONVERSION_ERRORS):
            if b"interlaced" in probe.stdout:
                reason, option = "interlaced video cannot be read", "-vf yadif"
            else:
                reason, option = "the pixel format is not supported", "-pix_fmt yuv420p"
            raise RecordingError(f"{self._path}: {reason}. Convert it: ffmpeg -i INPUT {option} -crf 12 OUTPUT.mp4")

    def _check_end(self) -> None:
        """Raise if the file has no frame, or fewer than it states."""
        assert self._capture is not None
        if not self._decoded_count:
            raise RecordingError(f"{self._path}: no frame could be read. Copy the file again")
        stated = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        with self._path.open("rb") as file:
            head = file.read(12)
        is_exact = head[4:8] in _EXACT_CONTAINERS or head[8:12] in _EXACT_CONTAINERS
        if self._sequence < (stated if is_exact else round(_MIN_READ_SHARE * stated)):
            raise RecordingError(f"{self._path} ended early: {self._sequence} of {stated} frames. Copy the file again")

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
    while failed < (max(1, stated - read) if stated else _MAX_FAILED_READS):
        packet = capture.read_packet()
        if packet is None:
            failed += 1
            continue
        for _ in range(failed):
            yield ImageError("the frame cannot be read")
        read, failed = read + failed + 1, 0
        if not packet.size:  # an empty packet repeats the previous frame
            yield None
            continue
        try:
            yield motion_jpeg.decode(packet)
        except ImageError as error:
            yield error


def _are_equal(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    # A few rows first: nearly all frames differ.
    return np.array_equal(first[::64], second[::64]) and np.array_equal(first, second)
