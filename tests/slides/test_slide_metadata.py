"""The picture that is read of several, its own pixel size, and true reasons where none is read."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
import tifffile

from kinet_trt.core.errors import ImageError
from kinet_trt.slides.readers.main_image import is_aside
from kinet_trt.slides.slide import is_slide, open_slide
from simulated_slides import Canvas, Piece, write_zarr

CANVAS = Canvas(512, 384, (Piece(20, 30, 200, 180, 3),), mpp=0.25)
WHOLE = CANVAS.region(0, 0, 512, 384)
SMALL = cv2.resize(WHOLE, (128, 96), interpolation=cv2.INTER_AREA)


def sized(mpp, name="", unit="µm"):
    sizes = {f"PhysicalSize{axis}": mpp for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    return {"axes": "YXS", **sizes, **({"Name": name} if name else {})}


def write_ome(path, *pictures):
    with tifffile.TiffWriter(path, ome=True) as file:
        for pixels, metadata in pictures:
            file.write(pixels, tile=(128, 128), photometric="rgb", metadata=metadata)
    return path


def test_the_pixel_size_is_that_of_the_picture_that_is_read(tmp_path):
    overview = SMALL, sized(1.0, "overview")
    field = WHOLE, sized(0.25, "field")
    for pictures in ((overview, field), (field, overview), ((SMALL, sized(9.0)), field, (SMALL.copy(), sized(2.0)))):
        with open_slide(write_ome(tmp_path / "a.ome.tif", *pictures)) as slide:
            assert (slide.width, slide.mpp, slide.remarks) == (512, 0.25, ())
            np.testing.assert_array_equal(slide.read(0, 0, 0, 512, 384), WHOLE)
    # Two pictures of one size: the first, and a word on the other.
    with open_slide(write_ome(tmp_path / "b.ome.tif", field, (WHOLE[::-1].copy(), sized(0.5, "other")))) as slide:
        assert slide.mpp == 0.25
        np.testing.assert_array_equal(slide.read(0, 0, 0, 512, 384), WHOLE)


def test_another_picture_that_may_hold_tissue_is_named(tmp_path):
    second = WHOLE[:300, :300].copy(), sized(0.25, "scene 2")
    with open_slide(write_ome(tmp_path / "a.ome.tif", (WHOLE, sized(0.25, "scene 1")), second)) as slide:
        (remark,) = slide.remarks
    assert remark.startswith("The file contains 2 images; the largest (512 x 384 px) was counted, 1 not (300 x 300 px)")


def test_what_is_called_a_label_is_not_read_even_where_it_is_largest(tmp_path):
    large = np.zeros((600, 700, 3), np.uint8)
    with open_slide(write_ome(tmp_path / "a.ome.tif", (large, sized(1, "label image")), (WHOLE, sized(0.25)))) as slide:
        assert (slide.width, slide.mpp, slide.remarks) == (512, 0.25, ())
    assert all(map(is_aside, ("Label", "macro image", "slide_thumbnail", "overview", "0: thumb")))
    assert not any(map(is_aside, ("", "macrophages", "unlabelled", "Series 0")))


@pytest.mark.parametrize(("unit", "um"), [("nm", 1e-3), ("Å", 1e-4), ("cm", 1e4), ("\u03bcm", 1), ("in", 25_400)])
def test_every_unit_of_length_is_known(tmp_path, unit, um):
    with open_slide(write_ome(tmp_path / "a.ome.tif", (WHOLE, sized(0.25 / um, unit=unit)))) as slide:
        assert slide.mpp == pytest.approx(0.25)


def test_a_stated_size_that_is_not_used_is_named(run, tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", (WHOLE, sized(0.5, unit="reference frame")))
    with open_slide(path) as slide:
        assert (slide.mpp, slide.unused_size) == (None, None)
    # Unknown to OME's schema too, so written as other programs write it.
    text = (
        "<OME><Image Name='a'><Pixels DimensionOrder='XYCZT' SizeX='512' SizeY='384' SizeC='3' SizeZ='1' SizeT='1' "
        "PhysicalSizeX='3' PhysicalSizeXUnit='furlong'><Channel SamplesPerPixel='3'/><TiffData/></Pixels></Image></OME>"
    )
    tifffile.imwrite(path, WHOLE, tile=(128, 128), photometric="rgb", description=text.encode(), metadata=None)
    with open_slide(path) as slide:
        assert slide.unused_size == "states a pixel size of 3 furlong, a unit that is not known"
    zarr = write_zarr(tmp_path / "a.zarr", CANVAS)
    edit(zarr, lambda about: about["axes"][2].update(unit="parsnip"))
    code, _, err = run("count", zarr)
    assert code == 1
    assert "a.zarr: the file states a pixel size of 0.25 parsnip, a unit that is not known" in err
    assert "mpp" in err
    code, _, err = run("count", write_zarr(tmp_path / "b.zarr", Canvas(512, 384, (), mpp=40.0)))
    assert code == 1
    assert "states 40 x 40 µm/px (635 dpi), expected 0.05 to 5 µm/px of a microscope" in err


def edit(path, change):
    head = json.loads((path / ".zattrs").read_text())
    change(head["multiscales"][0])
    (path / ".zattrs").write_text(json.dumps(head))


@pytest.mark.parametrize(
    ("unit", "um"), [("centimeter", 1e4), ("angstrom", 1e-4), ("inch", 25_400), ("µm", 1), ("micron", 1)]
)
def test_a_zarr_states_its_size_in_any_unit(tmp_path, unit, um):
    path = write_zarr(tmp_path / "a.zarr", CANVAS, downsamples=(1,))

    def change(about):
        for axis in about["axes"][1:]:
            axis["unit"] = unit
        about["datasets"][0]["coordinateTransformations"][0]["scale"][1:] = [0.25 / um] * 2

    edit(path, change)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)


def group(path, **attributes):
    path.mkdir(exist_ok=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps(attributes))
    return path


def test_a_plate_a_well_and_a_folder_of_images_say_what_to_name(tmp_path):
    plate = group(tmp_path / "plate.zarr", plate={"wells": [{"path": "B/2"}, {"path": "B/3"}]})
    group(plate / "B")
    well = group(plate / "B" / "2", well={"images": [{"path": "7"}]})
    image = write_zarr(well / "7", CANVAS)
    several = group(tmp_path / "several.zarr")
    for name in ("x", "y"):
        write_zarr(several / name, CANVAS)
    for path, why, named in (
        (plate, "a plate of 2 wells", plate / "B" / "2" / "0"),
        (well, "a well of a plate", image),
        (plate / "B", "a row of a plate", plate / "B" / "2" / "0"),
        (several, "a folder of 2 images", several / "x"),
    ):
        assert is_slide(path)
        with pytest.raises(ImageError) as told:
            open_slide(path)
        assert str(told.value).startswith(why)
        assert f": name one of them, e.g. {named}" in str(told.value).replace("its images", "them")
    with open_slide(image) as slide:
        assert slide.width == 512
    with pytest.raises(ImageError, match="without the metadata of OME-Zarr"):
        open_slide(group(tmp_path / "other.zarr"))


def test_of_a_collection_the_largest_image_is_read(tmp_path):
    path = group(tmp_path / "slide.zarr", **{"bioformats2raw.layout": 3})
    write_zarr(path / "0", Canvas(128, 96, (), mpp=1.0), downsamples=(1,))
    write_zarr(path / "1", CANVAS)
    label = write_zarr(path / "2", Canvas(700, 600, (), mpp=1.0), downsamples=(1,))
    edit(label, lambda about: about.update(name="label image"))
    with open_slide(path) as slide:
        assert (slide.width, slide.mpp, slide.remarks) == (512, 0.25, ())
        np.testing.assert_array_equal(slide.read(0, 0, 0, 512, 384), WHOLE)
    write_zarr(path / "3", Canvas(400, 384, (), mpp=0.25), downsamples=(1,))
    with open_slide(path) as slide:
        (remark,) = slide.remarks
    assert "the largest (512 x 384 px) was counted, 1 not (400 x 384 px)" in remark


def test_a_pyramid_that_does_not_mark_its_levels_is_one(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for pixels in (WHOLE, cv2.resize(WHOLE, (256, 192), interpolation=cv2.INTER_AREA), SMALL):
            file.write(
                pixels, tile=(128, 128), photometric="rgb", metadata=None, resolution=(40_000, 40_000), resolutionunit=3
            )
    assert is_slide(path)
    with open_slide(path) as slide:
        assert [level.width for level in slide.levels] == [512, 256, 128]
        assert slide.mpp == pytest.approx(0.25)
        np.testing.assert_array_equal(slide.read(2, 0, 0, 128, 96), SMALL)
    # Pages of other shapes are other pictures.
    with tifffile.TiffWriter(path) as file:
        for pixels in (WHOLE, WHOLE[:200, :100].copy()):
            file.write(pixels, tile=(128, 128), photometric="rgb", metadata=None)
    assert not is_slide(path)


def test_a_scanner_s_tiff_is_a_slide_by_its_maker(tmp_path):
    said = "Aperio Image Library v11.2.1\r\n512x384 [0,0 512x384] (128x128) J2K/KDU Q=70|AppMag = 40|MPP = 0.25"
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, WHOLE, tile=(128, 128), photometric="rgb", description=said, metadata=None)
    assert is_slide(path)
    with open_slide(path) as slide:
        assert slide.format.startswith("aperio")
        assert slide.mpp == 0.25


def test_three_grey_planes_are_colours_only_where_they_may_be(tmp_path):
    planes = np.ascontiguousarray(WHOLE.transpose(2, 0, 1))
    for name, axes, metadata in (
        ("c.ome.tif", "CYX", {"Channel": {"Name": ["DAPI", "FITC", "Cy3"]}}),
        ("plain.tif", None, None),
        ("z.ome.tif", "ZYX", {}),
        ("t.ome.tif", "TYX", {}),
    ):
        options = {"metadata": {"axes": axes, **metadata}} if axes else {"metadata": None}
        tifffile.imwrite(tmp_path / name, planes, tile=(128, 128), photometric="minisblack", **options)
    for name, channels in (("c.ome.tif", r" \(DAPI, FITC, Cy3\)"), ("plain.tif", "")):
        with open_slide(tmp_path / name) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 0, 512, 384), WHOLE)
            (remark,) = slide.remarks
            assert re.fullmatch(rf"The file contains three grey planes{channels}; they were read as .*", remark)
    names = {"metadata": {"axes": "CYX", "Channel": {"Name": ["B", "G", "R"]}}}
    tifffile.imwrite(tmp_path / "bgr.ome.tif", planes[::-1], tile=(128, 128), photometric="minisblack", **names)
    with open_slide(tmp_path / "bgr.ome.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 512, 384), WHOLE)
        assert slide.remarks == ()
    for name in ("z.ome.tif", "t.ome.tif"):
        with pytest.raises(ImageError, match="a stack of 3 grey planes"):
            open_slide(tmp_path / name)


def test_a_compression_that_is_not_read_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, WHOLE, tile=(128, 128), photometric="rgb", compression="zlib", metadata=None)
    for code, name in ((34661, "JBIG"), (59_999, "59999")):
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags["Compression"].overwrite(code)
        with pytest.raises(ImageError, match=rf"^TIFF with {name} compression, which is not supported: export"):
            open_slide(path)


def test_a_slide_that_no_reader_opens_is_not_taken_for_a_picture(tmp_path):
    """A .vsi is a TIFF of the label and an overview; the slide lies in a folder beside it."""
    path = tmp_path / "a.vsi"
    tifffile.imwrite(path, WHOLE, photometric="rgb")
    assert is_slide(path)
    with pytest.raises(ImageError, match=r"^an Olympus VSI slide, which is not read: export it as OME-TIFF"):
        open_slide(path)
