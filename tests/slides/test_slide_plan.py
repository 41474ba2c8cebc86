"""What of a slide is looked at, and that its tiles make one count."""

from __future__ import annotations

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from slide_parts import CANVAS, WHOLE, Blobs, counter_of, joined, same, small_tiles

from kinet_trt import NucleusCounter, Threshold
from kinet_trt.core.errors import EngineError, ImageError, KinetError
from kinet_trt.core.frame import Frame, fit
from kinet_trt.slides.plan import make_plan
from kinet_trt.slides.region import Region
from kinet_trt.slides.resample import Scaling
from kinet_trt.slides.slide import open_slide
from kinet_trt.slides.tiles import count_tiles, read_window
from simulated_slides import Canvas, Piece, write_tiff


@pytest.fixture(scope="module")
def counter():
    return counter_of(Blobs())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("slide") / "a.ome.tif", CANVAS)


def plan_of(slide, counter, region=None, **changes):
    card = replace(counter.engine.card, **changes)
    return make_plan(slide, card, counter.threshold, counter.engine.precision, region)


def counted(slide, counter):
    plan = plan_of(slide, counter)
    return joined([nuclei for _, nuclei in count_tiles(slide, plan, plan.tiles, counter)])


@pytest.mark.parametrize("mpp", [0.34, 0.25, 0.33, 0.3, 0.17, 0.1, 0.6])
@pytest.mark.parametrize("tile", [64, 128, 512])
def test_a_slide_counts_as_one_picture_of_it_would(counter, path, mpp, tile):
    """To the last nucleus, whether the level is taken as it is, averaged, halved or enlarged."""
    small = small_tiles(counter, tile)
    with open_slide(path, mpp) as slide:
        found = counted(slide, small)
    whole = counter(WHOLE, mpp=mpp)
    assert len(whole) > (15 if mpp < 0.2 else 80)
    if mpp == 0.33:  # within 3% of the model's scale, yet scaled
        assert len(found) != len(counter(WHOLE))
    assert same(found, whole)


@pytest.mark.parametrize("mpp", [0.34, 0.28])
def test_so_it_does_with_the_shipped_network(path, mpp):
    counter = NucleusCounter(precision="fp32", threads=2)
    region = Region((box(0, 0, 450, 380),))
    with open_slide(path, mpp) as slide:
        plan = plan_of(slide, small_tiles(counter, 192), region)
        found = joined([n for _, n in count_tiles(slide, plan, plan.tiles, small_tiles(counter, 192))])
    whole = counter(WHOLE, mpp=mpp)
    assert len(found) > 40
    assert same(found, whole.where(region.contains(whole.x, whole.y)))


def box(left, top, right, bottom):
    return (np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float),)


@pytest.mark.parametrize(("width", "height"), [(1000, 800), (735, 588), (500, 400), (330, 264), (1470, 1176)])
def test_windows_hold_what_scaling_the_whole_would_give(width, height):
    whole = fit(Frame(WHOLE, width / 1000), 1.0, 16)
    scaling = Scaling(1000, 800, whole.width, whole.height)

    def read(x, y, w, h):
        assert x >= 0
        assert y >= 0
        assert x + w <= 1000
        assert y + h <= 800
        return WHOLE[y : y + h, x : x + w]

    for x, y in ((0, 0), (37, 91), (whole.width - 150, whole.height - 110)):
        seen = scaling.window(read, x, y, 208, 160)
        expected = whole.pixels[y : y + 160, x : x + 208]
        np.testing.assert_array_equal(seen[: expected.shape[0], : expected.shape[1]], expected)


def test_the_level_nearest_the_models_scale_is_read_not_a_coarser_one(tmp_path, counter):
    canvas = Canvas(2400, 1600, (Piece(200, 200, 900, 700),), mpp=0.085)
    path = write_tiff(tmp_path / "a.tif", canvas, layout="pages", downsamples=(1, 2, 4, 16))
    with open_slide(path) as slide:
        for mpp, level in ((0.085, 2), (0.1, 1), (0.3, 0), (0.34, 0), (0.02, 3), (1.0, 0), (0.0857, 2)):
            plan = plan_of(slide.at(mpp), counter)
            assert plan.level == level, mpp
            same_scale = abs(mpp * slide.levels[level].downsample / 0.34 - 1) <= 0.01
            assert same_scale == (
                (plan.scaling.width, plan.scaling.height) == (plan.scaling.source_width, plan.scaling.source_height)
            )
        # Coordinates are those of level 0 all the same.
        plan = plan_of(slide, counter)
        found = joined([nuclei for _, nuclei in count_tiles(slide, plan, plan.tiles, counter)])
    halved = cv2.resize(canvas.region(0, 0, 2400, 1600), (600, 400), interpolation=cv2.INTER_AREA)
    expected = counter(halved)
    assert len(expected) > 30
    np.testing.assert_allclose(found.x, (expected.x + 0.5) * 4 - 0.5)
    np.testing.assert_allclose(found.y, (expected.y + 0.5) * 4 - 0.5)


def test_glass_is_skipped_and_no_nucleus_with_it(counter, path):
    with open_slide(path) as slide:
        plan = plan_of(slide, counter)
        total = len(plan.rows) * len(plan.columns)
        assert 0 < len(plan.tiles) < total
        glass = [number for number in range(total) if number not in plan.tiles]
        assert all(len(nuclei) == 0 for _, nuclei in count_tiles(slide, plan, glass, counter))
        owners = [plan.tile_of(number) for number in plan.tiles]
        for x, y in zip(CANVAS.truth.x, CANVAS.truth.y, strict=True):
            assert any(t.left <= round(float(x)) < t.right and t.top <= round(float(y)) < t.bottom for t in owners)


def test_all_windows_of_a_slide_have_one_size_and_hold_core_and_halo(counter, path):
    with open_slide(path) as slide:
        for mpp in (0.34, 0.23):
            plan = plan_of(slide.at(mpp), counter)
            height, width = (n + -n % 16 for n in (plan.scaling.height, plan.scaling.width))
            covered = np.zeros((height, width), int)
            for number in range(len(plan.rows) * len(plan.columns)):
                t = plan.tile_of(number)
                covered[t.top : t.bottom, t.left : t.right] += 1
                assert (t.window_top % 16, t.window_left % 16) == (0, 0)
                assert t.window_top <= max(0, t.top - plan.halo)
                assert t.window_bottom >= min(height, t.bottom + plan.halo)
                assert t.window_left <= max(0, t.left - plan.halo)
                assert t.window_right >= min(width, t.right + plan.halo)
                assert read_window(slide.at(mpp), plan, number).shape == read_window(slide.at(mpp), plan, 0).shape
            assert (covered == 1).all()
            with pytest.raises(KinetError, match="tile: expected 0 to"):
                plan.tile_of(len(plan.rows) * len(plan.columns))


def test_a_region_limits_the_tiles_and_the_nuclei(counter, path):
    triangle = (np.array([(80.0, 60.0), (400.0, 90.0), (110.0, 330.0)]),)
    hole = (np.array([(150.0, 120.0), (200.0, 120.0), (200.0, 160.0), (150.0, 160.0)]),)
    region = Region((triangle,), (hole,))
    with open_slide(path) as slide:
        whole, part = plan_of(slide, counter), plan_of(slide, counter, region)
        assert set(part.tiles) < set(whole.tiles)
        found = joined([n for _, n in count_tiles(slide, part, part.tiles, counter)])
        expected = joined([n for _, n in count_tiles(slide, whole, whole.tiles, counter)])
    inside = [
        cv2.pointPolygonTest(triangle[0].astype(np.float32), (float(x), float(y)), False) >= 0
        and cv2.pointPolygonTest(hole[0].astype(np.float32), (float(x), float(y)), False) <= 0
        for x, y in zip(expected.x, expected.y, strict=True)
    ]
    assert 20 < len(found) < len(expected)
    assert same(found, expected.where(np.array(inside)))


def test_the_identity_is_of_all_that_decides_the_nuclei_and_of_nothing_else(counter, path, tmp_path):
    triangle = (np.array([(80.0, 60.0), (400.0, 90.0), (110.0, 330.0)]),)
    with open_slide(path) as slide:
        plan = plan_of(slide, counter)
        assert plan_of(slide, counter).identity == plan.identity
        assert pickle.loads(pickle.dumps(plan)).identity == plan.identity
        others = [
            make_plan(slide, counter.engine.card, Threshold(0.4), "fp32"),
            make_plan(slide, counter.engine.card, counter.threshold, "bf16"),
            plan_of(slide, counter, model_sha256="0" * 64),
            plan_of(slide, counter, tile=64),
            plan_of(slide.at(0.3), counter),
            plan_of(slide, counter, Region((triangle,))),
            plan_of(slide, counter, Region((triangle,), (triangle,))),
        ]
    changed = write_tiff(tmp_path / "b.ome.tif", replace(CANVAS, pieces=CANVAS.pieces[:1]))
    with open_slide(changed) as slide:
        others.append(plan_of(slide, counter))
    assert len({plan.identity, *(other.identity for other in others)}) == 1 + len(others)


def test_a_plan_is_held_to_slide_and_counter(counter, path, tmp_path):
    other = write_tiff(tmp_path / "b.ome.tif", replace(CANVAS, pieces=CANVAS.pieces[:1]))
    with open_slide(path) as slide, open_slide(other) as wrong:
        plan = plan_of(slide, counter)
        for what, a, b in (
            ("slide", wrong, counter),
            ("threshold", slide, counter.with_threshold(Threshold(0.5))),
            ("model", slide, small_tiles(counter, 128, model_sha256="1" * 64)),
        ):
            with pytest.raises(KinetError, match=f"the {what} differs from the plan's"):
                next(count_tiles(a, plan, plan.tiles, b))
        slow = small_tiles(counter, 128)
        slow.engine.precision = "bf16"
        with pytest.raises(KinetError, match="the precision differs from the plan's: expected fp32, found bf16"):
            next(count_tiles(slide, plan, plan.tiles, slow))


def test_what_cannot_be_planned_is_one_message(counter, path, tmp_path):
    with open_slide(path) as slide:
        with pytest.raises(ImageError, match=r"does not state its µm/px.*mpp"):
            plan_of(replace(slide, mpp=None, mpp_source=""), counter)
        with pytest.raises(ImageError, match=r"too small.*mpp"):
            plan_of(slide.at(0.005), counter)
        with pytest.raises(KinetError, match=r"relative:0\.5.*expected a number"):
            make_plan(slide, counter.engine.card, Threshold(0.5, relative=True), "fp32")
        beside = Region(((np.array([[4e4, 0], [5e4, 0], [5e4, 900]]),),))
        with pytest.raises(KinetError, match=r"region lies outside of the slide: .* 1000 x 800; found .*\(40000, 0\)"):
            plan_of(slide, counter, beside)
        tight = ((1, 32, 32), (1, 64, 64), (1, 64, 1024))
        with pytest.raises(EngineError, match=r"up to 1024 x 64 px.*Build it"):
            plan_of(slide, counter, profile=tight)
        plan = plan_of(slide, counter, profile=((1, 32, 32), (1, 64, 64), (1, 144, 1024)))
        assert max(bottom - top for top, bottom in plan.rows) <= 144 - 2 * plan.halo
    import tifffile

    grey = np.repeat(WHOLE.mean(axis=2).astype(np.uint8)[..., None], 3, axis=2)
    tifffile.imwrite(tmp_path / "grey.tif", grey, tile=(256, 256), photometric="rgb")
    with open_slide(tmp_path / "grey.tif", 0.34) as slide, pytest.raises(ImageError, match="no colour"):
        plan_of(slide, counter)
