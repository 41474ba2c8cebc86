"""Training crops: reproducible items, and targets at the nuclei."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from kinet_trt.export.crops import Crop, CropPlan, Crops, divide_by_class, vary_stain, without_tumor

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.frame import Frame
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.io.geojson import Outlines
from kinet_trt.simulation.simulate import field as simulated_field

torch.set_num_threads(1)
SIDE = 300
# Apart from each other and from the border, and asymmetric under every rotation and reflection.
SPOTS = np.array([[60.0, 50.0], [210.25, 80.5], [120.5, 190.75], [240.0, 230.0], [50.0, 260.0]], np.float32)
KINDS = np.array([0, 1, 2, 1, 0], np.uint8)


def dotted(height: int = SIDE, width: int = SIDE, **options: Any) -> LabelledField:
    """Return a white field with a dark, soft spot at each nucleus."""
    v, u = np.mgrid[:height, :width]
    dark = sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 4.0**2)) for x, y in SPOTS)
    pixels = np.repeat(np.rint(240 - 200 * np.minimum(dark, 1))[..., None], 3, axis=2).astype(np.uint8)
    return LabelledField(Path("dots"), SPOTS[:, 0], SPOTS[:, 1], KINDS, _frames=[Frame(pixels)], **options)


def masked(mask: NDArray[np.bool_]) -> LabelledField:
    whole = dotted()
    return replace(whole, counted=Path("mask.png"), _frames=[Frame(whole.pixels())], _masks=[mask])


def draw(source: LabelledField | list[LabelledField], plan: CropPlan, n: int = 12, seed: int = 1) -> list[Crop]:
    sources = source if isinstance(source, list) else [source]
    crops = Crops(sources, [1.0] * len(sources), plan, seed, n)
    return [crops.draw(i) for i in range(n)]


def same(a: Crop, b: Crop) -> bool:
    return all(map(np.array_equal, a, b))


@pytest.mark.parametrize(
    "plan",
    [
        CropPlan(size=64),
        CropPlan(size=64, stain=True, scale=1.25, distance=10),
        CropPlan(size=64, stain=True, scale=1.25, simulated=0.4, empty=0.3),
    ],
)
def test_items_do_not_depend_on_the_order_of_access(plan: CropPlan) -> None:
    fields = [dotted(), dotted(SIDE, 280)]
    one, other = (Crops(fields, [1, 2], plan, 5, 40) for _ in range(2))
    forward = [one.draw(i) for i in range(8)]
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    backward = [other.draw(i) for i in reversed(range(8))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert not same(forward[0], forward[1])
    assert not same(forward[0], Crops(fields, [1, 2], plan, 6, 40).draw(0))


def test_items_are_tensors_of_the_documented_shapes() -> None:
    crops = Crops([dotted()], [1], CropPlan(size=48), 1, 7)
    assert len(crops) == 7
    pixels, maps, known, tumor, region, total, unclassified = crops[3]
    assert (pixels.shape, pixels.dtype) == ((48, 48, 3), torch.uint8)
    for tensor, channels in [(maps, 3), (known, 3), *((one, 1) for one in (tumor, region, total, unclassified))]:
        assert (tensor.shape, tensor.dtype) == ((channels, 48, 48), torch.float32)
        assert tensor.min() >= 0
        assert tensor.max() <= 1


@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_target_peaks_where_the_nucleus_is(scale: float) -> None:
    size, compared, turned = 160, 0, set()
    for crop in draw(dotted(), CropPlan(size=size, scale=scale), 40):
        dark = 255 - crop.pixels[..., 0].astype(np.float64) - 15
        value = crop.maps.max(axis=0)
        peaks = (value == cv2.dilate(value, np.ones((21, 21), np.uint8))) & (value > 0.7)
        for v, u in zip(*np.nonzero(peaks), strict=True):
            if (
                not (16 <= v < size - 16 and 16 <= u < size - 16)
                or crop.known[:, v - 16 : v + 17, u - 16 : u + 17].min() == 0
            ):
                continue
            box = dark[v - 14 : v + 15, u - 14 : u + 15].clip(0)
            offset = np.arange(-14, 15)
            dy, dx = (box.sum(axis=1) @ offset) / box.sum(), (box.sum(axis=0) @ offset) / box.sum()
            assert np.hypot(dx, dy) < 0.75  # the peak is on the pixel grid, the centre of the spot is not
            # the target itself, by its own centre of mass, without the grid
            mine = value[v - 14 : v + 15, u - 14 : u + 15]
            ty, tx = (mine.sum(axis=1) @ offset) / mine.sum(), (mine.sum(axis=0) @ offset) / mine.sum()
            assert np.hypot(dx - tx, dy - ty) < 0.3
            compared += 1
        turned.add(crop.pixels.tobytes())
    assert compared > 20
    assert len(turned) == 40


def test_crops_keep_the_class_of_every_nucleus() -> None:
    whole = dotted()
    for i, kind in enumerate(KINDS):
        alone = replace(whole, x=whole.x[[i]], y=whole.y[[i]], cls=whole.cls[[i]])
        for crop in draw(alone, CropPlan(size=128), 6, seed=i):
            assert not crop.maps[[s for s in range(3) if s != kind]].any()


def test_rotations_and_reflections_all_occur() -> None:
    whole = dotted(64, 64)
    spots = np.array([[20.0, 14.0], [45.0, 14.0]], np.float32)
    whole = replace(whole, x=spots[:, 0], y=spots[:, 1], cls=np.array([0, 1], np.uint8))
    seen = set()
    for crop in draw(whole, CropPlan(size=64), 60):
        a, b = (np.array(np.unravel_index(crop.maps[s].argmax(), (64, 64))) for s in (0, 1))
        seen.add((tuple(np.sign(b - a)), tuple(np.sign(31.5 - a))))
    assert len(seen) == 8


def test_known_is_one_where_all_classes_are_labelled() -> None:
    for crop in draw(dotted(), CropPlan(size=96)):
        assert crop.known.min() == 1


@pytest.mark.parametrize("options", [{"labelled": ("positive", "negative")}, {"partial": ("non_tumor",)}])
def test_unlabelled_class_is_known_only_at_labelled_nuclei(options: dict[str, Any]) -> None:
    plan = CropPlan(size=160, distance=10)
    unknown = 0
    for crop in draw(dotted(**options), plan):
        assert crop.known[:2].min() == 1
        marked = crop.maps.max(axis=0) > 0
        assert (crop.known[2][marked] == 1).all()
        near = cv2.dilate(marked.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert not crop.known[2][~near].any()
        unknown += int((crop.known[2] == 0).sum())
    assert unknown


def test_labels_of_a_partial_class_are_used() -> None:
    crops = draw(dotted(partial=("non_tumor",)), CropPlan(size=160), 12)
    taught = [crop for crop in crops if crop.maps[2].max() > 0.9]
    assert taught
    assert all((crop.known[2][crop.maps[2] > 0] == 1).all() for crop in taught)


def test_known_is_zero_outside_the_counted_region() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, : SIDE // 2] = True
    paint = dotted().pixels().copy()
    paint[~mask] = (255, 0, 0)
    source = replace(masked(mask), _frames=[Frame(paint)], _masks=[mask])
    shares = []
    for crop in draw(source, CropPlan(size=128), 16):
        red = (crop.pixels[..., 0].astype(int) - crop.pixels[..., 1]) > 128
        border = cv2.dilate(red.astype(np.uint8), np.ones((5, 5))) != cv2.erode(red.astype(np.uint8), np.ones((5, 5)))
        for known in (*crop.known, crop.region[0]):
            assert not known[red & ~border].any()
            assert known[~red & ~border].all()
        shares.append(crop.known.mean())
    assert min(shares) < 0.5 < max(shares)


def test_known_is_zero_in_the_reflected_border_of_a_small_field() -> None:
    small = LabelledField.simulated(dotted(40, 56).pixels(), *(np.empty(0, np.float32),) * 2, np.empty(0, np.uint8))
    for crop in draw(small, CropPlan(size=96)):
        assert crop.pixels.shape == (96, 96, 3)
        assert crop.known[0].sum() == pytest.approx(40 * 56, rel=0.05)


def test_drawn_region_is_tumour_and_the_rest_unknown() -> None:
    mask = np.ones((SIDE, SIDE), bool)
    mask[:150] = False
    for crop in draw(masked(mask), CropPlan(size=128)):
        np.testing.assert_array_equal(crop.tumor, crop.region)
        np.testing.assert_array_equal(crop.region[0], crop.known[0])


def test_undrawn_region_is_around_each_nucleus() -> None:
    tumor = other = 0
    for crop in draw(dotted(), CropPlan(size=160)):
        assert not crop.tumor[crop.region == 0].any()
        for s, kind in enumerate((1, 1, 0)):
            centres = crop.maps[s] > 0.8
            assert (crop.region[0][centres] == 1).all()
            assert (crop.tumor[0][centres] == kind).all()
        tumor += int(crop.tumor.sum())
        other += int((crop.region - crop.tumor).sum())
        assert crop.region.mean() < 0.5
    assert tumor
    assert other


def test_region_is_unknown_where_both_kinds_are_close() -> None:
    close = replace(
        dotted(),
        x=np.array([150, 158], np.float32),
        y=np.array([150, 150], np.float32),
        cls=np.array([1, 2], np.uint8),
    )
    for crop in draw(close, CropPlan(size=256), 4):
        assert not crop.region[0][crop.maps.max(axis=0) > 0.8].any()
        assert crop.region.any()


def test_empty_crops_have_an_empty_known_target() -> None:
    crops = draw(dotted(), CropPlan(size=64, empty=1.0), 20)
    for crop in crops:
        assert (crop.pixels.shape, crop.pixels.dtype) == ((64, 64, 3), np.uint8)
        assert not crop.maps.any()
        assert crop.known.min() == 1
        assert crop.known.shape == crop.maps.shape == (3, 64, 64)
        assert not crop.region.any()
        assert crop.tumor.shape == crop.region.shape == (1, 64, 64)
    assert len({crop.pixels.tobytes() for crop in crops}) == 20


def test_simulated_crops_know_every_class() -> None:
    unlabelled = dotted(labelled=("positive",))
    crops = draw(unlabelled, CropPlan(size=64, simulated=1.0), 8)
    assert all(crop.known[:, 20:44, 20:44].min() == 1 for crop in crops)
    assert any(crop.maps[2].any() for crop in crops)


def test_fractions_of_empty_and_real_crops_match_the_plan() -> None:
    crops = draw(dotted(), CropPlan(size=16, empty=0.3), 400)
    # A crop of a real field this small is nearly all white or a spot; an empty one has no known region of its own.
    white = sum(crop.pixels.min() > 200 and crop.pixels.max() <= 240 and np.ptp(crop.pixels) < 3 for crop in crops)
    assert white > 100
    assert 80 < sum(np.ptp(crop.pixels, axis=2).any() for crop in crops) < 160  # colour: only empty crops have any


def test_consecutive_crops_share_an_image_and_weights_apply() -> None:
    fields = []
    for i in range(4):
        flat = np.full((80, 80, 3), 10 + i, np.uint8)
        fields.append(LabelledField.simulated(flat, *(np.empty(0, np.float32),) * 2, np.empty(0, np.uint8)))
    crops = Crops(fields, [1, 1, 6, 0], CropPlan(size=32, per_image=4), 3, 800)
    drawn = np.array([crops.draw(i).pixels[16, 16, 0] - 10 for i in range(800)])
    assert (drawn.reshape(-1, 4) == drawn[::4, None]).all()
    counts = np.bincount(drawn, minlength=4)
    assert counts[3] == 0
    assert counts[2] / 800 == pytest.approx(0.75, abs=0.1)


def test_scale_stays_within_its_bounds() -> None:
    areas = [
        (crop.pixels[..., 0] < 140).sum()
        for crop in draw(
            replace(dotted(), x=SPOTS[:0, 0], y=SPOTS[:0, 1], cls=KINDS[:0]), CropPlan(size=460, scale=1.25), 12
        )
    ]
    assert len(set(areas)) > 4


def test_stain_variation_keeps_shape_and_type_and_is_seeded() -> None:
    pixels, _ = simulated_field(3, 96, 80)
    before = pixels.copy()
    first, again = (vary_stain(np.random.default_rng(4), pixels) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(pixels, before)
    drawn = [vary_stain(np.random.default_rng(seed), pixels) for seed in range(20)]
    for image in drawn:
        assert (image.shape, image.dtype) == (pixels.shape, np.uint8)
        assert np.corrcoef(image.mean(axis=2).ravel(), pixels.mean(axis=2).ravel())[0, 1] > 0.7
    assert len({image.tobytes() for image in drawn}) == 20


@pytest.mark.parametrize("level", [0, 255])
def test_stain_variation_of_black_and_white_is_finite(level: int) -> None:
    for seed in range(10):
        image = vary_stain(np.random.default_rng(seed), np.full((32, 32, 3), level, np.uint8))
        assert abs(float(image.mean()) - level) < 60


def test_stain_variation_leaves_the_geometry_and_the_target_alone() -> None:
    plain = CropPlan(size=128, scale=1.25)
    for a, b in zip(draw(dotted(), plain, 6), draw(dotted(), replace(plain, stain=True), 6), strict=True):
        np.testing.assert_array_equal(a.maps, b.maps)
        np.testing.assert_array_equal(a.known, b.known)
        assert not np.array_equal(a.pixels, b.pixels)


def test_classes_have_the_order_of_the_maps() -> None:
    assert CLASSES == ("positive", "negative", "non_tumor")


def test_drawn_regions_are_known_only_where_drawn() -> None:
    tumor, known = np.zeros((2, SIDE, SIDE), bool)
    tumor[:150], known[:200] = True, True
    source = replace(dotted(), _regions=[(tumor, known)])
    seen = 0
    for crop in draw(source, CropPlan(size=96, scale=1.25)):
        assert set(np.unique(crop.region)) <= {0.0, 1.0}
        assert not (crop.tumor > crop.region).any()
        seen += int((crop.region > crop.tumor).any()) + 10 * int(crop.tumor.any())
    assert seen > 20


def test_field_with_regions_only_has_no_known_nuclei() -> None:
    region = np.ones((SIDE, SIDE), bool)
    nothing = np.empty(0, np.float32)
    source = replace(
        dotted(), x=nothing, y=nothing, cls=np.empty(0, np.uint8), labelled=(), _regions=[(region, region)]
    )
    for crop in draw(source, CropPlan(size=96)):
        assert not crop.known.any()
        assert crop.region.all()


def test_areas_without_nuclei_are_known_for_all_classes() -> None:
    corners = np.array([[150, 0], [300, 0], [300, 300], [150, 300]], np.float64) - 0.5
    none = np.zeros(0, np.float32)
    bare = replace(dotted(labelled=()), x=none, y=none, cls=none.astype(np.uint8))
    for source, expected in ((bare, False), (replace(bare, outlines=Outlines(empty=((corners,),))), True)):
        crops = draw(source, CropPlan(size=64), n=30)
        assert any(crop.known.any() for crop in crops) == expected
        assert not all(crop.known.all() for crop in crops)
        assert not any(crop.tumor.any() for crop in crops)
        assert all((crop.known == crop.region).all() for crop in crops)


def test_crops_carry_the_maps_of_a_teacher_where_the_field_is() -> None:
    maps = np.zeros((SIDE, SIDE, 3), np.uint8)
    maps[:, : SIDE // 2, 1] = 255
    plan = CropPlan(size=2 * SIDE)  # larger than the field, outside which the teacher is unknown
    crop = Crops([dotted()], [1], plan, 0, 1, teacher_maps=[maps]).draw(0)
    assert crop.teacher_maps.shape == (3, 2 * SIDE, 2 * SIDE)
    assert crop.teacher_known.sum() == pytest.approx(SIDE**2, rel=0.02)
    assert crop.teacher_maps[1].sum() == pytest.approx(SIDE**2 / 2, rel=0.02)
    assert not crop.teacher_maps[:, crop.teacher_known[0] == 0].any()
    assert not crop.teacher_maps[[0, 2]].any()
    assert (
        len(Crops([dotted()], [1], plan, 0, 1, teacher_maps=[maps])[0])
        == len(Crops([dotted()], [1], plan, 0, 1)[0]) + 2
    )


def test_nuclei_of_a_teacher_in_other_tissue_are_non_tumor() -> None:
    maps = np.zeros((3, 2, 4), np.float32)
    maps[0, 0], maps[1, 1], maps[2, 1] = 0.75, 0.5, 0.25
    other = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    changed = without_tumor(maps, other)
    np.testing.assert_array_equal(changed[:, :, :2], maps[:, :, :2])
    assert not changed[:2, :, 2:].any()
    np.testing.assert_array_equal(changed[2, :, 2:], [[0.75, 0.75], [0.5, 0.5]])


def test_simulated_and_empty_crops_have_no_teacher() -> None:
    maps = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for plan in (CropPlan(size=64, simulated=1.0), CropPlan(size=64, empty=1.0)):
        crop = Crops([dotted()], [1], plan, 0, 1, teacher_maps=[maps]).draw(0)
        assert not crop.teacher_known.any()


def test_drawn_regions_override_those_around_nuclei() -> None:
    corners = np.array([[0, 0], [150, 0], [150, 300], [0, 300]], np.float64) - 0.5
    whole = CropPlan(size=2 * SIDE)  # a corner of it is the field
    weak, drawn = (draw(dotted(outlines=o), whole, n=1)[0] for o in (Outlines(), Outlines(other=((corners,),))))
    assert drawn.region.sum() > weak.region.sum()
    assert (drawn.region >= weak.region).all()
    # All but one of the nuclei are tumour; those in the left half are now in other tissue.
    kept = drawn.tumor > 0
    assert 0 < kept.sum() < weak.tumor.sum()
    assert (weak.tumor[kept] > 0).all()


def test_nuclei_without_classes_are_in_the_sum_of_the_maps() -> None:
    plan = CropPlan(size=SIDE, scale=1.0)
    for plain, blind in zip(draw(dotted(), plan, 4), draw(dotted(classified=False), plan, 4), strict=True):
        np.testing.assert_array_equal(blind.pixels, plain.pixels)
        np.testing.assert_array_equal(blind.total[0], plain.maps.sum(axis=0))
        assert blind.total.max() > 0.9
        assert not blind.maps.any()
        assert (blind.unclassified[blind.total > 0] == 1).all()
        np.testing.assert_array_equal(blind.known, np.repeat(1 - blind.unclassified, 3, axis=0))
        assert not blind.region.any()
        assert not plain.total.any()
        assert not plain.unclassified.any()


def test_teacher_divides_nuclei_without_classes_among_the_classes() -> None:
    total = np.array([[[1.0, 0.5, 1.0, 0.0]]], np.float32)
    maps = np.array([[[0.2, 0.1, 0.05, 0.3]], [[0.6, 0.1, 0.05, 0.0]], [[0.0, 0.0, 0.0, 0.0]]], np.float32)
    shared, where = divide_by_class(maps, total, np.ones_like(total))
    np.testing.assert_allclose(shared[:, 0, 0], [0.25, 0.75, 0])
    np.testing.assert_allclose(shared[:, 0, 1], [0.25, 0.25, 0])
    np.testing.assert_array_equal(shared[:, 0, 3], 0)  # a false positive of the teacher
    np.testing.assert_array_equal(where[0, 0], [1, 1, 0, 1])
