"""Sharpness and motion on the simulated microscope, whose defocus and stage are known, and on textures."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from kinet_trt.camera.simulated import Options
from kinet_trt.camera.simulated.optics import Optics, smear
from kinet_trt.core.frame import Frame
from kinet_trt.live.acquisition.frame_quality import REST, Quality, QualityMonitor
from kinet_trt.simulation import simulate

MPP, WIDTH, HEIGHT, STEP = 0.34, 320, 240, 0.1  # s between frames


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Return a strip of tissue, five fields wide."""
    return simulate.field(11, 5 * WIDTH, HEIGHT, mpp=MPP)[0]


class Bench:
    """A stage, a lens and a camera over tissue, with simulated time."""

    def __init__(self, tissue: np.ndarray, **optics: float) -> None:
        usual = {"vignetting": 0.15, "tint": 0.05, "noise": 2.0, "hot": 20, "seed": 3}
        self.optics = Optics(WIDTH, HEIGHT, **(usual | optics))
        self.tissue, self.watch, self.n = tissue, QualityMonitor(MPP), 0

    def look(self, x: float = 0, defocus: float = 0, exposure: float = 1, passed: float = STEP) -> Quality:
        scene = np.ascontiguousarray(self.tissue[:, round(x) : round(x) + WIDTH])
        self.n += 1
        self.time = getattr(self, "time", 1_000.0) + passed
        raw = self.optics.expose(smear(scene, 0, 0, defocus), exposure, self.n)
        return self.watch.assess(Frame(raw, MPP), MPP, self.time)


def free(quality: Quality) -> bool:
    return not (quality.blurred or quality.moving or quality.empty)


HARD = {"vignetting": 0.5, "noise": 6.0, "hot": 100}


@pytest.mark.parametrize("optics", [{}, HARD])
def test_sharp_still_field_can_be_captured_in_any_light(tissue, optics):
    bench = Bench(tissue, **optics)
    for n in range(30):
        quality = bench.look(exposure=1 + 0.15 * math.sin(n / 3))
        assert free(quality)
        assert quality.speed is None if n == 0 else quality.speed < 5
    assert 0.2 < quality.sharpness < 0.35


@pytest.mark.parametrize("optics", [{}, HARD])
def test_defocus_is_blurred_until_refocused(tissue, optics):
    bench = Bench(tissue, **optics)
    assert free(bench.look())
    sharpness = [bench.look(defocus=sigma).sharpness for sigma in (0, 0.5, 1, 1.5, 2, 3)]
    assert sharpness == sorted(sharpness, reverse=True)
    for sigma in (1.7, 2.5, 4):
        quality = bench.look(defocus=sigma)
        assert quality.blurred
        assert not quality.moving
    assert free(bench.look())


def test_strong_defocus_is_blurred_without_a_sharp_reference(tissue):
    assert Bench(tissue).look(defocus=3).blurred
    assert not Bench(tissue).look(defocus=0).blurred


def test_reference_of_the_same_place_is_stricter(tissue):
    bench = Bench(tissue)
    bench.look()
    assert not bench.look(x=WIDTH, defocus=1.3).blurred
    bench.look(x=0)
    assert not bench.look(x=0).blurred
    assert bench.look(x=0, defocus=1.3).blurred


def test_blurred_field_elsewhere_is_compared_with_recent_sharpness(tissue):
    bench = Bench(tissue)
    bench.look()
    bench.look(x=WIDTH)
    assert bench.look(x=WIDTH, defocus=2).blurred
    assert not Bench(tissue).look(x=WIDTH, defocus=2).blurred  # by itself it could be how this tissue is


@pytest.mark.parametrize("um_per_s", [20, 100, 300])
@pytest.mark.parametrize("optics", [{}, HARD])
def test_moving_stage_is_detected_and_its_speed_measured(tissue, um_per_s, optics):
    bench, px = Bench(tissue, **optics), um_per_s * STEP / MPP
    bench.look()
    for n in range(1, 5):
        quality = bench.look(x=n * px)
        true = (round(n * px) - round((n - 1) * px)) * MPP / STEP
        assert quality.moving
        assert quality.speed == pytest.approx(true, abs=3)
        assert quality.shift == pytest.approx(true * STEP, abs=0.3)
    assert free(bench.look(x=n * px))


def test_jump_to_another_place_is_motion_without_a_speed(tissue):
    bench = Bench(tissue)
    bench.look()
    quality = bench.look(x=2 * WIDTH)
    assert quality.moving
    assert quality.speed is None
    assert free(bench.look(x=2 * WIDTH))


def test_dirt_on_the_camera_does_not_hide_motion(tissue):
    bench = Bench(tissue, hot=300, vignetting=0.6)
    bench.look()
    assert all(bench.look(x=n * 60).moving for n in range(1, 6))


def test_glass_is_empty_and_neither_blurred_nor_moving(tissue):
    bench = Bench(np.full_like(tissue, 240), noise=4.0)
    for n in range(5):
        quality = bench.look(x=50 * n)
        assert (quality.empty, quality.blurred, quality.moving, quality.sharpness) == (True, False, False, None)
        assert not quality.rested


def test_change_from_glass_to_tissue_is_motion(tissue):
    half = tissue.copy()
    half[:, :WIDTH] = 240
    bench = Bench(half)
    bench.look()
    assert bench.look(x=WIDTH).moving


def test_stage_comes_to_rest_once_at_each_place(tissue):
    bench, rests = Bench(tissue), []
    for place in (0, 1, 2, 3):
        rests += [(place, n) for n in range(20) if bench.look(x=place * 200).rested]
    assert [place for place, _ in rests] == [0, 1, 2, 3]
    # The first picture of a place is the one that moved; from the next one on the stage is still.
    assert all(REST <= n * STEP <= REST + 2 * STEP for _, n in rests)


def test_small_shift_is_no_new_place(tissue):
    bench = Bench(tissue)
    assert sum(bench.look(x=100).rested for _ in range(10)) == 1
    assert bench.look(x=110).moving
    assert sum(bench.look(x=100).rested for _ in range(20)) == 0
    assert sum(bench.look(x=150).rested for _ in range(20)) == 1


def test_defocused_place_rests_once_sharp(tissue):
    bench = Bench(tissue)
    assert not any(bench.look(defocus=3).rested for _ in range(20))
    assert bench.look(defocus=0).rested


def test_new_frame_size_or_mpp_resets_the_monitor(tissue):
    watch, pixels = QualityMonitor(MPP), np.ascontiguousarray(tissue[:, :WIDTH])
    watch.assess(Frame(pixels), MPP, 1.0)
    small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for frame, mpp in ((Frame(small), MPP), (Frame(small), 2 * MPP)):
        quality = watch.assess(frame, mpp, 2.0)
        assert quality.shift is None
        assert not quality.moving


def test_equal_times_do_not_hide_motion(tissue):
    bench = Bench(tissue)
    bench.look()
    quality = bench.look(x=40, passed=0)
    assert quality.speed is None
    assert quality.moving
    assert not bench.look(x=40, passed=0).moving


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (33, 7), (2000, 3)])
@pytest.mark.parametrize("mpp", [0.02, 0.34, 5.0])
def test_frames_of_any_size_are_assessed(size, mpp):
    rng, watch = np.random.default_rng(1), QualityMonitor(MPP)
    for time in (1.0, 2.0):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        quality = watch.assess(Frame(pixels), mpp, time)
        assert np.isfinite(quality.contrast)


def test_simulated_frames_can_be_captured_at_their_own_mpp():
    """At 0.17 um/px, with the defaults of ``sim:``, sharpness is that of the model's scale."""
    options = replace(Options(), size=(640, 480))
    scene = simulate.field(5, *options.size, mpp=options.mpp)[0]
    optics = Optics(
        *options.size, vignetting=options.vignetting, tint=options.tint, noise=options.noise, hot=20, seed=1
    )
    watch = QualityMonitor(MPP)
    sharp = watch.assess(Frame(optics.expose(scene, 1.0, 1)), options.mpp, 1.0)
    blurred = watch.assess(Frame(optics.expose(smear(scene, 0, 0, 4.0), 1.0, 2)), options.mpp, 1.1)
    assert (sharp.blurred, blurred.blurred, blurred.moving) == (False, True, False)
    assert 0.2 < sharp.sharpness < 0.35
