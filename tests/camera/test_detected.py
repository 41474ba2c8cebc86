"""Cameras that the operating system lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinet_trt.camera.detected import DetectedCamera, advice, list_cameras

MICROSCOPE, WEBCAM = DetectedCamera(0, "USB Microscope", readable=True), DetectedCamera(10, "HD Webcam", readable=True)


def test_linux_lists_cameras_without_opening_them(tmp_path: Path):
    listed, devices = tmp_path / "class" / "video4linux", tmp_path / "dev"
    devices.mkdir()
    for number, name, index in ((10, "HD Webcam", 0), (0, "USB Microscope", 0), (1, "USB Microscope", 1)):
        place = listed / f"video{number}"
        place.mkdir(parents=True)
        (place / "name").write_text(f"{name}\n")
        (place / "index").write_text(f"{index}\n")
        (devices / f"video{number}").touch()
    (listed / "v4l-subdev0").mkdir()
    assert list_cameras(listed, devices) == [MICROSCOPE, WEBCAM]
    (devices / "video10").unlink()
    assert list_cameras(listed, devices) == [MICROSCOPE, DetectedCamera(10, "HD Webcam", readable=False)]


def test_empty_list_and_missing_list_differ(tmp_path: Path):
    assert list_cameras(tmp_path / "video4linux") == []
    assert list_cameras(tmp_path / "missing" / "video4linux") is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "no camera was found on this computer: is it plugged in and switched on?"),
        ([WEBCAM], "cameras found: 10 (HD Webcam). Start with kinet-trt live 10"),
        ([MICROSCOPE], "USB Microscope is there: is another program using it?"),
        (
            [MICROSCOPE, WEBCAM],
            "USB Microscope is there: is another program using it?; other cameras: 10 (HD Webcam) (start with "
            "kinet-trt live 10)",
        ),
        (
            [DetectedCamera(0, "USB Microscope", readable=False)],
            "USB Microscope is there, but you may not open it: join the group 'video' and log in again",
        ),
        (None, "is it plugged in, is another program using it, may you read it? Try other numbers: 0, 1, 2"),
    ],
)
def test_advice_names_the_detected_cameras(found, words):
    assert advice(0, found) == words
