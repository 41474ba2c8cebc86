"""Cameras of the operating system: requested settings, and the message without a camera."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from camera_films import number_of, numbered, open_files

import kinet_trt.camera.device as room
from kinet_trt.camera import open_source
from kinet_trt.camera.device import DeviceSource
from kinet_trt.camera.opencv import Capture
from kinet_trt.camera.source import CameraError


def test_missing_camera_is_one_message() -> None:
    before = open_files()
    for text in ("97", "/dev/video97", "device:97,size=1280x960,fps=30,fourcc=MJPG"):
        source = open_source(text)
        with pytest.raises(CameraError, match=r"camera 97 cannot be opened: (no camera was found|cameras found)"):
            source.open()
        source.close()
        with pytest.raises(CameraError, match="gives no more frames"):
            source.newest(0.1)
    assert open_files() == before


def test_device_returns_frames_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video takes the place of a camera behind the same cv2.VideoCapture."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
    for n in range(4):
        writer.write(numbered(n))
    writer.release()
    asked = []

    class OnFilm(Capture):
        def __init__(self, what: str, source: int | str, backend: int, settings: list[int], hint: str) -> None:
            asked.append(source)
            super().__init__(what, str(path), cv2.CAP_FFMPEG, settings, hint)

        def request(self, name: int, value: float) -> None:
            asked.append((name, value))
            super().request(name, value)  # refused, as by a driver that cannot

    monkeypatch.setattr(room, "Capture", OnFilm)
    source = DeviceSource.parse("2,size=1920x1080,fps=30,fourcc=MJPG")
    properties = source.open()
    assert (properties.name, properties.width, properties.height, properties.fps) == ("camera 2", 160, 120, 25.0)
    shots = [source.newest(1.0) for _ in range(4)]
    assert [number_of(shot.frame.pixels) for shot in shots] == [0, 1, 2, 3]
    assert [shot.sequence for shot in shots] == [1, 2, 3, 4]
    with pytest.raises(CameraError, match="camera 2 gives no more frames: is it still plugged in"):
        source.newest(1.0)
    source.close()
    assert asked == [
        2,
        (cv2.CAP_PROP_FOURCC, int.from_bytes(b"MJPG", "little")),  # before the size: it decides which sizes there are
        (cv2.CAP_PROP_FRAME_WIDTH, 1920),
        (cv2.CAP_PROP_FRAME_HEIGHT, 1080),
        (cv2.CAP_PROP_FPS, 30.0),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]
