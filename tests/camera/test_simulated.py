"""Simulated microscope: pictures, ground truth, pace and faults."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from camera_films import open_files

from kinet_trt.camera.grabber import FrameGrabber
from kinet_trt.camera.simulated import Options, SimulatedMicroscope
from kinet_trt.camera.simulated.optics import Optics, smear
from kinet_trt.camera.source import CameraError, NoFrameError, SourceFrame
from kinet_trt.core.frame import Frame

SMALL = "size=320x240,mpp=0.34"
BARE = f"{SMALL},vignetting=0,tint=0,noise=0,hot=0,drift=0"


@contextmanager
def opened(text: str, **changes: float) -> Iterator[SimulatedMicroscope]:
    source = SimulatedMicroscope(replace(Options.parse(text), **changes))  # type: ignore[arg-type]
    source.open()
    try:
        yield source
    finally:
        source.close()


def first(text: str, **changes: float) -> SourceFrame:
    with opened(text, **changes) as source:
        return source.newest(5.0)


# --- pictures and truth -----------------------------------------------------------------------------------------------


def test_frames_show_the_slide_and_truth_its_nuclei() -> None:
    with opened(f"{BARE},seed=5,path=0:0/61.3:20.2,rest=0.2,speed=100,exposure=0,hurry=3") as source:
        for _ in range(12):
            frame = source.newest(5.0).frame
            assert frame.stage is not None
            assert frame.mpp == 0.34
            left, top = (round(um / 0.34 - side / 2) for um, side in zip(frame.stage, (320, 240), strict=True))
            picture, truth = source.slide.region(left, top, 320, 240)
            np.testing.assert_array_equal(frame.pixels, picture)
            found = source.truth(frame)
            np.testing.assert_array_equal(found.x, truth.x)
            np.testing.assert_array_equal(found.y, truth.y)
            np.testing.assert_array_equal(found.cls, truth.cls)
            assert len(found) > 20
            time.sleep(0.02)


def test_equal_options_give_equal_frames() -> None:
    one, two = first(f"{SMALL},path=still,fps=1000,drift=0"), first(f"{SMALL},path=still,fps=1000,drift=0")
    assert one.frame.stage == two.frame.stage
    # The noise is the frame number's, and the two may be different frames.
    assert np.abs(one.frame.pixels.astype(int) - two.frame.pixels).mean() < 4
    assert first(f"{SMALL},seed=8").frame.stage != one.frame.stage


def test_each_optical_option_has_its_effect() -> None:
    plain = first(f"{BARE},path=still").frame.pixels.astype(float)
    dark = first(f"{BARE},path=still", vignetting=0.6).frame.pixels.astype(float)
    assert np.abs(dark[110:130, 150:170] - plain[110:130, 150:170]).max() < 4
    assert dark[:10, :10].mean() < 0.55 * plain[:10, :10].mean()
    yellow = first(f"{BARE},path=still", tint=0.3).frame.pixels.astype(float)
    np.testing.assert_allclose(yellow[..., 2].mean() / plain[..., 2].mean(), 0.7, atol=0.01)
    noisy = first(f"{BARE},path=still", noise=6).frame.pixels.astype(float)
    middle = (plain > 60) & (plain < 200)
    assert (noisy - plain)[middle].std() == pytest.approx(6, rel=0.1)
    assert abs((noisy - plain)[middle].mean()) < 0.2
    hot = first(f"{BARE},path=still", hot=50).frame.pixels
    assert 45 <= (hot == 255).all(axis=2).sum() <= 50
    soft = first(f"{BARE},path=still", defocus=3).frame.pixels.astype(float)
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.5 * np.abs(np.diff(plain, axis=1)).mean()
    glass = first(f"{BARE},blank=1").frame.pixels
    assert glass.min() > 225


def test_noise_differs_between_frames() -> None:
    optics = Optics(64, 48, vignetting=0, tint=0, noise=5, hot=0, seed=1)
    scene = np.full((48, 64, 3), 120, np.uint8)
    frames = [optics.expose(scene, 1.0, n).astype(float).ravel() - 120 for n in range(6)]
    correlation = np.corrcoef(frames) - np.eye(6)
    assert np.abs(correlation).max() < 0.06
    assert optics.expose(scene, 1.1, 0).mean() == pytest.approx(132, abs=0.5)


def test_moving_stage_blurs_along_its_direction() -> None:
    line = np.zeros((41, 41, 3), np.uint8)
    line[20, 20] = 250
    across = smear(line, 9.0, 0.0, 0.0)[..., 0]
    assert (across > 0).sum() == 9
    assert across[20, 16:25].min() > 20
    down = smear(line, 0.0, -9.0, 0.0)[..., 0]
    np.testing.assert_array_equal(down, across.T)
    np.testing.assert_array_equal(smear(line, 0.4, 0.0, 0.0), line)


def test_exposure_drifts() -> None:
    with opened(f"{BARE},path=still,hurry=100,fps=2", drift=0.3) as source:
        means = [float(source.newest(5.0).frame.pixels.mean()) for _ in range(30)]
    assert max(means) > 1.2 * min(means)


def test_move_to_reaches_its_target() -> None:
    with opened(f"{SMALL},path=still,speed=1000,hurry=4") as source:
        start = source.newest(5.0).frame.stage
        assert start is not None
        source.move_to(start[0] + 80, start[1] - 40)
        end = time.monotonic() + 20
        stage = start
        while abs(stage[0] - start[0] - 80) > 0.35 and time.monotonic() < end:
            stage = source.newest(5.0).frame.stage or start
        time.sleep(0.05)
        rested = source.newest(5.0).frame.stage
        assert rested == pytest.approx((start[0] + 80, start[1] - 40), abs=0.35)


def test_truth_refuses_a_frame_without_stage_position() -> None:
    with pytest.raises(ValueError, match="found one without a stage position"):
        SimulatedMicroscope().truth(Frame(np.zeros((960, 1280, 3), np.uint8)))


# --- pace -------------------------------------------------------------------------------------------------------------


def test_frames_keep_their_pace_and_late_ones_are_missing() -> None:
    with opened(f"{SMALL},fps=50,path=still") as source:
        start, begun = source.newest(5.0).sequence, time.monotonic()
        for _ in range(10):
            source.newest(5.0)
        assert time.monotonic() - begun > 0.17
        time.sleep(0.5)
        late = source.newest(5.0).sequence
        assert late - start >= 30
    with opened(f"{SMALL},fps=0.2,path=still") as source:
        begun = time.monotonic()
        with pytest.raises(NoFrameError, match=r"gave no frame in 0\.1 s"):
            source.newest(0.1)
        assert time.monotonic() - begun > 0.09


def cpu() -> float:
    times = os.times()
    return times.user + times.system


@pytest.mark.slow
def test_thirty_frames_a_second_while_the_stage_moves() -> None:
    """1280 x 960 px at 0.17 um/px. CPU time is of this process, so other load does not matter."""
    with FrameGrabber(SimulatedMicroscope.parse("")) as camera:
        assert camera.take(60.0) is not None
        before, begun, used = camera.state, time.monotonic(), cpu()
        while time.monotonic() < begun + 15:
            camera.take(1.0)
        after, took = camera.state, time.monotonic() - begun
        share = (cpu() - used) / took
        assert (after.frames - before.frames) / took > 28
        assert share < 0.8


# --- faults -----------------------------------------------------------------------------------------------------------


def watch(camera: FrameGrabber, condition: Callable[[], bool], seconds: float = 60.0) -> list[SourceFrame]:
    """Take frames until a condition is true."""
    end, shots = time.monotonic() + seconds, []
    while not condition():
        assert time.monotonic() < end, camera.state.sentence()
        if shot := camera.take(0.05):
            shots.append(shot)
    return shots


def test_stall_is_reported_and_ends() -> None:
    with opened(f"{SMALL},path=still") as source:
        source.newest(5.0)
        source.fail("stall", 1.0)
        begun = time.monotonic()
        with pytest.raises(NoFrameError):
            source.newest(0.1)
        assert source.newest(5.0).frame.width == 320
        assert time.monotonic() - begun > 0.9


def test_disconnect_leads_to_a_reconnect() -> None:
    source = SimulatedMicroscope.parse(f"{SMALL},path=still")
    with FrameGrabber(source, pauses=(0.1,)) as camera:
        watch(camera, lambda: camera.state.frames > 3)
        source.fail("disconnect", 0.5)
        watch(camera, lambda: camera.state.phase == "reconnecting")
        assert "a requested fault" in camera.state.why
        frames = camera.state.frames
        shots = watch(camera, lambda: camera.state.frames > frames + 3)
        assert shots[-1].frame.mpp == 0.34


def test_resize_never_keeps_the_old_mpp() -> None:
    source = SimulatedMicroscope.parse(f"{SMALL},path=still,noise=0")
    with FrameGrabber(source, pauses=(0.05,)) as camera:
        watch(camera, lambda: camera.state.frames > 2)
        source.fail("resize", 1.0)
        shots = watch(camera, lambda: camera.state.width == 160 and camera.state.frames > 10)
        shots += watch(camera, lambda: camera.state.width == 320)
        assert {(shot.frame.width, shot.frame.mpp) for shot in shots} <= {(320, 0.34), (160, None)}
        half = next(shot.frame for shot in shots if shot.frame.width == 160)
    # The truth is in px of the small frame: nuclei are darker than what surrounds them.
    truth = source.truth(half)
    assert len(truth) > 20
    dark = 255 - half.pixels.mean(axis=2)
    rows, columns = (np.rint(axis).astype(int) for axis in (truth.y, truth.x))
    inside = (rows < 120) & (columns < 160)
    assert dark[rows[inside], columns[inside]].mean() > dark.mean() + 15


def test_torn_frame_shows_two_places() -> None:
    with opened(f"{BARE},path=0:0/400:0,rest=0,speed=200,exposure=0") as source:
        source.fail("torn", 1e6)
        time.sleep(0.4)
        frame = source.newest(5.0).frame
        assert frame.stage is not None
        left, top = (round(um / 0.34 - side / 2) for um, side in zip(frame.stage, (320, 240), strict=True))
        picture, _ = source.slide.region(left, top, 320, 240)
        np.testing.assert_array_equal(frame.pixels[:120], picture[:120])
        assert (frame.pixels[120:] != picture[120:]).mean() > 0.5


def test_never_fault_keeps_the_camera_closed() -> None:
    source = SimulatedMicroscope.parse(f"{SMALL},faults=never")
    with pytest.raises(CameraError, match="does not answer"):
        source.open()
    with FrameGrabber(source, pauses=(0.01,)) as camera:
        watch(camera, lambda: camera.state.phase == "reconnecting")
        assert camera.take(0.05) is None


def test_faults_start_at_their_time() -> None:
    with opened(f"{SMALL},path=still,hurry=10,faults=disconnect@2+1e6") as source:
        begun = time.monotonic()
        with pytest.raises(CameraError, match="was unplugged"):
            read_on(source)
        assert time.monotonic() - begun > 0.1


def read_on(source: SimulatedMicroscope) -> None:
    for _ in range(10_000):
        source.newest(1.0)


def test_no_handles_are_left_open() -> None:
    source = SimulatedMicroscope.parse(f"{SMALL},path=still")
    before = open_files()
    for _ in range(10):
        source.open()
        source.newest(5.0)
        source.close()
        source.close()
    assert open_files() == before
    with pytest.raises(CameraError, match="is not open"):
        source.newest(0.1)


@pytest.mark.slow
def test_hundred_faults_are_survived() -> None:
    """With any faults, sequences grow, no um/px is wrong, and frames come again."""
    rng = np.random.default_rng(11)
    source = SimulatedMicroscope.parse(f"{SMALL},fps=100,rest=0.2")
    before = open_files()
    with FrameGrabber(source, pauses=(0.02, 0.05), patience=0.2) as camera:
        last = 0
        for _ in range(100):
            kind = ("stall", "disconnect", "torn", "resize")[rng.integers(4)]
            source.fail(kind, float(rng.uniform(0.05, 0.4)))  # type: ignore[arg-type]
            end = time.monotonic() + 0.3
            for shot in watch(camera, lambda end=end: time.monotonic() > end):
                assert shot.sequence > last
                last = shot.sequence
                assert (shot.frame.width, shot.frame.mpp) in ((320, 0.34), (160, None))
        frames = camera.state.frames
        watch(camera, lambda: camera.state.frames > frames + 20)
        assert camera.state.phase == "connected"
    assert open_files() == before
