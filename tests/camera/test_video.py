"""Video files, written by OpenCV and read back."""

from __future__ import annotations

import re
import time
from pathlib import Path

import cv2
import pytest
from camera_films import number_of, numbered, open_files

from kinet_trt.camera import open_source
from kinet_trt.camera.grabber import FrameGrabber
from kinet_trt.camera.source import CameraError, NoFrameError, RecordingError
from kinet_trt.camera.video import VideoSource
from kinet_trt.core.errors import ImageError


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a video of 40 numbered frames, 50 per second."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (160, 120))
    assert writer.isOpened()
    for n in range(40):
        writer.write(numbered(n))
    writer.release()
    return path


def test_every_frame_comes_once_and_in_order(film: Path) -> None:
    source = open_source(str(film), every_frame=True)
    properties = source.open()
    assert (properties.width, properties.height, properties.fps, properties.waits) == (160, 120, 50.0, True)
    shots = []
    while shot := source.newest(1.0):
        shots.append(shot)
    assert source.newest(1.0) is None
    source.close()
    assert [number_of(shot.frame.pixels) for shot in shots] == list(range(40))
    assert [shot.sequence for shot in shots] == list(range(1, 41))
    assert shots[0].frame.mpp is None
    assert abs((shots[0].frame.time or 0) - time.time()) < 60


def test_late_frames_are_skipped_at_the_files_pace(film: Path) -> None:
    source = VideoSource(film)
    source.open()
    start = time.monotonic()
    numbers = []
    while shot := source.newest(1.0):
        numbers.append(shot.sequence)
        assert number_of(shot.frame.pixels) == shot.sequence - 1
        time.sleep(0.09)  # a reader that takes more than four frames' time
    assert time.monotonic() - start > 0.6
    assert numbers[-1] == 40
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 15
    source.close()


def test_open_restarts_the_file(film: Path) -> None:
    source = VideoSource(film, every_frame=True)
    before = open_files()
    for _ in range(5):
        source.open()
        shot = source.newest(1.0)
        assert shot is not None
        assert number_of(shot.frame.pixels) == 0
        source.close()
        source.close()
    assert open_files() == before


def test_slow_video_does_not_end_early(tmp_path: Path) -> None:
    path = tmp_path / "slow.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 1, (160, 120))
    for n in range(2):
        writer.write(numbered(n))
    writer.release()
    source = VideoSource(path)
    source.open()
    assert source.newest(1.0) is not None
    with pytest.raises(NoFrameError, match="the next frame is due in"):
        source.newest(0.05)
    source.close()


def test_no_frame_is_dropped_with_every_frame(film: Path) -> None:
    numbers = []
    with FrameGrabber(open_source(str(film), every_frame=True), mpp=0.25) as camera:
        while shot := camera.take(10.0):
            numbers.append(number_of(shot.frame.pixels))
            assert shot.frame.mpp == 0.25
        assert camera.state.phase == "ended"
        assert (camera.state.dropped, camera.state.missed, camera.state.frames) == (0, 0, 40)
    assert numbers == list(range(40))


def test_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"none\.avi: expected a video file, found none"):
        VideoSource(tmp_path / "none.avi").open()
    (tmp_path / "text.avi").write_text("no film")
    with pytest.raises(CameraError, match=r"text\.avi cannot be opened: expected a video"):
        VideoSource(tmp_path / "text.avi").open()


def read_all(path: Path) -> tuple[list[int], int]:
    """Read a whole video; return the numbers of its frames, and the number of damaged ones."""
    source, numbers, damaged = VideoSource(path, every_frame=True), [], 0
    source.open()
    try:
        while True:
            try:
                shot = source.newest(1.0)
            except ImageError:
                damaged += 1
                continue
            if shot is None:
                return numbers, damaged
            numbers.append(number_of(shot.frame.pixels))
            assert shot.sequence == len(numbers) + damaged
    finally:
        source.close()


def made(path: Path, codec: str, frames: int = 8) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (160, 120))
    assert writer.isOpened()
    for n in range(frames):
        writer.write(numbered(n))
    writer.release()
    return path


def jpegs(data: bytes) -> list[int]:
    """Return the offsets of the JPEG frames of a Motion JPEG file."""
    return [found.start() for found in re.finditer(rb"\xff\xd8\xff", data)]


def test_damaged_jpeg_frames_are_skipped_and_the_rest_is_read(film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    begins = jpegs(data)
    data[begins[4] : begins[4] + 600] = bytes(600)  # no JPEG any more
    middle = (begins[9] + begins[10]) // 2
    data[middle : middle + 200] = bytes(200)  # its end marker stays
    data[begins[39] : begins[39] + 100] = bytes(100)
    (tmp_path / "damaged.avi").write_bytes(data)
    assert read_all(tmp_path / "damaged.avi") == ([n for n in range(40) if n not in (4, 9, 39)], 3)


def test_damaged_frames_of_other_codecs_are_skipped(tmp_path: Path) -> None:
    path = made(tmp_path / "film.avi", "FFV1")
    data = bytearray(path.read_bytes())
    chunks = [found.start() for found in re.finditer(rb"00dc", data[: data.find(b"idx1")])][-8:]
    for k in (3, 4):
        data[chunks[k] + 8 : chunks[k] + 40] = bytes(32)
    path.write_bytes(data)
    numbers, damaged = read_all(path)
    assert set(numbers) >= {0, 1, 2, 5, 6, 7}
    assert len(numbers) + damaged == 8


@pytest.mark.parametrize("name", ["cut.avi", "cut.mkv"])
def test_truncated_video_is_an_error(film: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    whole = film if name.endswith("avi") else made(tmp_path / "whole.mkv", "FFV1", 40)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(RecordingError, match=r"cut\.... ended early: \d+ of 40 frames\. Copy the file again") as raised:
        read_all(path)
    assert 5 < int(str(raised.value).split("early: ")[1].split()[0]) < 35


def test_video_without_a_whole_frame_is_an_error(film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    for begin in jpegs(data):
        data[begin : begin + 50] = bytes(50)
    (tmp_path / "none.avi").write_bytes(data)
    with pytest.raises(RecordingError, match=r"none\.avi: no frame could be read\. Copy the file again"):
        read_all(tmp_path / "none.avi")


def test_video_of_damaged_frames_only_is_an_error(tmp_path: Path) -> None:
    path = made(tmp_path / "short.avi", "MJPG", 3)
    data = bytearray(path.read_bytes())
    begins = jpegs(data)
    for begin, end in zip(begins, [*begins[1:], len(data)], strict=True):
        middle = (begin + end) // 2
        data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=r"short\.avi: no frame could be read\. Copy the file again"):
        read_all(path)


def test_interlaced_video_is_an_error(tmp_path: Path) -> None:
    path = made(tmp_path / "film.avi", "mpg2")
    assert read_all(path) == (list(range(8)), 0)
    data = bytearray(path.read_bytes())
    for header in re.finditer(rb"\x00\x00\x01\xb5([\x10-\x1f]|[\x80-\x8f])", bytes(data)):
        if data[header.start() + 4] < 0x20:
            data[header.start() + 5] &= ~0x08  # progressive_sequence
        else:
            data[header.start() + 8] &= ~0x80  # progressive_frame
    path.write_bytes(data)
    try:
        found: object = read_all(path)
    except RecordingError as error:
        found = "interlaced video cannot be read. Convert it: ffmpeg -i INPUT -vf yadif" in str(error)
    # An OpenCV that converts it gives the same frames.
    assert found in (True, (list(range(8)), 0))


def test_video_of_identical_frames_is_read(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "still.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 25, (160, 120))
    for _ in range(4):
        writer.write(numbered(7))
    writer.release()
    assert read_all(tmp_path / "still.avi") == ([7] * 4, 0)


def test_damaged_video_is_read_once(film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    begins = jpegs(data)
    for begin in begins[5:25]:
        data[begin : begin + 50] = bytes(50)
    (tmp_path / "damaged.avi").write_bytes(data[: begins[30]])
    with FrameGrabber(VideoSource(tmp_path / "damaged.avi", every_frame=True)) as camera:
        numbers = []
        while shot := camera.take(10.0):
            numbers.append(number_of(shot.frame.pixels))
        state = camera.state
    assert numbers == [*range(5), *range(25, 30)]
    assert (state.phase, state.bad) == ("ended", 20)
    assert "damaged.avi ended early: 30 of 40 frames" in state.sentence()
    assert "20 damaged frames were skipped (a JPEG frame of" in state.sentence()
