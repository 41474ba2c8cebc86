from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from kinet_trt.core.detections import CLASSES
from kinet_trt.core.errors import KinetError
from kinet_trt.datasets.labelled import read_fields, with_classes, with_nuclei, with_regions
from kinet_trt.datasets.labelled_field import LabelledField
from kinet_trt.io.geojson import Outlines

POINTS = "x,y,class\n1.5,2,positive\n10,20.25,non_tumor\n"


def write_image(path, seed=0, size=(24, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    return pixels


def test_remarks_on_an_image_are_logged_with_its_name(tmp_path, caplog):
    pages = [Image.fromarray(np.full((24, 32, 3), value, np.uint8)) for value in (90, 200)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "a.csv").write_text(POINTS)
    read_fields(tmp_path)[0].frame()
    assert f"{tmp_path / 'a.tif'}: Page 1 of 2 is read" in caplog.text


def write_mask(path, mask):
    path.write_bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())


# --- folders of pairs -------------------------------------------------------------------------------------------------


def test_pairs_are_images_with_points_of_the_same_name(tmp_path):
    b, a = write_image(tmp_path / "b.png", 1), write_image(tmp_path / "a.PNG", 2)
    write_image(tmp_path / "unlabelled.png")
    for name in ("a", "b", "no image"):
        (tmp_path / f"{name}.csv").write_text(POINTS)
    (tmp_path / "notes.txt").write_text("x")
    fields = read_fields(tmp_path)
    assert [field.name for field in fields] == ["a", "b"]
    np.testing.assert_array_equal(fields[0].pixels(), a)
    np.testing.assert_array_equal(fields[1].pixels(), b)
    assert fields[0].x.tolist() == [1.5, 10]
    assert fields[0].labelled == ("positive", "non_tumor")  # assumed from the classes that occur
    assert all(field.guessed for field in fields)
    assert not any(field.guessed for field in with_classes(fields, ["positive"]))
    assert fields[0].counted is None
    assert fields[0].counted_mask().all()
    assert fields[0].counted_mask().shape == (24, 32)


def test_masks_are_not_fields(tmp_path):
    write_image(tmp_path / "a.png")
    mask = np.zeros((24, 32), bool)
    mask[5:10, 3:30] = True
    write_mask(tmp_path / "a_counted.png", mask)
    (tmp_path / "a.csv").write_text(POINTS)
    (tmp_path / "a_counted.csv").write_text(POINTS)
    (field,) = read_fields(tmp_path)
    assert field.counted == tmp_path / "a_counted.png"
    np.testing.assert_array_equal(field.counted_mask(), mask)
    assert field.counted_mask().dtype == bool


def test_pair_without_nuclei_has_every_class_labelled(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("x,y,class\n")
    assert read_fields(tmp_path)[0].labelled == CLASSES


@pytest.mark.parametrize("what", ["nothing", "empty", "file"])
def test_folder_without_fields_is_an_error_with_the_expected_layouts(tmp_path, what):
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("x")
    with pytest.raises(KinetError, match="expected a") as raised:
        read_fields(path)
    assert str(path) in str(raised.value)


# --- index.csv --------------------------------------------------------------------------------------------------------


@pytest.fixture
def indexed(tmp_path):
    write_image(tmp_path / "bc" / "one.png", 1)
    write_image(tmp_path / "net" / "two.png", 2)
    (tmp_path / "points").mkdir()
    for name in ("one", "two"):
        (tmp_path / "points" / f"{name}.csv").write_text(POINTS)
    write_mask(tmp_path / "net" / "two_counted.png", np.eye(24, 32))
    (tmp_path / "index.csv").write_text(
        "image,points,counted_mask,source,split,classes\n"
        "bc/one.png,points/one.csv,,SHIDC,train,positive+negative\n"
        "net/two.png,points/two.csv,net/two_counted.png,,val,\n"
    )
    return tmp_path


def test_index_gives_points_masks_sources_and_splits(indexed):
    one, two = read_fields(indexed)
    assert (one.image, two.image) == (indexed / "bc" / "one.png", indexed / "net" / "two.png")
    assert (one.source, one.split, two.source, two.split) == ("SHIDC", "train", "", "val")
    assert (one.labelled, one.guessed) == (("positive", "negative"), False)
    assert (two.labelled, two.guessed) == (("positive", "non_tumor"), True)
    assert one.counted is None
    np.testing.assert_array_equal(two.counted_mask(), np.eye(24, 32, dtype=bool))
    assert one.cls.tolist() == [0, 2]


def test_folder_below_an_index_has_its_own_fields_only(indexed):
    assert [field.name for field in read_fields(indexed / "net")] == ["two"]


def test_index_needs_no_optional_columns(indexed):
    (indexed / "index.csv").write_text("points,image\npoints/one.csv,bc/one.png\n")
    (field,) = read_fields(indexed)
    assert (field.labelled, field.guessed) == (("positive", "non_tumor"), True)
    assert (field.counted, field.source, field.split) == (None, "", "")


def test_index_with_a_byte_order_mark_is_read(indexed):
    index = indexed / "index.csv"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes().replace(b"\n", b"\r\n"))
    assert [field.name for field in read_fields(indexed)] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("file,points\na.png,a.csv\n", "columns image,points"),
        ("image,points\nbc/one.png,\n", "line 2: expected an image and its points"),
        ("image,points\nbc/one.png\n", "line 2: expected an image and its points"),
        (
            "image,points,classes\nbc/one.png,points/one.csv,positive+tumour\n",
            r"line 2: unknown class \['tumour'\]",
        ),
        ("image,points\nbc/one.png,points/none.csv\n", r"none\.csv: cannot be read"),
        ("image,points\n", "no fields found"),
        ("", "columns image,points"),
    ],
)
def test_invalid_index_is_refused(indexed, content, says):
    (indexed / "index.csv").write_text(content)
    with pytest.raises(KinetError, match=says):
        read_fields(indexed)


@pytest.mark.parametrize("content", [b"image,points\n\xff\xfe,a.csv\n", b"image,points\n" + b"a" * 200_000 + b",b\n"])
def test_binary_index_is_a_kinet_error(indexed, content):
    (indexed / "index.csv").write_bytes(content)
    with pytest.raises(KinetError, match=r"index\.csv|a\.csv: cannot be read"):
        read_fields(indexed)


def test_pairs_are_found_below_an_index_of_other_fields(indexed):
    write_image(indexed / "mine" / "three.png")
    (indexed / "mine" / "three.csv").write_text(POINTS)
    assert [field.name for field in read_fields(indexed / "mine")] == ["three"]


def test_unreadable_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.csv").write_text(POINTS)
    (field,) = read_fields(tmp_path)
    with pytest.raises(KinetError, match=r"a\.png"):
        field.pixels()


@pytest.mark.parametrize("mask", [None, b"", b"no image", "of another size"])
def test_unusable_mask_is_named(indexed, mask):
    path = indexed / "net" / "two_counted.png"
    if mask is None:
        path.unlink()
    elif mask == "of another size":
        write_mask(path, np.ones((24, 31)))
    else:
        path.write_bytes(mask)
    with pytest.raises(KinetError, match=r"two_counted\.png"):
        read_fields(indexed)[1].counted_mask()


# --- fields in memory -------------------------------------------------------------------------------------------------


def test_part_has_the_nuclei_of_its_pixels(indexed):
    field = read_fields(indexed)[1]
    field = LabelledField(
        field.image,
        np.asarray([9.49, 9.5, 15, 19.49, 19.5], np.float32),
        np.asarray([1, 2, 3, 4, 5], np.float32),
        np.asarray([0, 1, 2, 0, 1], np.uint8),
        counted=field.counted,
        source="s",
        split="val",
    )
    part = field.part(10, 20)
    np.testing.assert_array_equal(part.pixels(), field.pixels()[:, 10:20])
    np.testing.assert_array_equal(part.counted_mask(), field.counted_mask()[:, 10:20])
    assert part.x.tolist() == pytest.approx([-0.5, 5, 9.49], abs=1e-5)
    assert part.y.tolist() == [2, 3, 4]
    assert part.cls.tolist() == [1, 2, 0]
    assert (part.source, part.split, part.labelled) == ("s", "val", CLASSES)


def test_parts_share_out_every_nucleus_once(indexed):
    field = read_fields(indexed)[0]
    halves = [field.part(0, 10), field.part(10, 32)]
    assert sum(len(half.x) for half in halves) == len(field.x)
    assert halves[1].counted_mask().shape == (24, 22)


def test_simulated_field_needs_no_file():
    pixels = np.zeros((8, 9, 3), np.uint8)
    one = np.ones(1, np.float32)
    field = LabelledField.simulated(pixels, one, one, np.zeros(1, np.uint8))
    assert field.pixels() is pixels
    assert field.counted_mask().shape == (8, 9)
    assert (field.labelled, field.name) == (CLASSES, "simulated")


def test_pixels_are_read_once(indexed):
    field = read_fields(indexed)[0]
    assert field.pixels() is field.pixels()


# --- QuPath -----------------------------------------------------------------------------------------------------------


def geojson(*features):
    listed = [
        {
            "type": "Feature",
            "geometry": {"type": kind, "coordinates": coordinates},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for kind, coordinates, name in features
    ]
    return json.dumps({"type": "FeatureCollection", "features": listed})


def box(left, top, right, bottom):
    return [[[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]]


def test_geojson_beside_an_image_is_a_field(tmp_path):
    pixels = write_image(tmp_path / "a.png")
    (tmp_path / "a.geojson").write_text(
        geojson(("MultiPoint", [[5.5, 6.5], [20.5, 10]], "Negative"), ("Polygon", box(0, 0, 16, 24), "Region*"))
    )
    write_image(tmp_path / "unlabelled.png")
    (field,) = read_fields(tmp_path)
    np.testing.assert_array_equal(field.pixels(), pixels)
    assert (field.x.tolist(), field.y.tolist(), field.cls.tolist()) == ([5, 20], [6, 9.5], [1, 1])
    assert (field.labelled, field.guessed, field.bounded) == (("negative",), True, True)
    mask = field.counted_mask()
    assert mask[:, :16].all()
    assert not mask[:, 18:].any()
    assert field.part(10, 32).counted_mask().tolist() == mask[:, 10:].tolist()


def test_geojson_with_tissue_only_has_regions_only(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.geojson").write_text(geojson(("Polygon", box(0, 0, 16, 24), "Tumor")))
    (field,) = read_fields(tmp_path)
    assert (field.labelled, field.guessed, field.bounded) == ((), False, False)
    tumor, known = field.regions()
    np.testing.assert_array_equal(tumor, known)
    assert tumor[:, :16].all()
    assert not tumor[:, 18:].any()


def test_image_with_two_label_files_is_an_error(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text(POINTS)
    (tmp_path / "a.geojson").write_text(geojson())
    with pytest.raises(KinetError, match=r"a\.csv and a\.geojson both have labels of a\.png\. Remove one"):
        read_fields(tmp_path)


def test_index_may_name_geojson(indexed):
    (indexed / "points" / "one.geojson").write_text(geojson(("Point", [3.5, 4.5], "Positive")))
    (indexed / "index.csv").write_text("image,points\nbc/one.png,points/one.geojson\n")
    (field,) = read_fields(indexed)
    assert (field.x.tolist(), field.y.tolist()) == ([3], [4])


def test_nuclei_of_another_image_are_an_error(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("x,y,class\n5,5,positive\n500,5,positive\n5,700,negative\n")
    (field,) = read_fields(tmp_path)
    for _ in range(2):
        with pytest.raises(KinetError, match="2 of its 3 labelled nuclei lie outside of its 32 x 24 px"):
            field.pixels()


def test_fields_with_unknown_labels_only_are_excluded(tmp_path, caplog):
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "a.geojson").write_text(geojson(("MultiPoint", [[5, 6], [20, 10]], "Mitosis")))
    (tmp_path / "b.geojson").write_text(geojson(("Point", [5, 6], "Positive")))
    assert [field.name for field in read_fields(tmp_path)] == ["b"]
    assert "a.png: the field is excluded: no label has a known class" in caplog.text
    (tmp_path / "b.png").unlink()
    with pytest.raises(KinetError, match=r"found none of a known class in the labels of 1 image\b"):
        read_fields(tmp_path)
    (tmp_path / "a.geojson").unlink()
    with pytest.raises(KinetError, match=r"no fields found.*found .*1 x \.png"):
        read_fields(tmp_path)


def test_measurement_table_labels_the_images_that_it_names(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "measurements.tsv").write_text(
        "Image\tClassification\tCentroid X px\tCentroid Y px\n"
        "a.png\tPositive\t5.5\t6.5\nc.png\tNegative\t20.5\t10.5\na.png\tNegative\t7.5\t8.5\n"
    )
    a, c = read_fields(tmp_path)
    assert (a.name, a.x.tolist(), c.name, c.x.tolist()) == ("a", [5, 7], "c", [20])
    (tmp_path / "c.csv").write_text(POINTS)
    with pytest.raises(KinetError, match=r"c\.csv and measurements\.tsv both have labels of c\.png"):
        read_fields(tmp_path)


def test_given_mpp_converts_lengths(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("x µm,y µm,class\n5,2.5,positive\n")
    (field,) = read_fields(tmp_path, 0.25)
    assert (field.x.tolist(), field.y.tolist()) == ([20], [10])
    with pytest.raises(KinetError, match="give the µm/px"):
        read_fields(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("a.txt", "Exposure: 20 ms\n"), ("a.json", '{"counts": 3}')])
def test_other_files_with_the_name_of_an_image_are_ignored(tmp_path, name, content):
    write_image(tmp_path / "a.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(KinetError, match="no fields found"):
        read_fields(tmp_path)
    (tmp_path / "a.csv").write_text(POINTS)
    assert len(read_fields(tmp_path)) == 1


def test_check_nuclei_refuses_fields_without_nuclei(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("x,y,class\n")
    with pytest.raises(KinetError, match="expected labelled nuclei, found none in 1 fields"):
        with_nuclei(read_fields(tmp_path))


def test_check_nuclei_refuses_nuclei_in_excluded_areas_only(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text(POINTS)
    cv2.imwrite(str(tmp_path / "a_counted.png"), np.zeros_like(cv2.imread(str(tmp_path / "a.png"))))
    with pytest.raises(KinetError, match="found all 2 in excluded regions"):
        with_nuclei(read_fields(tmp_path))


@pytest.mark.parametrize("name", ["a.CSV", "a.png.Csv"])
def test_label_files_are_found_with_capitals_in_their_suffix(tmp_path, name):
    write_image(tmp_path / "a.png")
    (tmp_path / name).write_text(POINTS)
    assert len(read_fields(tmp_path)[0].x) == POINTS.count("\n") - 1


def test_images_without_labels_are_logged(tmp_path, caplog):
    for name in "abc":
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "a.csv").write_text(POINTS)
    assert len(read_fields(tmp_path)) == 1
    assert f"2 of 3 images have no labels, such as {tmp_path / 'b.png'}" in caplog.text


# --- scale ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.17, 0.34, 0.68])
def test_at_scale_keeps_nuclei_at_their_positions(mpp):
    v, u = np.mgrid[:120, :160]
    x, y = np.array([40.25, 100.0], np.float32), np.array([30.5, 80.0], np.float32)
    dark = sum(np.exp(-((u - a) ** 2 + (v - b) ** 2) / 50) for a, b in zip(x, y, strict=True))
    pixels = np.repeat(np.rint(240 - 200 * dark)[..., None], 3, axis=2).astype(np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[:60] = True
    field = LabelledField.simulated(pixels, x, y, np.array([0, 1], np.uint8))
    field = dataclasses.replace(field, outlines=Outlines(unknown=np.array([[150.0, 110.0]])), _masks=[mask])
    field = dataclasses.replace(field, _regions=[(mask, mask)])
    scaled = field.at_scale(0.34, mpp)
    factor = 0.34 / mpp
    assert scaled.pixels().shape == (120 * factor, 160 * factor, 3)
    assert scaled.counted_mask().shape == scaled.regions()[0].shape == scaled.pixels().shape[:2]
    assert scaled.counted_mask().mean() == mask.mean()
    assert scaled.frame().mpp in (mpp, None)
    weight = 240.0 - scaled.pixels()[..., 0]
    columns = np.arange(weight.shape[1])
    top = slice(0, round(60 * factor))
    found = (weight[top] @ columns).sum() / weight[top].sum()
    assert found == pytest.approx(scaled.x[0], abs=0.2 * factor)
    assert field.at_scale(None, 0.34) is field


def test_at_scale_names_a_field_that_is_too_small():
    nothing = np.empty(0, np.float32)
    field = LabelledField.simulated(np.zeros((40, 40, 3), np.uint8), nothing, nothing, np.empty(0, np.uint8))
    with pytest.raises(KinetError, match="simulated: too small"):
        field.at_scale(0.1, 0.34)


# --- regions in a file of their own -----------------------------------------------------------------------------------


def write_regions(path, **squares):
    """Write GeoJSON squares: class=(left, top, side)."""
    features = []
    for name, (left, top, side) in squares.items():
        right, bottom = left + side, top + side
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_regions_beside_an_image_add_to_its_nuclei(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text(POINTS)
    write_image(tmp_path / "b.png")
    write_regions(tmp_path / "a.regions.geojson", Tumor=(0, 0, 10), Stroma=(10, 10, 10), Blood=(22, 0, 8))
    write_regions(tmp_path / "b.regions.geojson", Tumor=(0, 0, 10))
    a, b = read_fields(tmp_path)
    assert (len(a.x), a.labelled) == (2, ("positive", "non_tumor"))
    tumor, known = a.regions()
    assert (tumor[5, 5], known[5, 5]) == (True, True)
    assert (tumor[15, 15], known[15, 15]) == (False, True)
    assert (known[5, 15], known[4, 26]) == (False, False)
    assert (a.empty_mask()[4, 26], a.empty_mask()[15, 15]) == (True, False)
    assert (len(b.x), b.labelled) == (0, ())  # regions do not imply that there are no nuclei


def test_regions_follow_a_part_and_a_scale(tmp_path):
    write_image(tmp_path / "a.png", size=(40, 60))
    (tmp_path / "a.csv").write_text(POINTS)
    write_regions(tmp_path / "a.regions.geojson", Glass=(30, 10, 20), Tumor=(0, 0, 20))
    (field,) = read_fields(tmp_path)
    part = field.part(25, 45)
    assert part.empty_mask().shape == (40, 20)
    assert (part.empty_mask()[20, 3], part.empty_mask()[20, 7], part.empty_mask()[33, 7]) == (False, True, False)
    twice = field.at_scale(0.5, 0.25)
    assert twice.empty_mask().shape == (80, 120)
    assert (twice.empty_mask()[40, 56], twice.empty_mask()[40, 64], twice.empty_mask()[66, 64]) == (False, True, False)


def test_with_regions_finds_files_by_name(tmp_path, caplog):
    for name in ("a", "b"):
        write_image(tmp_path / "fields" / f"{name}.png")
        (tmp_path / "fields" / f"{name}.csv").write_text(POINTS)
    write_regions(tmp_path / "drawn" / "site 1" / "a.geojson", Tumor=(0, 0, 10))
    caplog.set_level("INFO")
    a, b = with_regions(read_fields(tmp_path / "fields"), tmp_path / "drawn")
    assert a.regions()[0][5, 5]
    assert b.regions() is None
    assert "1 of 2 fields have regions" in caplog.text


def test_with_regions_replaces_a_region_map_and_keeps_other_areas(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text(POINTS)
    write_regions(tmp_path / "drawn" / "a.regions.geojson", Tumor=(0, 0, 10), **{"Ignore*": (10, 0, 10)})
    (field,) = read_fields(tmp_path)
    (drawn,) = with_regions([dataclasses.replace(field, region_map=tmp_path / "gone.png")], tmp_path / "drawn")
    assert drawn.regions()[0][5, 5]
    assert (drawn.counted_mask()[5, 15], drawn.counted_mask()[15, 15]) == (False, True)


def test_with_regions_refuses_files_of_no_field_or_of_two(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text(POINTS)
    fields = read_fields(tmp_path)
    write_regions(tmp_path / "drawn" / "c.geojson", Tumor=(0, 0, 10))
    with pytest.raises(KinetError, match=r"no regions found\. Expected NAME\.geojson for a field, such as a\.geojson"):
        with_regions(fields, tmp_path / "drawn")
    for site in "12":
        write_regions(tmp_path / "drawn" / site / "a.geojson", Tumor=(0, 0, 10))
    with pytest.raises(KinetError, match="expected one file of regions and one field a"):
        with_regions(fields, tmp_path / "drawn")


def test_regions_of_another_image_are_refused(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text(POINTS)
    write_regions(tmp_path / "a.regions.geojson", Tumor=(100, 100, 400))
    with pytest.raises(KinetError, match="5 of the 5 corners of its regions lie outside of its 32 x 24 px"):
        read_fields(tmp_path)[0].pixels()
