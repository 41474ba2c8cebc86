"""Image files of all supported kinds."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import unicodedata
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kinet_trt.core.errors import ImageError
from kinet_trt.io.images import SUFFIXES, read_image
from kinet_trt.simulation import simulate

HEIGHT, WIDTH = 40, 60


def smooth(seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


RGB = smooth()
GREY = RGB[..., 0]


def encoded(pixels, kind, mode=None, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels, mode)
    image.save(file, kind, **options)
    return file.getvalue()


def encoded_deep(rgb16, suffix):
    bgr = rgb16 if rgb16.ndim == 2 else rgb16[..., [2, 1, 0, 3][: rgb16.shape[2]]]
    return cv2.imencode(suffix, bgr)[1].tobytes()


def tiff(pixels, tags=(), *, order="<", planes=False):
    """Return a minimal TIFF with one strip per plane; tags are (number, type, count, value bytes)."""
    height, width, channels = pixels.shape
    data = (pixels.transpose(2, 0, 1) if planes else pixels).astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = channels if planes else 1
    size = len(data) // strips

    def short(*values):
        return struct.pack(f"{order}{len(values)}H", *values)

    def long(*values):
        return struct.pack(f"{order}{len(values)}I", *values)

    entries = [
        (256, 3, 1, short(width)),
        (257, 3, 1, short(height)),
        (258, 3, channels, short(*[8 * pixels.itemsize] * channels)),
        (259, 3, 1, short(1)),
        (262, 3, 1, short(2 if channels >= 3 else 1)),
        (273, 4, strips, long(*[8 + i * size for i in range(strips)])),
        (277, 3, 1, short(channels)),
        (278, 3, 1, short(height)),
        (279, 4, strips, long(*[size] * strips)),
        (284, 3, 1, short(2 if planes else 1)),
        *tags,
    ]
    entries.sort()
    directory = 8 + len(data)
    extra_at = directory + 2 + 12 * len(entries) + 4
    table, extra = short(len(entries)), b""
    for number, kind, count, value in entries:
        if len(value) > 4:
            field, extra = long(extra_at + len(extra)), extra + value + b"\0" * (len(value) % 2)
        else:
            field = value.ljust(4, b"\0")
        table += struct.pack(f"{order}HHI", number, kind, count) + field
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + long(directory) + data + table + long(0) + extra


def text_tag(number, text):
    value = text.encode() + b"\0"
    return (number, 2, len(value), value)


def resolution_tags(per_unit, unit, per_unit_y=None):
    def rational(value):
        return struct.pack("<2I", round(value * 1000), 1000)

    return [
        (282, 5, 1, rational(per_unit)),
        (283, 5, 1, rational(per_unit if per_unit_y is None else per_unit_y)),
        (296, 3, 1, struct.pack("<H", unit)),
    ]


@pytest.fixture
def read(tmp_path):
    def write_and_read(data, name="field.png"):
        path = tmp_path / name
        path.write_bytes(data)
        return read_image(path)

    return write_and_read


# --- 8 bit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"compress_level": 0}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
    ],
)
def test_lossless_rgb_is_read_unchanged(read, kind, options):
    frame = read(encoded(RGB, kind, **options))
    np.testing.assert_array_equal(frame.pixels, RGB)
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.flags.c_contiguous
    assert frame.mpp is None


@pytest.mark.parametrize("options", [{"quality": 95, "subsampling": 0}, {"quality": 95, "progressive": True}])
def test_jpeg_is_read_in_rgb_order(read, options):
    pixels = read(encoded(RGB, "JPEG", **options)).pixels
    assert np.abs(pixels.astype(int) - RGB).mean() < 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_grey_becomes_three_equal_channels(read, kind):
    frame = read(encoded(GREY, kind))
    assert frame.is_grey
    assert np.abs(frame.pixels[..., 0].astype(int) - GREY).max() <= (20 if kind == "JPEG" else 0)


def test_one_bit_is_black_and_white(read):
    bits = Image.fromarray(GREY).convert("1")
    np.testing.assert_array_equal(read(encoded(bits, "PNG")).pixels[..., 0], np.asarray(bits) * np.uint8(255))


def test_palette_is_applied(read):
    indexed = Image.fromarray(RGB).quantize(64)
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(read(encoded(indexed, kind)).pixels, np.asarray(indexed.convert("RGB")))


GLASS = np.where(np.arange(WIDTH) < 20, 0, 255) * np.ones((HEIGHT, 1), np.uint8)
GLASS = GLASS.astype(np.uint8)


def with_alpha(pixels, alpha):
    return np.dstack([pixels, np.broadcast_to(alpha, pixels.shape[:2]).astype(pixels.dtype)])


def test_transparent_pixels_become_glass(read):
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read(encoded(with_alpha(RGB, 255), kind)).pixels, RGB)
        pixels = read(encoded(with_alpha(RGB, GLASS), kind)).pixels
        np.testing.assert_array_equal(pixels, np.where(GLASS[..., None] == 255, RGB, 255))
    half = read(encoded(with_alpha(np.zeros_like(RGB), 128), "PNG")).pixels
    assert np.abs(half.astype(int) - 127).max() <= 1
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GLASS)])
    assert (read(encoded(grey, "PNG")).pixels[GLASS == 0] == 255).all()


@pytest.mark.parametrize(
    "data",
    [
        encoded(with_alpha(RGB, 0), "PNG"),
        encoded(with_alpha(RGB, 0), "TIFF"),
        encoded_deep(with_alpha(RGB.astype(np.uint16) * 257, 0), ".png"),
    ],
)
def test_alpha_of_zero_everywhere_is_an_error(read, data):
    with pytest.raises(ImageError, match="every pixel is transparent"):
        read(data)


def test_transparent_palette_entry_or_colour_becomes_glass(read):
    indexed = Image.new("P", (WIDTH, HEIGHT), 1)
    indexed.putpalette([10, 20, 30, 200, 0, 0])
    indexed.paste(0, (0, 0, 30, HEIGHT))
    pixels = read(encoded(indexed, "PNG", transparency=1)).pixels
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, -1].tolist() == [255] * 3
    plain = np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8)
    plain[0, 0] = 9
    pixels = read(encoded(plain, "PNG", transparency=(1, 2, 3))).pixels
    assert pixels[0, 0].tolist() == [9] * 3
    assert (pixels[1:] == 255).all()


def test_cmyk_jpeg_is_converted(read):
    frame = read(encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=98))
    assert np.abs(frame.pixels.astype(int) - RGB).mean() < 6


def test_first_of_several_equal_pages_is_read(read):
    pages = [Image.fromarray(smooth(seed)) for seed in (1, 2)]
    np.testing.assert_array_equal(read(encoded(RGB, "TIFF", save_all=True, append_images=pages)).pixels, RGB)


def test_suffix_does_not_matter(read):
    for name in ("a.jpg", "a.TIF", "a"):
        np.testing.assert_array_equal(read(encoded(RGB, "PNG"), name).pixels, RGB)


# --- 16 bit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_colour_is_scaled_from_the_bits_that_the_camera_used(read, suffix, bits):
    top = 2**bits - 1
    deep = np.rint(RGB / 255 * top).astype(np.uint16)
    assert deep.max() == top
    np.testing.assert_array_equal(read(encoded_deep(deep, suffix)).pixels, RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_grey_of_16_bits_and_8_bit_values_in_16(read, suffix):
    frame = read(encoded_deep(GREY.astype(np.uint16) * 257, suffix))
    np.testing.assert_array_equal(frame.pixels, np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(read(encoded_deep(RGB.astype(np.uint16), suffix)).pixels, RGB)
    assert (read(encoded_deep(np.zeros((HEIGHT, WIDTH, 3), np.uint16), suffix)).pixels == 0).all()


def test_transparency_of_16_bits_becomes_glass(read):
    deep = RGB.astype(np.uint16) * 257
    np.testing.assert_array_equal(read(encoded_deep(with_alpha(deep, 65535), ".png")).pixels, RGB)
    pixels = read(encoded_deep(with_alpha(deep, GLASS.astype(np.uint16) * 257), ".png")).pixels
    np.testing.assert_array_equal(pixels, np.where(GLASS[..., None] == 255, RGB, 255))


def test_opaque_alpha_of_16_bits_does_not_darken_12_bits(read):
    deep = np.rint(RGB / 255 * 4095).astype(np.uint16)
    np.testing.assert_array_equal(read(encoded_deep(with_alpha(deep, 65535), ".png")).pixels, RGB)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("scale", [1, 257])
def test_tiff_of_either_byte_order(read, order, scale):
    pixels = RGB.astype(np.uint16) * 257 if scale == 257 else RGB
    np.testing.assert_array_equal(read(tiff(pixels, order=order), "a.tif").pixels, RGB)


def test_planar_tiff_of_8_bits(read):
    np.testing.assert_array_equal(read(tiff(RGB, planes=True), "a.tif").pixels, RGB)


def test_planar_tiff_of_16_bits_is_read_correctly_or_refused(read):
    # tifffile writes [3, height, width] like this
    try:
        pixels = read(tiff(RGB.astype(np.uint16) * 257, planes=True), "a.tif").pixels
    except ImageError:
        return
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize("scale", [1, 257])
def test_fourth_tiff_channel_is_not_alpha_unless_stated(read, scale):
    # ExtraSamples 0: unspecified
    pixels = with_alpha(RGB, 0) if scale == 1 else with_alpha(RGB.astype(np.uint16) * 257, 0)
    tags = [(338, 3, 1, struct.pack("<H", 0))]
    np.testing.assert_array_equal(read(tiff(pixels, tags), "a.tif").pixels, RGB)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_grey_of_32_bits_is_read(read, dtype):
    frame = read(encoded(Image.fromarray(GREY.astype(dtype)), "TIFF"), "a.tif")
    np.testing.assert_array_equal(frame.pixels[..., 1], GREY)


@pytest.mark.parametrize("white", [1, 255])
def test_float_rgb_tiff_is_read_and_its_range_named(read, white):
    tags = [(339, 3, 3, struct.pack("<3H", 3, 3, 3))]
    frame = read(tiff((RGB / 255 * white).astype(np.float32), tags), "a.tif")
    np.testing.assert_array_equal(frame.pixels, RGB)
    assert f"{white} (white)" in frame.remarks[0]


def test_lab_is_refused_because_it_is_not_brightfield_rgb(read):
    with pytest.raises(ImageError, match="CIELAB colours: save it as RGB"):
        read(encoded(Image.new("LAB", (WIDTH, HEIGHT)), "TIFF"), "a.tif")


# --- orientation: pixels as stored ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_rotation_is_not_applied(read, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    plain, turned = read(encoded(RGB, kind)), read(encoded(RGB, kind, exif=exif))
    np.testing.assert_array_equal(turned.pixels, plain.pixels)


@pytest.mark.parametrize("scale", [1, 257])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_tiff_orientation_is_not_applied(read, orientation, scale):
    # QuPath and ImageJ show the pixels as stored; coordinates must agree with them.
    pixels = RGB.astype(np.uint16) * 257 if scale == 257 else RGB
    frame = read(tiff(pixels, [(274, 3, 1, struct.pack("<H", orientation))]), "a.tif")
    np.testing.assert_array_equal(frame.pixels, RGB)


# --- um/px ------------------------------------------------------------------------------------------------------------


def test_png_phys_gives_um_per_px(read):
    assert read(encoded(RGB, "PNG", dpi=(25400 / 0.25,) * 2)).mpp == pytest.approx(0.25, rel=1e-4)


def test_jpeg_density_gives_um_per_px(read):
    data = bytearray(encoded(RGB, "JPEG", dpi=(300, 300)))
    jfif = data.index(b"JFIF\0")
    data[jfif + 7 : jfif + 12] = struct.pack(">BHH", 2, 20_000, 20_000)  # dots per cm
    assert read(bytes(data), "a.jpg").mpp == pytest.approx(0.5, rel=1e-3)
    data[jfif + 7 : jfif + 12] = struct.pack(">BHH", 1, 50_800, 50_800)  # dots per inch
    assert read(bytes(data), "a.jpg").mpp == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("unit", "um"), [(2, 25_400), (3, 10_000)])
@pytest.mark.parametrize("scale", [1, 257])
def test_tiff_resolution_gives_um_per_px(read, unit, um, scale):
    pixels = RGB.astype(np.uint16) * 257 if scale == 257 else RGB
    assert read(tiff(pixels, resolution_tags(um / 0.25, unit)), "a.tif").mpp == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {"dpi": (72, 72)}),
        ("JPEG", {"dpi": (300, 300)}),
        ("TIFF", {"dpi": (96, 96)}),
        ("BMP", {"dpi": (72, 72)}),
    ],
)
def test_printer_resolution_is_ignored(read, kind, options):
    frame = read(encoded(RGB, kind, **options))
    assert frame.mpp is None
    assert f"({options['dpi'][0]} dpi), expected 0.05 to 5 µm/px of a microscope" in frame.unused_size


@pytest.mark.parametrize("um", [0.04, 5.1, 1000])
def test_implausible_resolution_is_ignored(read, um):
    assert read(tiff(RGB, resolution_tags(25_400 / um, 2)), "a.tif").mpp is None


def test_mpp_is_none_for_pixels_that_are_not_square(read):
    frame = read(tiff(RGB, resolution_tags(40_000, 3, 30_000)), "a.tif")
    assert frame.mpp is None
    assert frame.unused_size == "states pixels of 0.25 x 0.3333 µm, expected square ones"
    frame = read(tiff(RGB, resolution_tags(40_000, 3, 39_900)), "a.tif")
    assert frame.mpp == pytest.approx(0.25, rel=0.01)
    assert frame.unused_size is None


@pytest.mark.parametrize("per_unit", [(0, 1), (0, 0), (1, 0), (0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_invalid_resolution_is_ignored(read, per_unit):
    tags = [(number, 5, 1, struct.pack("<2I", *per_unit)) for number in (282, 283)]
    for unit in (1, 2, 3, 9):
        frame = read(tiff(RGB, [*tags, (296, 3, 1, struct.pack("<H", unit))]), "a.tif")
        assert frame.mpp is None
        np.testing.assert_array_equal(frame.pixels, RGB)
    imagej = text_tag(270, "ImageJ=1.54f\nunit=micron\n")
    assert read(tiff(RGB, [*tags, imagej]), "a.tif").mpp is None


@pytest.mark.parametrize("unit", ["micron", "um", "\\u00B5m"])
def test_imagej_scale_gives_um_per_px(read, unit):
    tags = [text_tag(270, f"ImageJ=1.54f\nunit={unit}\nspacing=1\n"), *resolution_tags(4, 1)]
    assert read(tiff(RGB, tags), "a.tif").mpp == pytest.approx(0.25)


def test_imagej_without_a_scale_has_no_um_per_px(read):
    tags = [text_tag(270, "ImageJ=1.54f\nunit=pixel\n"), *resolution_tags(1, 1)]
    assert read(tiff(RGB, tags), "a.tif").mpp is None


def test_aperio_description_gives_um_per_px(read):
    description = "Aperio Image Library v12\n1000x1000 (256x256)|AppMag = 20|MPP = 0.4990|Left = 3.5"
    assert read(tiff(RGB, [text_tag(270, description), *resolution_tags(72, 2)]), "a.tif").mpp == pytest.approx(0.499)


def ome(x, y, unit=None):
    units = "" if unit is None else f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    declaration = '<?xml version="1.0" encoding="UTF-8"?>'
    return f'{declaration}<OME><Image><Pixels PhysicalSizeX="{x}" PhysicalSizeY="{y}"{units}/></Image></OME>'


@pytest.mark.parametrize("unit", [None, "um", "&#181;m", "&#xB5;m", "µm"])
def test_ome_physical_size_gives_um_per_px(read, unit):
    # Bio-Formats and tifffile write "µm" in UTF-8.
    assert read(tiff(RGB, [text_tag(270, ome(0.25, 0.25, unit))]), "a.tif").mpp == pytest.approx(0.25)
    assert read(tiff(RGB, [text_tag(270, ome("2.5E-1", "2.5E-1", unit))]), "a.tif").mpp == pytest.approx(0.25)


@pytest.mark.parametrize(("unit", "um"), [("nm", 1e-3), ("mm", 1e3), ("\u03bcm", 1), ("in", 25_400)])
def test_sizes_in_other_units_are_converted(read, unit, um):
    assert read(tiff(RGB, [text_tag(270, ome(0.25 / um, 0.25 / um, unit))]), "a.tif").mpp == pytest.approx(0.25)
    tags = [text_tag(270, f"ImageJ=1.54f\nunit={unit}\n"), *resolution_tags(4 * um, 1)]
    assert read(tiff(RGB, tags), "a.tif").mpp == pytest.approx(0.25, rel=1e-3)


def test_unknown_unit_is_named(read):
    frame = read(tiff(RGB, [text_tag(270, ome(0.25, 0.25, "furlong"))]), "a.tif")
    assert (frame.mpp, frame.unused_size) == (None, "states a pixel size of 0.25 furlong, a unit that is not known")
    tags = [text_tag(270, "ImageJ=1.54f\nunit=furlong\n"), *resolution_tags(4, 1)]
    frame = read(tiff(RGB, tags), "a.tif")
    assert (frame.mpp, frame.unused_size) == (None, "states a pixel size of 0.25 furlong, a unit that is not known")


@pytest.mark.parametrize("prefix", ["", "ome:"])
@pytest.mark.parametrize("quote", ['"', "'"])
def test_ome_xml_may_have_a_prefix_and_single_quotes(read, prefix, quote):
    namespace = f"xmlns{prefix and ':ome'}='http://www.openmicroscopy.org/Schemas/OME/2016-06'"
    pixels = f"<{prefix}Pixels PhysicalSizeX='0.25' PhysicalSizeY='0.25'/>"
    text = f"<{prefix}OME {namespace}><{prefix}Image>{pixels}</{prefix}Image></{prefix}OME>".replace("'", quote)
    assert read(tiff(RGB, [text_tag(270, text)]), "a.tif").mpp == pytest.approx(0.25)


def test_entities_in_ome_xml_are_not_expanded(read):
    bomb = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 20}">' for n in range(9))
    text = f'<!DOCTYPE OME [<!ENTITY a0 "aaaaaaaaaa">{bomb}]>{ome(0.25, 0.25)[38:]}'.replace(
        "<Image>", "<Image Name='&a9;'>"
    )
    frame = read(tiff(RGB, [text_tag(270, text)]), "a.tif")
    assert frame.mpp is None
    assert "metadata that cannot be read" in frame.unused_size


def test_exif_takes_precedence_over_a_default_jfif_header(read):
    exif = Image.Exif()
    exif[282] = exif[283] = 101_600.0
    exif[296] = 2
    data = bytearray(encoded(RGB, "JPEG", exif=exif.tobytes()))
    jfif = data.index(b"JFIF\0")
    data[jfif + 7 : jfif + 12] = struct.pack(">BHH", 1, 72, 72)
    frame = read(bytes(data), "a.jpg")
    assert frame.mpp == pytest.approx(0.25)
    assert frame.unused_size is None


def test_differing_pixel_sizes_are_reported(read):
    tags = [text_tag(270, ome(0.25, 0.25)), *resolution_tags(20_000, 3)]
    frame = read(tiff(RGB, tags), "a.tif")
    assert frame.mpp == pytest.approx(0.25)
    assert frame.unused_size == "states both 0.25 and 0.5 µm/px: the first one is used"


@pytest.mark.parametrize(
    "description",
    [
        "Aperio|MPP = .",
        "Aperio|MPP = 0.4.9",
        ome("e", "e"),
        ome("", ""),
        ome("1e999", "1e999"),
        "MPP",
        "<OME",
        "ImageJ=",
    ],
)
def test_damaged_description_does_not_prevent_reading(read, description):
    frame = read(tiff(RGB, [text_tag(270, description)]), "a.tif")
    assert frame.mpp is None
    np.testing.assert_array_equal(frame.pixels, RGB)


# --- files that are no images -----------------------------------------------------------------------------------------


def test_missing_file_and_folder_are_image_errors(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="found a folder"):
        read_image(tmp_path / "folder.png")


def test_empty_file_is_named(read):
    with pytest.raises(ImageError, match="empty"):
        read(b"")


@pytest.mark.parametrize(
    "data", [b"x", b"not an image\n" * 100, b"\0" * 1000, b"\x89PNG\r\n\x1a\n", b"II*\0", b"\xff\xd8\xff"]
)
def test_other_content_is_not_an_image(read, data):
    with pytest.raises(ImageError):
        read(data)


NAMES = {"EPS": "PostScript", "GIF": "GIF", "PDF": "PDF", "PPM": "PNM", "ICO": "ICO"}


@pytest.mark.parametrize("kind", NAMES)
def test_unsupported_formats_are_refused_with_any_suffix(read, kind):
    # An EPS is a program: Pillow would start Ghostscript on it.
    with pytest.raises(ImageError, match=f"^an? .*{NAMES[kind]}.*: expected PNG, JPEG, .*: save it as PNG or TIFF"):
        read(encoded(RGB, kind), "field.png")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_large_picture_is_refused_before_decoding(read):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="too large"):
        read(data)


@pytest.mark.parametrize(
    "name", ["schnitt µ äöü.png", "切片.png", 'a\'b "c".png', unicodedata.normalize("NFD", "é.png")]
)
def test_file_names_may_contain_any_character(read, name):
    if os.name == "nt":
        name = name.replace('"', "")
    np.testing.assert_array_equal(read(encoded_deep(RGB.astype(np.uint16) * 257, ".png"), name).pixels, RGB)
    np.testing.assert_array_equal(read(encoded(RGB, "PNG"), name).pixels, RGB)


def test_path_may_be_text(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")).pixels, RGB)


def test_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)


WHOLE = {
    "rgb.png": encoded(RGB, "PNG"),
    "deep.png": encoded_deep(RGB.astype(np.uint16) * 257, ".png"),
    "base.jpg": encoded(RGB, "JPEG", quality=90),
    "progressive.jpg": encoded(RGB, "JPEG", quality=90, progressive=True),
    "raw.tif": encoded(RGB, "TIFF"),
    "lzw.tif": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "deflate.tif": encoded(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "jpeg.tif": encoded(RGB, "TIFF", compression="jpeg"),
    "deep.tif": encoded_deep(RGB.astype(np.uint16) * 257, ".tif"),
    "directory-last.tif": tiff(RGB),
    "deep-directory-last.tif": tiff(RGB.astype(np.uint16) * 257),
    "rgb.bmp": encoded(RGB, "BMP"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_truncated_file_is_an_image_error_or_intact(read, name):
    data = WHOLE[name]
    whole = read(data, name).pixels
    lengths = {
        *range(1, 40),
        *range(len(data) - 25, len(data)),
        *np.linspace(40, len(data) - 26, 40).astype(int).tolist(),
    }
    for length in sorted(lengths):
        try:
            pixels = read(data[:length], name).pixels
        except ImageError:
            continue
        np.testing.assert_array_equal(pixels, whole, err_msg=f"{length} of {len(data)} bytes")


@settings(max_examples=120, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_flipped_bytes_give_a_frame_or_an_image_error(tmp_path_factory, name, data):
    damaged = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 3))):
        # headers and directories are at both ends
        place = data.draw(st.integers(-300, 300))
        damaged[place % len(damaged)] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    path.write_bytes(damaged)
    try:
        frame = read_image(path)
    except ImageError:
        return
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.shape[2] == 3


# --- several pages ----------------------------------------------------------------------------------------------------

OTHER = smooth(1)
PLANES = np.ascontiguousarray(RGB.transpose(2, 0, 1))


def written(pages, **options):
    """Write TIFF pages with tifffile: (pixels, options) each."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        for pixels, own in pages:
            writer.write(np.ascontiguousarray(pixels), **own)
    return file.getvalue()


def one(pixels, *, imagej=False, ome=False, **options):
    return written([(pixels, options)], imagej=imagej, ome=ome)


PLAIN = {"metadata": None, "photometric": "rgb"}
THREE_PLANES = {
    "ome": one(PLANES, ome=True, photometric="minisblack", metadata={"axes": "CYX"}),
    "ome, blue first": one(
        PLANES[::-1],
        ome=True,
        photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["Blue", "Green", "Red"]}},
    ),
    "ome z stack": one(
        np.stack([PLANES, PLANES[:, ::-1]]), ome=True, photometric="minisblack", metadata={"axes": "ZCYX"}
    ),
    "imagej": one(PLANES, imagej=True, metadata={"axes": "CYX", "mode": "composite"}),
    "imagej stack": one(PLANES, imagej=True, metadata={"axes": "ZYX", "Labels": ["Red", "Green", "Blue"]}),
    "pages": written([(plane, {"metadata": None, "contiguous": False}) for plane in PLANES]),
    "planar": one(PLANES, photometric="rgb", planarconfig="separate", metadata=None),
    "planar 16": one(PLANES.astype(np.uint16) * 257, photometric="rgb", planarconfig="separate", metadata=None),
    "white is zero": one(255 - PLANES, photometric="miniswhite", metadata={"axes": "CYX"}, ome=True),
    "16 bits": one(PLANES.astype(np.uint16) * 257, ome=True, photometric="minisblack", metadata={"axes": "CYX"}),
}


@pytest.mark.parametrize("name", THREE_PLANES)
def test_three_grey_planes_are_red_green_and_blue(read, name):
    frame = read(THREE_PLANES[name], "a.tif")
    np.testing.assert_array_equal(frame.pixels, RGB)
    said = {"pages": "Three grey pages are read", "ome z stack": "Pages 1 to 3 of 6 are read (z stack)"}
    assert [remark.startswith(said.get(name, "?")) for remark in frame.remarks] == [True] * (name in said)


def test_channels_other_than_colours_are_named_or_refused(read):
    stains = {"axes": "CYX", "Channel": {"Name": ["DAPI", "FITC", "Cy5"]}}
    frame = read(one(PLANES, ome=True, photometric="minisblack", metadata=stains), "a.tif")
    assert frame.remarks == ("The channels DAPI, FITC, Cy5 are read as red, green and blue.",)
    with pytest.raises(ImageError, match="found 2 channels in grey pages: save the picture as RGB"):
        read(one(PLANES[:2], ome=True, photometric="minisblack", metadata={"axes": "CYX"}), "a.tif")


@pytest.mark.parametrize(
    ("pages", "remark"),
    [
        ([(OTHER[::4, ::4], PLAIN), (RGB, PLAIN)], "Page 2 of 2 is read, the largest; the others are not counted."),
        ([(RGB, PLAIN), (OTHER[::4, ::4], PLAIN)], None),
        ([(RGB, PLAIN), (OTHER[::2, ::2], {**PLAIN, "subfiletype": 1})], None),
        ([(RGB, PLAIN), (OTHER, {**PLAIN, "contiguous": False})], "Page 1 of 2 is read; "),
        ([(OTHER[..., 0], {"metadata": None}), (RGB, PLAIN)], "Page 2 of 2 is read, the largest in colour; "),
        ([(RGB, PLAIN), (OTHER[4:], PLAIN)], "Page 1 of 2 is read, the largest; "),
        ([(np.stack([RGB, OTHER, OTHER]), {"photometric": "rgb"})], "Page 1 of 3 is read; "),
    ],
)
def test_largest_of_several_pages_is_read_with_a_remark(read, pages, remark):
    frame = read(written(pages), "a.tif")
    np.testing.assert_array_equal(frame.pixels, RGB)
    assert len(frame.remarks) == (remark is not None)
    assert all(said.startswith(remark) for said in frame.remarks)


@pytest.mark.parametrize(
    "data",
    [
        written([(plane, {"metadata": None, "contiguous": False}) for plane in [*PLANES, PLANES[0]]]),
        one(PLANES[:2], photometric="minisblack", metadata=None),
        one(PLANES, imagej=True, metadata={"axes": "ZYX"}),
        one(PLANES, imagej=True, metadata={"axes": "TYX"}),
    ],
    ids=["four", "two", "z stack", "time series"],
)
def test_grey_pages_other_than_three_colours_are_refused(read, data):
    with pytest.raises(ImageError, match=r"expected red, green and blue, found \d grey pages"):
        read(data, "a.tif")


@pytest.mark.parametrize(("axis", "name"), [("Z", "z stack"), ("T", "time series")])
@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_stack_is_named_in_a_remark(read, axis, name, kind):
    options = {"metadata": {"axes": f"{axis}YXS"}, "photometric": "rgb", kind: True}
    frame = read(one(np.stack([RGB, OTHER, OTHER, OTHER]), **options), "a.tif")
    np.testing.assert_array_equal(frame.pixels, RGB)
    assert frame.remarks == (f"Page 1 of 4 is read ({name}); the others are not counted.",)


def test_mpp_is_that_of_the_page_that_is_read(read):
    def about(mpp, name):
        return {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "Name": name}

    pages = [
        (OTHER[::4, ::4], {"photometric": "rgb", "metadata": about(1.0, "overview")}),
        (RGB, {"photometric": "rgb", "metadata": about(0.25, "field")}),
    ]
    frame = read(written(pages, ome=True), "a.tif")
    np.testing.assert_array_equal(frame.pixels, RGB)
    assert frame.mpp == pytest.approx(0.25)


# --- kinds that Pillow's TIFF library does not decode, and other formats ----------------------------------------------

FIELD = simulate.field(3, 160, 120)[0]


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "lerc", "webp", "zstd", "lzma", "jpeg", "lzw", "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_of_any_compression_is_read(read, compression, dtype):
    if dtype == "uint16" and compression in ("webp", "jpeg"):
        return  # of 8 bits only
    pixels = FIELD if dtype == "uint8" else FIELD.astype(np.uint16) * 257
    frame = read(one(pixels, compression=compression, **PLAIN), "a.tif")
    assert np.abs(frame.pixels.astype(int) - FIELD).mean() < (3 if compression in ("jpeg", "webp") else 0.01)
    assert frame.remarks == ()


@pytest.mark.parametrize("name", ["a.webp", "a.jp2", "a.j2k", "a.avif", "a.jxl"])
def test_other_formats_are_read(read, name):
    options = {".webp": {"lossless": True}, ".jp2": {}, ".j2k": {}, ".avif": {"quality": 95}}
    suffix = name[1:]
    if suffix == ".jxl":
        data = imagecodecs.jpegxl_encode(FIELD, lossless=True)
    else:
        kind = {".jp2": "JPEG2000", ".j2k": "JPEG2000"}.get(suffix, suffix[1:].upper())
        data = encoded(FIELD, kind, **options[suffix], **({"no_jp2": True} if suffix == ".j2k" else {}))
    frame = read(data, name)
    assert np.abs(frame.pixels.astype(int) - FIELD).mean() < (3 if suffix == ".avif" else 0.01)
    assert suffix in SUFFIXES


def test_jpeg_2000_and_jpeg_xl_of_16_bits_are_read(read):
    deep = FIELD.astype(np.uint16) * 257
    for data in (imagecodecs.jpeg2k_encode(deep, level=0), imagecodecs.jpegxl_encode(deep, lossless=True)):
        np.testing.assert_array_equal(read(data, "a.jp2").pixels, FIELD)


# --- bit depth and damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_saturated_pixel_does_not_darken_a_12_bit_file(read, suffix):
    deep = np.rint(RGB / 255 * 4095).astype(np.uint16)
    deep[3, 5] = 65535
    frame = read(encoded_deep(deep, suffix))
    assert (frame.pixels != RGB).any(axis=2).sum() <= 1
    assert "1 of 2400 pixels are brighter than 4095" in frame.remarks[0]


def test_stated_bit_depth_is_used(read):
    dim = np.rint(RGB / 255 * 800).astype(np.uint16)
    png = encoded_deep(dim, ".png")
    header = png.index(b"IHDR") + 4 + 13 + 4
    stated = png[:header] + chunk(b"sBIT", bytes([12, 12, 12])) + png[header:]
    assert read(stated).pixels.max() == round(800 / 4095 * 255)
    assert read(png).pixels.max() == round(800 / 1023 * 255)
    bits = one(dim, ome=True, photometric="rgb", metadata={"axes": "YXS", "SignificantBits": 12})
    assert read(bits, "a.tif").pixels.max() == round(800 / 4095 * 255)
    largest = tiff(dim, [(281, 3, 3, struct.pack("<3H", 4095, 4095, 4095))])
    assert read(largest, "a.tif").pixels.max() == round(800 / 4095 * 255)


def test_jpeg_with_lost_data_is_an_error(read):
    data = bytearray(encoded(FIELD, "JPEG", quality=90))
    data[len(data) * 3 // 4 : -200] = bytes(len(data) - 200 - len(data) * 3 // 4)
    with pytest.raises(ImageError, match=r"the JPEG is damaged \(.+\): copy or export it again"):
        read(bytes(data), "a.jpg")


def test_deflated_strips_with_lost_data_are_an_error(read):
    whole = one(FIELD, photometric="rgb", compression="zlib", rowsperstrip=32, metadata=None)
    assert np.array_equal(read(whole, "a.tif").pixels, FIELD)
    for share in np.linspace(0.2, 0.8, 13):
        data = bytearray(whole)
        begin = int(share * len(data))
        data[begin : begin + 300] = bytes(300)
        with pytest.raises(ImageError, match="damaged"):
            read(bytes(data), "a.tif")


@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}, {"rowsperstrip": 40}])
def test_jpeg_in_tiff_with_lost_data_is_an_error(read, options):
    data = one(FIELD, compression="jpeg", compressionargs={"level": 90}, **PLAIN, **options)
    assert read(data, "a.tif").pixels.shape == FIELD.shape
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    damaged = data[: place + length // 2] + bytes(length - length // 2 - 2) + data[place + length - 2 :]
    with pytest.raises(ImageError, match=r"JPEG data are damaged \(.+\): copy or export the file again"):
        read(damaged, "a.tif")


WITHOUT_IMAGECODECS = """
import json, sys
from pathlib import Path
sys.modules["imagecodecs"] = None
import numpy as np
from kinet_trt.core.errors import ImageError
from kinet_trt.io.images import read_image
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.*")):
    try:
        pixels = read_image(path).pixels
        np.save(path.with_suffix(".npy"), pixels)
    except ImageError as error:
        found[path.name] = str(error)
print(json.dumps(found))
"""


def test_missing_imagecodecs_is_named_for_files_that_need_it(tmp_path):
    deep = FIELD.astype(np.uint16) * 257
    lzw = one(deep, compression="lzw", **PLAIN)
    files = {
        "lzw.tif": lzw,
        "turned.tif": one(deep, compression="lzw", extratags=[(274, 3, 1, 6, True)], **PLAIN),
        "deflate.tif": one(deep, compression="zlib", **PLAIN),
        "jpeg.tif": one(FIELD, compression="jpeg", **PLAIN),
        "cut.tif": lzw[: len(lzw) * 2 // 3] + bytes(len(lzw) // 3),
        "jpeg2000.tif": one(FIELD, compression="jpeg2000", **PLAIN),
        "jpegxl.tif": one(deep, compression="jpegxl", **PLAIN),
        "webp.tif": one(FIELD, compression="webp", **PLAIN),
        "a.jxl": imagecodecs.jpegxl_encode(FIELD, lossless=True),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", WITHOUT_IMAGECODECS, tmp_path], capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert sorted(found) == ["a.jxl", "cut.tif", "jpeg2000.tif", "jpegxl.tif", "webp.tif"]
    assert "damaged or cut short" in found.pop("cut.tif")
    assert "a TIFF with JPEG 2000 compression" in found["jpeg2000.tif"]
    assert all('pip install "kinet-trt[slides]" to read it, or' in message for message in found.values())
    for name in ("lzw", "turned", "deflate"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), FIELD)
