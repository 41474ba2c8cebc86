"""Properties of the simulator that its users rely on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinet_trt.simulation.lattice import noise
from kinet_trt.simulation.simulate import CLASSES, NOMINAL_MPP, SimulatedSlide, Truth, _place, field
from kinet_trt.simulation.stain import stain_nuclei

WHOLE = (-310, -270, 560, 520)  # crosses the origin, tile edges and cell edges


@pytest.fixture(scope="module")
def whole() -> tuple[SimulatedSlide, NDArray[np.uint8], Truth]:
    slide = SimulatedSlide(seed=7)
    return slide, *slide.region(*WHOLE)


def darkness(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return (-np.log10(np.maximum(image, 1) / 242.0)).mean(axis=2)


def nearest(truth: Truth) -> NDArray[np.float64]:
    points = np.stack([truth.x, truth.y], 1).astype(float)
    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    return distance.min(axis=1)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    left=st.integers(0, WHOLE[2] - 1),
    top=st.integers(0, WHOLE[3] - 1),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
)
def test_region_equals_the_part_of_a_larger_region(
    whole: tuple[SimulatedSlide, NDArray[np.uint8], Truth], left: int, top: int, width: int, height: int
) -> None:
    slide, image, truth = whole
    width, height = min(width, WHOLE[2] - left), min(height, WHOLE[3] - top)
    cut, found = slide.region(WHOLE[0] + left, WHOLE[1] + top, width, height)
    np.testing.assert_array_equal(cut, image[top : top + height, left : left + width])
    x, y = truth.x - left, truth.y - top
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    np.testing.assert_array_equal(found.x, x[inside])
    np.testing.assert_array_equal(found.y, y[inside])
    np.testing.assert_array_equal(found.cls, truth.cls[inside])


@pytest.mark.parametrize("mpp", [0.21, 0.5])
def test_region_equals_the_part_of_a_larger_region_at_another_mpp(mpp: float) -> None:
    slide = SimulatedSlide(seed=3, mpp=mpp)
    image, truth = slide.region(-90, 110, 200, 180)
    cut, found = slide.region(-20, 190, 100, 60)
    np.testing.assert_array_equal(cut, image[80:140, 70:170])
    x, y = truth.x - 70, truth.y - 80
    inside = (x >= -0.5) & (x < 99.5) & (y >= -0.5) & (y < 59.5)
    np.testing.assert_array_equal(found.x, x[inside])


def test_region_is_deterministic_and_seeded(whole: tuple[SimulatedSlide, NDArray[np.uint8], Truth]) -> None:
    slide, image, _ = whole
    again, _ = SimulatedSlide(seed=7).region(*WHOLE[:2], 230, 210)
    np.testing.assert_array_equal(again, image[:210, :230])
    other, _ = dataclasses.replace(slide, seed=8).region(0, 0, 64, 64)
    assert (other != image[270:334, 310:374]).mean() > 0.5
    (one, first), (two, second) = field(5, 120, 90), field(5, 120, 90)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(first.x, second.x)


def test_truth_has_shapes_order_and_bounds(whole: tuple[SimulatedSlide, NDArray[np.uint8], Truth]) -> None:
    _, image, truth = whole
    assert image.shape == (WHOLE[3], WHOLE[2], 3)
    assert image.dtype == np.uint8
    assert (truth.x.dtype, truth.y.dtype, truth.cls.dtype) == (np.float32, np.float32, np.uint8)
    assert len(truth) == len(truth.x) == len(truth.y) == len(truth.cls)
    assert ((truth.x >= -0.5) & (truth.x < WHOLE[2] - 0.5)).all()
    assert ((truth.y >= -0.5) & (truth.y < WHOLE[3] - 0.5)).all()
    order = np.lexsort((truth.x, truth.y))
    np.testing.assert_array_equal(order, np.arange(len(truth)))


def test_field_is_dense_and_contains_every_class() -> None:
    image, truth = field(1)
    assert image.shape == (596, 596, 3)
    assert 350 < len(truth) < 1500
    counts = np.bincount(truth.cls, minlength=len(CLASSES))
    assert (counts > 5).all()
    assert nearest(truth).min() > 5  # no two nuclei at one point


def test_classes_differ_in_colour() -> None:
    image, truth = field(2)
    rows, columns = np.round(truth.y).astype(int).clip(0, 595), np.round(truth.x).astype(int).clip(0, 595)
    colour = image[rows, columns].astype(float)
    redder = colour[:, 0] - colour[:, 2]
    assert np.median(redder[truth.cls == 0]) > 5  # brown
    assert np.median(redder[truth.cls == 1]) < -15  # blue
    density = darkness(image)
    assert density[rows, columns].mean() > 1.5 * np.median(density)


@pytest.mark.parametrize("fraction", [0.0, 0.03, 0.15, 0.4, 1.0])
def test_positive_fraction(fraction: float) -> None:
    """Hot spots are wide, so the mean needs many regions: nuclei without pictures."""
    counts = np.zeros(3)
    for seed in range(60):
        slide = SimulatedSlide(seed=seed, positive_fraction=fraction, tumor_share=0.9)
        counts += np.bincount(_place(slide, 5 * seed, -3 * seed)["cls"], minlength=3)
    assert counts[:2].sum() > 5000
    assert counts[0] / counts[:2].sum() == pytest.approx(fraction, rel=0.25 * (1 - fraction))


def test_tumor_share_has_an_effect() -> None:
    shares = []
    for share in (0.2, 0.5, 0.8):
        cells = [_place(SimulatedSlide(seed=s, tumor_share=share), s, s)["cls"] for s in range(12)]
        shares.append(np.mean(np.concatenate(cells) < 2))
    assert shares[0] + 0.1 < shares[1] < shares[2] - 0.1


def test_options_may_be_numpy_numbers() -> None:
    plain, _ = SimulatedSlide(seed=3, mpp=0.5).region(2, 3, 40, 30)
    typed, _ = SimulatedSlide(seed=np.int64(3), mpp=np.float64(0.5)).region(np.int64(2), np.int32(3), np.int64(40), 30)  # type: ignore[arg-type]
    np.testing.assert_array_equal(plain, typed)


@pytest.mark.parametrize("mpp", [0.05, 4.0])
def test_mpp_at_its_limits(mpp: float) -> None:
    image, truth = SimulatedSlide(mpp=mpp).region(10, 10, 60, 60)
    assert image.shape == (60, 60, 3)
    assert len(truth) < 2000


def test_shares_at_their_limits() -> None:
    image, truth = SimulatedSlide(glass_share=1.0).region(0, 0, 64, 64)
    assert len(truth) == 0
    assert image.min() > 225
    assert _classes(SimulatedSlide(tumor_share=0.0, glass_share=0.0)) == {2}


def _classes(slide: SimulatedSlide) -> set[int]:
    return set(slide.region(0, 0, 400, 200)[1].cls.tolist())


def test_glass_contains_no_nuclei() -> None:
    slide = SimulatedSlide(seed=4, glass_share=0.3)
    image, truth = slide.region(0, 0, 600, 600)
    # Glass is an area as bright as the lamp.
    bright = image.min(axis=2) > 222
    assert 0.08 < bright.mean() < 0.6
    rows, columns = np.round(truth.y).astype(int).clip(1, 598), np.round(truth.x).astype(int).clip(1, 598)
    assert not any(bright[r - 1 : r + 2, c - 1 : c + 2].all() for r, c in zip(rows, columns, strict=True))


def test_mpp_keeps_the_nuclei_where_they_are() -> None:
    coarse, fine = SimulatedSlide(seed=9), SimulatedSlide(seed=9, mpp=NOMINAL_MPP / 2)
    image, truth = coarse.region(-60, 40, 150, 150)
    large, found = fine.region(-120, 80, 300, 300)
    # The same µm: with pixel centres at integers, x of one is 2 x + 1/2 of the other.
    keep = (truth.x > 0) & (truth.x < 149) & (truth.y > 0) & (truth.y < 149)
    for x, y, c in zip(truth.x[keep], truth.y[keep], truth.cls[keep], strict=True):
        match = np.hypot(found.x - (2 * x + 0.5), found.y - (2 * y + 0.5)) < 0.05
        assert match.sum() == 1
        assert found.cls[match][0] == c
    shrunk = large.reshape(150, 2, 150, 2, 3).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), image.ravel().astype(float))[0, 1] > 0.95


def test_centroid_equals_the_truth() -> None:
    """The optical density of an isolated nucleus over its background has its centroid within half a pixel."""
    off = []
    for seed in range(8):
        image, truth = field(seed, 400, 400, glass_share=0.0)
        density = darkness(image)
        alone = (nearest(truth) > 18) & (truth.cls < 2)
        alone &= (np.abs(truth.x - 199.5) < 186) & (np.abs(truth.y - 199.5) < 186)
        for x, y in zip(truth.x[alone], truth.y[alone], strict=True):
            column, row = round(float(x)), round(float(y))
            patch = density[row - 12 : row + 13, column - 12 : column + 13]
            across = np.arange(-12, 13) + column - float(x)
            down = np.arange(-12, 13)[:, None] + row - float(y)
            far = np.hypot(across, down)
            background, core = np.median(patch[(far > 10) & (far < 12.5)]), np.median(patch[far < 4])
            if core - background < 0.1:
                continue  # out of focus and pale: noise determines the mask
            weight = np.where((far < 11) & (patch > (core + background) / 2), np.minimum(patch, core) - background, 0)
            off.append([(weight * across).sum() / weight.sum(), (weight * down).sum() / weight.sum()])
    assert len(off) > 20
    distance = np.hypot(*np.transpose(off))
    assert np.median(distance) < 0.35  # the rest is neighbours, background and noise,
    assert np.abs(np.mean(off, axis=0)).max() < 0.1  # and has no direction


def test_nuclei_are_centred_on_their_truth() -> None:
    """The stain of each nucleus, without light and neighbours."""
    slide = SimulatedSlide(seed=1, positive_fraction=0.5)
    for nucleus in _place(slide, 0, 0)[:150]:
        x, y = round(float(nucleus["x"])), round(float(nucleus["y"]))
        px, py = np.arange(x - 20, x + 21), np.arange(y - 20, y + 21)
        stain, brown = np.zeros((41, 41), np.float32), np.zeros((41, 41), np.float32)
        one = nucleus[None].copy()
        one["cell"] = 0
        grain = noise(slide.seed, 60, px + 0.5, py + 0.5, 2.4, 1.1)
        stain_nuclei(one, grain, px, py, stain, brown, scale=1.0, cytoplasm=0.5)
        stain += brown
        off = (
            (stain * px).sum() / stain.sum() - nucleus["x"],
            (stain * py[:, None]).sum() / stain.sum() - nucleus["y"],
        )
        assert np.hypot(*off) < 0.25


def test_stain_options_have_an_effect() -> None:
    plain, truth = SimulatedSlide(seed=2, positive_fraction=0.5).region(0, 0, 200, 200)
    for change in ({"counterstain": 0.4}, {"dab": 0.3}):
        paler, same = SimulatedSlide(seed=2, positive_fraction=0.5, **change).region(0, 0, 200, 200)
        np.testing.assert_array_equal(same.x, truth.x)
        assert paler.mean() > plain.mean() + 3
    turned, _ = SimulatedSlide(seed=2, positive_fraction=0.5, hue_shift=30).region(0, 0, 200, 200)
    assert np.abs(turned.astype(float) - plain).max() > 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("mpp", 0),
        ("mpp", float("nan")),
        ("positive_fraction", 1.1),
        ("tumor_share", -0.1),
        ("glass_share", 2),
        ("counterstain", -1),
        ("dab", 99),
        ("hue_shift", 400),
    ],
)
def test_invalid_options_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected .* found .*; pass"):
        SimulatedSlide(**{name: value})  # type: ignore[arg-type]


def test_invalid_regions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"width: expected .* found 0; pass"):
        SimulatedSlide().region(0, 0, 0, 10)
    with pytest.raises(ValueError, match=r"x: expected a whole number .* found 0.5; pass"):
        SimulatedSlide().region(0.5, 0, 10, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"height: expected .* found -3; pass"):
        field(0, 10, -3)
