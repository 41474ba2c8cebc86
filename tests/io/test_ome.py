"""OME-XML of several programs."""

from __future__ import annotations

import pytest

from kinet_trt.io.ome import is_ome, read_ome


def ome(pixels="", *, prefix="", image="Name='tissue'", inside=""):
    space = f"xmlns{':' + prefix if prefix else ''}='http://www.openmicroscopy.org/Schemas/OME/2016-06'"
    p = f"{prefix}:" if prefix else ""
    return (
        f"<?xml version='1.0' encoding='UTF-8'?><!-- a comment --><{p}OME {space}><{p}Image ID='Image:0' {image}>"
        f"<{p}Pixels ID='Pixels:0' SizeX='80' SizeY='60' SizeC='3' SizeZ='2' SizeT='5' {pixels}>"
        f"<{p}Channel ID='Channel:0:0' Name='Red' Color='-16776961'/>{inside}</{p}Pixels></{p}Image></{p}OME>"
    )


@pytest.mark.parametrize(
    ("pixels", "mpp"),
    [
        ("PhysicalSizeX='0.25' PhysicalSizeY='0.5'", (0.25, 0.5)),
        ("PhysicalSizeX='250' PhysicalSizeY='250' PhysicalSizeXUnit='nm' PhysicalSizeYUnit='nm'", (0.25, 0.25)),
        ("PhysicalSizeX='.25' PhysicalSizeXUnit='&#181;m' PhysicalSizeY='2.5e-5' PhysicalSizeYUnit='cm'", (0.25, 0.25)),
        ("PhysicalSizeX='2500' PhysicalSizeXUnit='Å' PhysicalSizeY='0.25' PhysicalSizeYUnit='μm'", (0.25, 0.25)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "ome"])
def test_read_ome_reads_pixel_sizes_in_any_unit_quotes_and_prefix(pixels, mpp, prefix):
    for text in (ome(pixels, prefix=prefix), ome(pixels, prefix=prefix).replace("'", '"')):
        assert is_ome(text)
        (image,) = read_ome(text).images
        assert image.mpp == pytest.approx(mpp)
        assert image.unused is None
        assert (image.name, image.width, image.height, image.channels, image.planes) == ("tissue", 80, 60, ("Red",), 10)


def test_read_ome_returns_bits_and_colours_if_stated():
    (image,) = read_ome(ome("SignificantBits='12'")).images
    assert image.significant_bits == 12
    (image,) = read_ome(ome("SignificantBits='many'").replace("Color='-16776961'", "")).images
    assert image.significant_bits is None


def test_read_ome_names_a_size_that_is_not_used():
    unknown = "PhysicalSizeX='3' PhysicalSizeXUnit='furlong' PhysicalSizeY='3' PhysicalSizeYUnit='furlong'"
    (image,) = read_ome(ome(unknown)).images
    assert image.mpp is None
    assert image.unused == "states a pixel size of 3 furlong, a unit that is not known"
    for value in ("0", "-1", "nan", "inf", "wide"):
        (image,) = read_ome(ome(f"PhysicalSizeX='{value}' PhysicalSizeY='0.25'")).images
        assert image.mpp is None
        assert f"'{value}', which is not a positive number" in image.unused
    (image,) = read_ome(ome("PhysicalSizeX='0.25'")).images
    assert image.unused == "states a pixel size for one axis only"
    for silent in ("", "PhysicalSizeX='1' PhysicalSizeXUnit='pixel' PhysicalSizeY='1' PhysicalSizeYUnit='pixel'"):
        (image,) = read_ome(ome(silent)).images
        assert (image.mpp, image.unused) == (None, None)


def test_read_ome_returns_size_and_files_of_each_image():
    second = ome(
        "PhysicalSizeX='0.25' PhysicalSizeY='0.25'",
        image="Name='field'",
        inside="<TiffData><UUID FileName='b.tif'>x</UUID></TiffData>",
    )
    first = ome(
        "PhysicalSizeX='1' PhysicalSizeY='1'",
        image="Name='overview'",
        inside="<TiffData><UUID FileName='a.tif'>y</UUID></TiffData>" * 2,
    )
    joined = first.replace("</OME>", "") + second[second.index("<Image") :]
    images = read_ome(joined).images
    assert [(image.name, image.mpp, image.files) for image in images] == [
        ("overview", (1, 1), ("a.tif",)),
        ("field", (0.25, 0.25), ("b.tif",)),
    ]
    only = "<OME xmlns='http://x'><BinaryOnly MetadataFile='set.companion.ome' UUID='urn:uuid:1'/></OME>"
    assert read_ome(only).companion == "set.companion.ome"
    assert read_ome(only).images == ()


def test_is_ome_and_read_ome_refuse_other_text():
    for text in ("", "ImageJ=1.53", "a <b>OMEN</b>", "<HOME/>"):
        assert not is_ome(text)
    for text in ("<OME", "<OME></OMR>", ome("SizeQ='1'").replace("SizeX='80'", "SizeX='wide'")):
        with pytest.raises(ValueError, match=r"not well-formed|wide"):
            read_ome(text)
    with pytest.raises(ValueError, match="document type"):
        read_ome('<!DOCTYPE x [<!ENTITY a "b">]><OME>&a;</OME>')
