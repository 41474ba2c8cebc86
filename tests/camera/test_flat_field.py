"""Flat-field correction and white balance, compared with the ideal picture."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from kinet_trt.camera.flat_field import WHITE, FlatField
from kinet_trt.camera.simulated import SimulatedMicroscope
from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import Frame

OPTICS = "size=640x480,path=still,vignetting=0.4,tint=0.2,noise=3,hot=0,drift=0"


def frames(text: str, n: int) -> list[Frame]:
    source = SimulatedMicroscope.parse(text)
    source.open()
    try:
        return [shot.frame for shot in (source.newest(5.0) for _ in range(n)) if shot]
    finally:
        source.close()


@pytest.fixture(scope="module")
def blank() -> list[Frame]:
    return frames(f"{OPTICS},blank=1,fps=200", 8)


def test_corrected_glass_is_even_and_white(blank: list[Frame]) -> None:
    before = blank[0].pixels.astype(float)
    assert before[:, :, 0].mean() - before[:, :, 2].mean() > 30
    corner = before[:40, :40].mean(axis=(0, 1))
    assert (corner < before[220:260, 300:340].mean(axis=(0, 1)) - 40).all()
    after = FlatField.from_blank(blank[1:])(blank[0]).pixels.astype(float)
    for part in (after[:40, :40], after[220:260, 300:340], after[-40:, -40:]):
        np.testing.assert_allclose(part.mean(axis=(0, 1)), WHITE, atol=1.5)


def test_corrected_tissue_looks_evenly_lit(blank: list[Frame]) -> None:
    seen = frames(f"{OPTICS},seed=3", 1)[0]
    even = frames("size=640x480,path=still,vignetting=0,tint=0,noise=0,hot=0,drift=0,seed=3", 1)[0]
    corrected = FlatField.from_blank(blank)(seen)
    assert (corrected.mpp, corrected.time, corrected.stage) == (seen.mpp, seen.time, seen.stage)
    wanted = even.pixels.astype(float) * (WHITE / np.array([241.0, 240.0, 243.0]))
    before = np.abs(seen.pixels - even.pixels.astype(float)).mean()
    after = np.abs(corrected.pixels - wanted).mean()
    assert after < 4  # the sensor's noise, a little more of it in the corners
    assert before > 4 * after


def test_from_blank_refuses_unsuitable_frames(blank: list[Frame]) -> None:
    with pytest.raises(ImageError, match="expected empty glass"):
        FlatField.from_blank(frames("size=640x480,path=still,noise=0,hot=0", 1))
    with pytest.raises(ImageError, match="turn the light up"):
        FlatField.from_blank([Frame(np.full((64, 64, 3), 20, np.uint8))])
    with pytest.raises(ImageError, match="exposure down"):
        FlatField.from_blank([Frame(np.full((64, 64, 3), 255, np.uint8))])
    with pytest.raises(ImageError, match="one or more frames of one size"):
        FlatField.from_blank([])
    with pytest.raises(ImageError, match="one or more frames of one size"):
        FlatField.from_blank([blank[0], Frame(blank[0].pixels[:32])])
    with pytest.raises(ImageError, match="take a blank field at this size"):
        FlatField.from_blank(blank)(Frame(blank[0].pixels[:32]))


def test_correction_is_fast() -> None:
    """Compared with computing the mean of the same frame."""
    rng = np.random.default_rng(0)
    frame = Frame(rng.integers(0, 256, (960, 1280, 3), dtype=np.uint8))
    correction = FlatField(rng.integers(180, 240, (960, 1280, 3), dtype=np.uint8))
    mine, other = [], []
    for _ in range(15):
        start = time.perf_counter()
        correction(frame)
        middle = time.perf_counter()
        frame.pixels.astype(np.float32).mean()
        mine.append(middle - start)
        other.append(time.perf_counter() - middle)
    assert statistics.median(mine) < 2 * statistics.median(other)
