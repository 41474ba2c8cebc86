"""A slide of several files is one slide: in a folder, named by hand, and for the tiles that are kept of it."""

from __future__ import annotations

import json
import shutil

import cv2
import dicom_slides
import numpy as np
import pytest
import tifffile
from dicom_slides import write_other, write_series

from kinet_trt.core.errors import ImageError
from kinet_trt.counting.find import find_images
from kinet_trt.slides.slide import is_slide, open_slide
from simulated_slides import Canvas, Piece, write_zarr

CANVAS = Canvas(512, 400, (Piece(20, 30, 200, 180, 3),), mpp=0.25)
WHOLE = CANVAS.region(0, 0, 512, 400)


def listed(*paths):
    return find_images(list(paths), slides=True)


def near(a, b, most=3.0):
    return np.abs(a.astype(int) - b).mean() < most


@pytest.mark.parametrize("suffix", [".dcm", "", ".42"])
def test_a_dicom_series_is_one_slide_whatever_is_named_of_it(tmp_path, suffix):
    folder = tmp_path / "slide"
    label, volume, small = write_series(folder, WHOLE, suffix=suffix)
    assert listed(folder) == [volume]
    assert listed(label, volume, small) == [volume]
    assert listed(small, volume, folder) == [small]
    assert listed(label) == [volume]
    assert listed(folder / "*") == [volume]
    marks = set()
    for path in (label, volume, small):
        assert is_slide(path)
        with open_slide(path) as slide:
            assert (slide.width, slide.height, slide.mpp) == (512, 400, 0.25)
            assert near(slide.read(0, 0, 0, 512, 400), WHOLE)
            marks.add(slide.fingerprint)
    assert len(marks) == 1
    copy = shutil.copytree(folder, tmp_path / "copy")
    with open_slide(copy / small.name) as slide:
        assert slide.fingerprint in marks
    # Two slides in one folder, and what a viewer keeps beside them.
    other = write_series(tmp_path / "other", WHOLE[:, ::-1], suffix=suffix)
    for path in other:
        shutil.copy(path, folder / f"b{path.name}")
    (folder / "notes.txt").write_text("nothing")
    assert listed(folder) == [volume, folder / f"b{volume.name}"]
    with open_slide(folder / f"b{volume.name}") as slide:
        assert slide.fingerprint not in marks


def test_a_dicom_file_that_is_no_slide_is_named_as_what_it_is(tmp_path):
    label, *_ = write_series(tmp_path / "slide", WHOLE)
    shutil.copy(label, tmp_path / "label.dcm")
    (tmp_path / "empty.dcm").write_bytes(bytes(128) + b"DICM" + bytes(200))
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    write_other(tmp_path / "ct.dcm")
    write_other(tmp_path / "photo", "1.2.840.10008.5.1.4.1.1.77.1.4")
    for name, why in (
        ("ct.dcm", "^DICOM, but a CT image: not a whole slide$"),
        ("photo", "^DICOM, but a VL Photographic image: not a whole slide$"),
        ("empty.dcm", "^DICOM, but not a whole slide: it does not state what it contains$"),
        ("label.dcm", "^DICOM, but only the label or overview of a slide: put the files of the whole series"),
        ("text.dcm", "not a TIFF"),
    ):
        assert is_slide(tmp_path / name)
        with pytest.raises(ImageError, match=why):
            open_slide(tmp_path / name)
    # A series of a hundred CT images is one line; the label and the index of a disc are none.
    write_other(tmp_path / "ct2.dcm")
    write_other(tmp_path / "DICOMDIR", "1.2.840.10008.1.3.10", "")
    assert [path.name for path in listed(tmp_path)] == ["ct.dcm", "empty.dcm", "text.dcm"]


def test_a_compression_that_openslide_does_not_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_slides, "_JPEG", "1.2.840.10008.1.2.4.80")
    with pytest.raises(ImageError, match=r"^OpenSlide does not read .* transfer syntax JPEG-LS .*: export it"):
        open_slide(write_series(tmp_path / "slide", WHOLE)[1])


def vms(folder, pixels):
    folder.mkdir()
    for name, image in (("case", pixels), ("case_map", pixels[::8, ::8]), ("case_macro", pixels[::8, ::8])):
        full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        cv2.imwrite(str(folder / f"{name}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 8, *full_colour])
    (folder / "case.vms").write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=case.jpg\n"
        "MapFile=case_map.jpg\nMacroImage=case_macro.jpg\nPhysicalWidth=128000\nPhysicalHeight=128000\n"
        "PhysicalMacroWidth=1\nPhysicalMacroHeight=1\nSourceLens=40\n"
    )
    return folder / "case.vms"


def test_what_an_index_names_is_part_of_its_slide(tmp_path):
    square = np.ascontiguousarray(np.pad(WHOLE, ((0, 112), (0, 0), (0, 0)), constant_values=241))
    index = vms(tmp_path / "a", square)
    cv2.imwrite(str(tmp_path / "a" / "field.png"), WHOLE)
    assert listed(tmp_path / "a") == [index, tmp_path / "a" / "field.png"]
    assert listed(*sorted((tmp_path / "a").iterdir())) == [index, tmp_path / "a" / "field.png"]
    assert listed(tmp_path / "a" / "case_macro.jpg") == [index]
    # A second slide's index may be the same to the letter: its pixels tell it apart.
    other = vms(tmp_path / "b", np.ascontiguousarray(square[:, ::-1]))
    assert other.read_text() == index.read_text()
    with open_slide(index) as first, open_slide(other) as second:
        assert (first.width, first.mpp) == (512, 0.25)
        assert near(first.read(0, 0, 0, 512, 400), WHOLE, 8)
        assert first.fingerprint != second.fingerprint


def test_a_set_of_ndpi_files_and_the_folder_of_a_mrxs_are_listed_once(tmp_path):
    for name in ("a.ndpi", "b.ndpi", "c.ndpi"):
        (tmp_path / name).write_bytes(b"x")
    index = tmp_path / "set.ndpis"
    index.write_text("[NanoZoomer Digital Pathology Image Set]\r\nNoImages=2\r\nImage0=A.ndpi\r\nImage1=b.ndpi\r\n")
    assert listed(tmp_path) == [tmp_path / "c.ndpi", index]
    assert listed(tmp_path / "a.ndpi") == [tmp_path / "a.ndpi"]
    with pytest.raises(ImageError, match=r"a set of 2 NDPI files, .*name the file to count"):
        open_slide(index)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "Slidedat.ini").write_text("[GENERAL]")
    (tmp_path / "m.mrxs").write_bytes(b"")
    assert listed(tmp_path / "m", tmp_path / "m.mrxs") == [tmp_path / "m.mrxs"]


def test_a_link_is_the_file_that_it_leads_to(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), WHOLE)
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert listed(tmp_path) == [tmp_path / "a.png"]


def test_a_pattern_does_not_look_into_a_zarr(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", CANVAS)
    assert listed(tmp_path / "**") == [path]


UUIDS = [f"urn:uuid:{n}0000000-0000-0000-0000-000000000000" for n in range(1, 5)]


def ome(images, own=""):
    """Return OME-XML; of each image its name, channels, and the files of its planes with their channel."""
    text = f"<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06' UUID='{own}'>"
    for n, (name, channels, planes) in enumerate(images):
        text += (
            f"<Image ID='Image:{n}' Name='{name}'><Pixels ID='Pixels:{n}' DimensionOrder='XYCZT' Type='uint8' "
            f"SizeX='512' SizeY='400' SizeC='3' SizeZ='1' SizeT='1' PhysicalSizeX='0.25' PhysicalSizeY='0.25'>"
        )
        for c, channel in enumerate(channels):
            samples = "" if len(channels) > 1 else "SamplesPerPixel='3'"
            text += f"<Channel ID='Channel:{n}:{c}' Name='{channel}' {samples}/>"
        for c, (file, uuid) in enumerate(planes):
            text += (
                f"<TiffData FirstC='{c}' FirstZ='0' FirstT='0' IFD='0' PlaneCount='1'>"
                f"<UUID FileName='{file}'>{uuid}</UUID></TiffData>"
            )
        text += "</Pixels></Image>"
    return text + "</OME>"


def ome_set(folder, channels=("Red", "Green", "Blue"), companion=False):
    """Write R, G and B into files of their own, in the order of the channels."""
    folder.mkdir()
    names = [f"c{n}.ome.tif" for n in range(3)]
    described = [("tissue", channels, list(zip(names, UUIDS, strict=False)))]
    for n, name in enumerate(names):
        text = ome(described, UUIDS[n])
        if companion:
            text = (
                "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06' "
                f"UUID='{UUIDS[n]}'><BinaryOnly MetadataFile='set.companion.ome' UUID='{UUIDS[3]}'/></OME>"
            )
        plane = np.ascontiguousarray(WHOLE[..., ("Red", "Green", "Blue").index(channels[n])])
        tifffile.imwrite(folder / name, plane, tile=(128, 128), description=text.encode(), metadata=None)
    if companion:
        (folder / "set.companion.ome").write_text(ome(described, UUIDS[3]))
    return [folder / name for name in names]


@pytest.mark.parametrize("companion", [False, True])
def test_an_ome_tiff_of_several_files_is_one_slide(tmp_path, companion):
    files = ome_set(tmp_path / "set", companion=companion)
    assert listed(tmp_path / "set") == files[:1]
    assert listed(files[2], files[1]) == files[:1]
    named = [*files, tmp_path / "set" / "set.companion.ome"] if companion else files
    assert listed(*reversed(named)) == files[:1]
    for path in named:
        assert is_slide(path)
        with open_slide(path) as slide:
            assert (slide.mpp, slide.unused_size, slide.remarks) == (0.25, None, ())
            np.testing.assert_array_equal(slide.read(0, 100, 50, 400, 300), WHOLE[50:350, 100:500])
            mark = slide.fingerprint
    # Another blue is another slide.
    with tifffile.TiffFile(files[2]) as file:
        text = file.pages[0].description.encode()
    tifffile.imwrite(files[2], 255 - WHOLE[..., 2].copy(), tile=(128, 128), metadata=None, description=text)
    with open_slide(files[0]) as slide:
        assert slide.fingerprint != mark
    files[1].unlink()
    with pytest.raises(ImageError, match="missing"):
        open_slide(files[0])


def test_colours_are_taken_by_their_names(tmp_path):
    (first, *_) = ome_set(tmp_path / "set", ("Blue", "Green", "Red"))
    with open_slide(first) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 512, 400), WHOLE)


def test_files_that_describe_each_other_and_hold_a_picture_each_are_several(tmp_path):
    """Micro-Manager writes every position's name into the metadata of every position's file."""
    described = [(f"Pos{n}", ("RGB",), [(f"p{n}.ome.tif", UUIDS[n])]) for n in range(2)]
    pictures = WHOLE, np.ascontiguousarray(WHOLE[::-1])
    for n, pixels in enumerate(pictures):
        text = ome(described, UUIDS[n]).encode()
        path = tmp_path / f"p{n}.ome.tif"
        tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", description=text, metadata=None)
    assert [path.name for path in listed(tmp_path)] == ["p0.ome.tif", "p1.ome.tif"]
    for n, pixels in enumerate(pictures):
        with open_slide(tmp_path / f"p{n}.ome.tif") as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 0, 512, 400), pixels)
            assert slide.remarks == ()


def test_the_command_counts_a_series_once_and_says_why_a_plate_is_none(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = write_series(tmp_path / "slide", WHOLE)
    code, out, err = run("count", tmp_path / "slide", *files, "--json", "-")
    assert code == 0, err
    (field,) = json.loads(out)["fields"]
    assert field["image"] == str(files[1])
    write_other(tmp_path / "ct.dcm")
    code, _, err = run("count", tmp_path / "ct.dcm")
    assert code == 1
    assert err.strip().endswith("ct.dcm: DICOM, but a CT image: not a whole slide")
