"""Folders of images, in the order of their names."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

from kinet_trt.camera.source import CameraError, NoFrameError, Properties, RecordingError, SourceFrame
from kinet_trt.core.errors import ImageError
from kinet_trt.io.images import SUFFIXES, read_image

IMAGES_PER_SECOND = 1.0


class FolderSource:
    """A folder of images, one per second, or each as soon as it is taken, in natural order: 2.png before 10.png.

    It reads PNG, JPEG, TIFF and BMP files; other files, hidden files and subfolders are ignored.
    """

    def __init__(self, folder: Path, *, every_frame: bool = False) -> None:
        self._folder, self._every_frame = folder, every_frame
        self._images: list[Path] = []
        self._sequence = 0
        self._started = 0.0

    def open(self) -> Properties:
        """See `kinet_trt.camera.FrameSource.open`. Lists the folder again and starts from its first image."""
        try:
            found = [p for p in self._folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        except OSError as error:
            raise CameraError(f"{self._folder}: cannot be read as a folder: {error.strerror}") from error
        self._images = sorted((p for p in found if p.is_file()), key=_natural)
        if not self._images:
            raise CameraError(f"{self._folder}: expected images ({', '.join(SUFFIXES)}), found none")
        self._sequence, self._started = 0, time.monotonic()
        width, height = self._first_size()
        fps = None if self._every_frame else IMAGES_PER_SECOND
        return Properties(
            self._folder.name, width, height, fps, mpp_is_per_frame=True, waits=self._every_frame, recorded=True
        )

    def _first_size(self) -> tuple[int, int]:
        for path in self._images:
            try:
                image = read_image(path)
            except ImageError as error:
                unread = f"{path.name}: {error}"
            else:
                return image.width, image.height
        raise RecordingError(f"{self._folder}: none of its {len(self._images)} images can be read; the last: {unread}")

    def newest(self, timeout: float) -> SourceFrame | None:
        """See `kinet_trt.camera.FrameSource.newest`.

        An unreadable image raises ImageError; the next call continues with the next image.
        """
        if self._sequence >= len(self._images):
            return None
        wait = self._started + self._sequence / IMAGES_PER_SECOND - time.monotonic()
        if not self._every_frame and wait > 0:
            time.sleep(min(wait, timeout))
            if wait > timeout:
                raise NoFrameError(f"{self._folder}: its next image is {wait:.1f} s away")
        self._sequence += 1
        image = read_image(self._images[self._sequence - 1])
        return SourceFrame(dataclasses.replace(image, time=time.time()), self._sequence)

    def close(self) -> None:
        """See `kinet_trt.camera.FrameSource.close`."""
        self._images = []


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key that compares digits as numbers."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), part) if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts if part]
