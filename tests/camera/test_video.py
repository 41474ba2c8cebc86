"""Video files, written by OpenCV and read back."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import pytest
from camera_films import number_of, numbered, open_files

from kinet_trt.camera import CameraError, NoFrameError, open_source
from kinet_trt.camera.newest import Newest
from kinet_trt.camera.video import VideoSource


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a film of 40 numbered frames, 50 a second."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (160, 120))
    assert writer.isOpened()
    for n in range(40):
        writer.write(numbered(n))
    writer.release()
    return path


def test_every_frame_once_and_in_order(film: Path) -> None:
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


def test_at_its_own_pace_late_frames_are_left_out(film: Path) -> None:
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


def test_it_starts_again(film: Path) -> None:
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


def test_waiting_for_a_slow_film_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "slow.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 1, (160, 120))
    for n in range(2):
        writer.write(numbered(n))
    writer.release()
    source = VideoSource(path)
    source.open()
    assert source.newest(1.0) is not None
    with pytest.raises(NoFrameError, match="its next frame is"):
        source.newest(0.05)
    source.close()


def test_nothing_is_dropped_of_a_film_that_waits(film: Path) -> None:
    numbers = []
    with Newest(open_source(str(film), every_frame=True), mpp=0.25) as camera:
        while shot := camera.take(10.0):
            numbers.append(number_of(shot.frame.pixels))
            assert shot.frame.mpp == 0.25
        assert camera.state.phase == "ended"
        assert (camera.state.dropped, camera.state.missed, camera.state.frames) == (0, 0, 40)
    assert numbers == list(range(40))


def test_what_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"none\.avi: expected a video file, found none"):
        VideoSource(tmp_path / "none.avi").open()
    (tmp_path / "text.avi").write_text("no film")
    with pytest.raises(CameraError, match=r"text\.avi cannot be opened: expected a video"):
        VideoSource(tmp_path / "text.avi").open()


def test_a_film_cut_short_ends(film: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.avi").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    source = VideoSource(tmp_path / "cut.avi", every_frame=True)
    source.open()
    n = 0
    while source.newest(1.0):
        n += 1
    source.close()
    assert 5 < n < 35
