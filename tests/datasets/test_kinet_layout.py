"""The KiNet folder layout."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
from kinet_trt.export.proximity import proximity_maps

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError
from kinet_trt.datasets.kinet_layout import MAPS, read_centres, read_regions
from kinet_trt.datasets.labelled import read_fields, with_classes, with_nuclei
from kinet_trt.simulation import simulate

HEIGHT, WIDTH = 160, 200


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def map_of(x, y, distance=10.0):
    """Return the map of a class as in the release: Eq. 1 in 8 bits."""
    maps, _ = proximity_maps(x, y, np.zeros(len(x), np.uint8), HEIGHT, WIDTH, 1, 3.0, distance)
    return np.rint(maps[0] * 255).astype(np.uint8)


def write_field(folder, name, split, classes=CLASSES, seed=1, ending="_label", region=None):
    pixels, truth = simulate.field(seed, WIDTH, HEIGHT)
    save(folder / "images" / split / f"{name}.png", pixels)
    for cls in classes:
        own = truth.cls == CLASSES.index(cls)
        save(folder / MAPS[cls] / split / f"{name}{ending}.png", map_of(truth.x[own], truth.y[own]))
    if region is not None:
        save(folder / "rois" / split / f"{name}.png", region)
    return pixels, truth


def farthest(x, y, truth_x, truth_y):
    """Return the largest distance from a true nucleus to the nearest detection, px."""
    return np.hypot(x[None] - truth_x[:, None], y[None] - truth_y[:, None]).min(axis=1).max(initial=0)


@pytest.mark.parametrize("distance", [10.0, 15.0, 6.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_read_centres_finds_every_nucleus_once(tmp_path, seed, distance):
    _, truth = simulate.field(seed, WIDTH, HEIGHT)
    save(tmp_path / "m.png", map_of(truth.x, truth.y, distance))
    x, y = read_centres(tmp_path / "m.png", HEIGHT, WIDTH)
    assert len(x) == len(truth)
    assert farthest(x, y, truth.x, truth.y) < 0.75
    np.testing.assert_array_equal(np.lexsort((x, y)), np.arange(len(x)))


def test_read_centres_finds_nuclei_at_the_border_and_close_together(tmp_path):
    x, y = np.array([0, 199, 0, 100, 104, 60, 60], np.float32), np.array([0, 159, 80, 40, 40, 100, 103], np.float32)
    save(tmp_path / "m.png", map_of(x, y))
    found = set(zip(*(a.tolist() for a in read_centres(tmp_path / "m.png", HEIGHT, WIDTH)), strict=True))
    assert found == set(zip(x.tolist(), y.tolist(), strict=True))


def test_read_centres_accepts_smooth_and_dark_maps(tmp_path):
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    soft = np.maximum(*(np.exp(-((u - x) ** 2 + (v - y) ** 2) / 72) for x, y in ((50.5, 60), (80, 60))))
    for largest in (255, 100):
        save(tmp_path / "m.png", (soft * largest).astype(np.uint8))
        x, y = read_centres(tmp_path / "m.png", HEIGHT, WIDTH)
        np.testing.assert_allclose(x, [50.5, 80], atol=0.5)
        np.testing.assert_allclose(y, [60, 60], atol=0.5)


def test_read_centres_of_a_black_map_is_empty(tmp_path):
    save(tmp_path / "m.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert [len(a) for a in read_centres(tmp_path / "m.png", HEIGHT, WIDTH)] == [0, 0]


def test_read_centres_refuses_a_mask_of_nuclei(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (50, 50), 9, (255,), -1)
    save(tmp_path / "m.png", mask)
    with pytest.raises(KinetError, match=r"m\.png: expected a proximity map .* flat top of \d+ px"):
        read_centres(tmp_path / "m.png", HEIGHT, WIDTH)


def test_map_of_another_size_is_one_error(tmp_path):
    save(tmp_path / "m.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(KinetError, match=r"m\.png: expected a map of 200 x 161 px"):
        read_centres(tmp_path / "m.png", HEIGHT + 1, WIDTH)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(KinetError, match=r"broken\.png"):
        read_regions(tmp_path / "broken.png", HEIGHT, WIDTH)


def test_layout_is_read_with_its_splits_and_classes(tmp_path):
    folder = tmp_path / "PNET"
    pixels, truth = write_field(folder, "a", "train")
    write_field(folder, "b", "val", classes=("positive", "negative"), ending="", seed=2)
    write_field(folder, "c", "test", seed=3)
    save(folder / "images" / "train" / "left.png", pixels)
    fields = read_fields(folder)
    assert [(f.name, f.split, f.source) for f in fields] == [
        ("c", "test", "PNET"),
        ("a", "train", "PNET"),
        ("b", "val", "PNET"),
    ]
    first, second = fields[1:]
    np.testing.assert_array_equal(first.pixels(), pixels)
    assert (first.labelled, second.labelled) == (CLASSES, ("positive", "negative"))
    assert not any(f.guessed for f in fields)
    for kind in range(3):
        own, true = first.cls == kind, truth.cls == kind
        assert own.sum() == true.sum()
        assert farthest(first.x[own], first.y[own], truth.x[true], truth.y[true]) < 0.75


def test_images_without_a_map_are_logged(tmp_path, caplog):
    pixels, _ = write_field(tmp_path / "d", "a", "train")
    save(tmp_path / "d" / "images" / "train" / "left.png", pixels)
    assert [f.name for f in read_fields(tmp_path / "d")] == ["a"]
    assert "images without maps are excluded: 1, such as " in caplog.text


def test_images_without_split_folders_are_read(tmp_path):
    write_field(tmp_path, "a", "")
    assert [(f.name, f.split) for f in read_fields(tmp_path)] == [("a", "")]


def test_image_with_a_region_only_labels_no_class(tmp_path, caplog):
    region = np.full((HEIGHT, WIDTH), 128, np.uint8)
    region[:50], region[100:] = 255, 0
    write_field(tmp_path / "d", "a", "train", classes=(), region=region)
    write_field(tmp_path / "d", "b", "train", region=region)
    alone, both = read_fields(tmp_path / "d")
    assert (alone.labelled, len(alone.x), both.labelled) == ((), 0, CLASSES)
    for field in (alone, both):
        tumor, known = field.regions()
        np.testing.assert_array_equal(tumor, region == 255)
        np.testing.assert_array_equal(known, region != 128)
    part = both.part(40, 200)
    assert [mask.shape for mask in part.regions()] == [(HEIGHT, 160)] * 2
    assert with_classes([alone], ["positive"])[0].labelled == ()
    with caplog.at_level(logging.WARNING):
        assert with_nuclei([alone, both]) == [both]
    assert "excluded 1 of " in caplog.text
