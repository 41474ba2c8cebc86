"""Opening and reading slides of each format."""

from __future__ import annotations

import logging
import shutil
import sys
import zlib

import cv2
import numpy as np
import pytest

from kinet_trt.core.errors import ImageError, KinetError
from kinet_trt.io.images import read_image
from kinet_trt.slides.slide import is_slide, open_slide
from simulated_slides import GLASS, Canvas, Piece, without_level, write_tiff, write_zarr

CANVAS = Canvas(1300, 900, (Piece(300, 200, 500, 420, 3),), mpp=0.25)
WHOLE = CANVAS.region(0, 0, 1300, 900)
VERSIONS = (2, 3) if sys.version_info >= (3, 11) else (2,)  # of zarr
KINDS = ("ome.tif", "pages.tif", "lzw.tif", "planar.tif", "svs", *(f"v{version}.zarr" for version in VERSIONS))


def write(folder, kind, **options):
    path = folder / f"slide.{kind}"
    if kind.endswith("zarr"):
        return write_zarr(path, CANVAS, version=2 if kind == "v2.zarr" else 3, **options)
    if kind == "planar.tif":
        return planar(path)
    layout = {"ome.tif": "ome", "svs": "svs"}.get(kind, "pages")
    return write_tiff(path, CANVAS, layout=layout, compression="lzw" if kind == "lzw.tif" else "deflate", **options)


def planar(path):
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for n, downsample in enumerate((1, 4)):
            pixels = WHOLE if n == 0 else cv2.resize(WHOLE, CANVAS.level(4), interpolation=cv2.INTER_AREA)
            file.write(
                np.ascontiguousarray(pixels.transpose(2, 0, 1)),
                planarconfig="separate",
                photometric="rgb",
                tile=(256, 256),
                subfiletype=int(n > 0),
                metadata=None,
                resolution=(1e4 / 0.25 / downsample,) * 2,
                resolutionunit="CENTIMETER",
            )
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_pixels_that_were_written(tmp_path, kind):
    path = write(tmp_path, kind)
    assert is_slide(path)
    with open_slide(path) as slide:
        assert (slide.width, slide.height, len(slide.levels)) == (1300, 900, 2)
        assert (slide.levels[1].width, slide.levels[1].height, slide.levels[1].downsample) == (325, 225, 4.0)
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.25, rel=1e-6), "file")
        np.testing.assert_array_equal(slide.read(0, 0, 0, 1300, 900), WHOLE)
        np.testing.assert_array_equal(slide.read(0, 250, 333, 271, 260), WHOLE[333:593, 250:521])
        small = cv2.resize(WHOLE, (325, 225), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(slide.read(1, 0, 0, 325, 225), small)
        over = slide.read(0, -10, 890, 30, 20)
        assert (over[:, :10] == 255).all()
        assert (over[10:] == 255).all()
        assert (over[:10, 10:] == GLASS).all()
        assert (slide.read(0, 2000, 0, 5, 5) == 255).all()
        with pytest.raises(ImageError, match=r"no level 2: expected 0 to 1"):
            slide.read(2, 0, 0, 1, 1)


@pytest.mark.parametrize("kind", ["ome.tif", "svs", "v2.zarr"])
def test_um_per_px_is_the_files_unless_somebody_says_it(tmp_path, kind):
    path = write(tmp_path, kind, states_mpp=False)
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (None, "")
    with open_slide(path, 0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "option")
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ImageError, match="µm/px"):
            open_slide(path, wrong)


@pytest.mark.parametrize("layout", ["pages", "svs", "ome"])
def test_label_and_macro_are_never_read(tmp_path, layout):
    path = write_tiff(tmp_path / ("a.svs" if layout == "svs" else "a.tif"), CANVAS, layout=layout, extras=True)
    with open_slide(path) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(1300, 900), (325, 225)]
        for n, level in enumerate(slide.levels):
            pixels = slide.read(n, 0, 0, level.width, level.height)
            assert not (pixels == (200, 0, 0)).all(axis=2).any()


def test_a_plain_picture_is_no_slide(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "strips.tif", WHOLE)
    tifffile.imwrite(tmp_path / "tiled.tif", WHOLE, tile=(256, 256))
    with tifffile.TiffWriter(tmp_path / "thumb.tif") as file:
        file.write(WHOLE, metadata=None)
        file.write(WHOLE[::10, ::10].copy(), subfiletype=1, metadata=None)
    for name in ("strips.tif", "tiled.tif", "thumb.tif"):
        assert not is_slide(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels, WHOLE)
    cv2.imwrite(str(tmp_path / "a.png"), WHOLE)
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "odd.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    (tmp_path / "folder").mkdir()
    for name in ("a.png", "empty.tif", "odd.tif", "folder", "none.tif"):
        assert not is_slide(tmp_path / name)
    # An OME-TIFF of one level is a picture, too; opened as a slide it is one all the same.
    flat = write_tiff(tmp_path / "flat.ome.tif", CANVAS, downsamples=(1,))
    assert not is_slide(flat)
    with open_slide(flat) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 1300, 900), WHOLE)


def test_a_huge_picture_is_a_slide_however_it_is_stored(tmp_path):
    import tifffile

    path = tmp_path / "huge.tif"
    glass = zlib.compress(np.full((16, 16_000, 3), 240, np.uint8).tobytes())
    tifffile.imwrite(
        path, (glass for _ in range(750)), shape=(12_000, 16_000, 3), dtype=np.uint8, rowsperstrip=16,
        photometric="rgb", compression="zlib", metadata=None,
    )  # fmt: skip
    assert is_slide(path)
    with open_slide(path) as slide:
        assert (slide.read(0, 15_990, 11_990, 10, 10) == 240).all()


def test_damage_is_one_message(tmp_path):
    good = write(tmp_path, "ome.tif")
    data = good.read_bytes()
    for name, content in (
        ("cut.tif", data[: len(data) // 2]),
        ("none.tif", b""),
        ("text.svs", b"not a slide at all" * 100),
        ("head.tif", data[:16] + bytes(2000)),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        # Directories may lie in the first half: then what is missing shows when it is read.
        with pytest.raises(ImageError) as told, open_slide(path) as slide:
            slide.read(0, 0, 0, slide.width, slide.height)
        assert "\n" not in str(told.value)
        assert "export" in str(told.value)
    with pytest.raises(ImageError, match="cannot be read"):
        open_slide(tmp_path / "absent.svs")


def test_an_undecodable_tile_says_where(tmp_path):
    path = write(tmp_path, "pages.tif")
    with open_slide(path) as slide:
        page = slide.pixels._levels[0][0].page
        offset = page.dataoffsets[2 * 6 + 2]
    data = bytearray(path.read_bytes())
    data[offset : offset + 400] = b"\x55" * 400
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(ImageError, match=r"level 0, px 500 to 600 across and 500 to 560 down: cannot be decoded"):
            slide.read(0, 500, 500, 100, 60)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 500, 500), WHOLE[:500, :500])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_level_and_a_damaged_chunk_of_a_zarr_are_told(tmp_path, version):
    path = write_zarr(tmp_path / "a.zarr", CANVAS, version=version)
    chunk = path / "0" / "0.1.1" if version == 2 else path / "0" / "c" / "0" / "1" / "1"
    chunk.write_bytes(b"\x02" * 30)
    with open_slide(path) as slide, pytest.raises(ImageError, match="cannot be decoded"):
        slide.read(0, 256, 256, 50, 50)
    if version == 2:
        without_level(path, 1)
        with pytest.raises(ImageError, match=r"level '1'.*missing"):
            open_slide(path)
    shutil.rmtree(path)
    path.mkdir()
    (path / "zarr.json").write_text("{")
    with pytest.raises(ImageError, match=r"damaged.*copy or export"):
        open_slide(path)


def test_what_is_no_colour_of_8_bits_is_refused(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((300, 300, 3), np.uint16), tile=(256, 256), photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", np.zeros((300, 300), np.uint8), tile=(256, 256))
    tifffile.imwrite(
        tmp_path / "stack.ome.tif", np.zeros((5, 300, 300), np.uint8), tile=(256, 256), metadata={"axes": "ZYX"}
    )
    for name in ("deep.tif", "grey.tif", "stack.ome.tif"):
        with pytest.raises(ImageError, match=r"expected (one |8-bit )?RGB.*export"):
            open_slide(tmp_path / name)


def test_three_grey_planes_are_one_picture(tmp_path):
    import tifffile

    tifffile.imwrite(
        tmp_path / "planes.ome.tif", np.ascontiguousarray(WHOLE.transpose(2, 0, 1)), tile=(256, 256),
        photometric="minisblack", metadata={"axes": "CYX"},
    )  # fmt: skip
    with open_slide(tmp_path / "planes.ome.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 100, 200, 700, 600), WHOLE[200:800, 100:800])


def test_the_fingerprint_is_of_the_content(tmp_path):
    for kind in ("ome.tif", "v2.zarr"):
        path = write(tmp_path, kind)
        with open_slide(path) as slide:
            mark = slide.fingerprint
        copy = tmp_path / f"copy.{kind}"
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
        with open_slide(copy) as slide:
            assert slide.fingerprint == mark
        changed = copy if copy.is_file() else copy / "0" / "0.1.1"
        data = bytearray(changed.read_bytes())
        data[len(data) // 3] ^= 1
        changed.write_bytes(data)
        with open_slide(copy) as slide:
            assert slide.fingerprint != mark


def test_without_the_extra_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path, "ome.tif")
    from kinet_trt.slides import slide as slides

    monkeypatch.setattr(slides, "find_spec", lambda name: None)
    with pytest.raises(KinetError, match=r'pip install "kinet-trt\[slides\]"'):
        open_slide(path)


def test_a_damaged_slide_is_told_once(tmp_path, caplog):
    path = write(tmp_path, "ome.tif")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with caplog.at_level(logging.WARNING), pytest.raises(ImageError), open_slide(path) as slide:
        slide.read(0, 0, 0, slide.width, slide.height)
    assert caplog.records == []


def test_openslide_gives_the_same_px_however_it_is_asked_where_a_level_is_no_whole_part(tmp_path):
    canvas = Canvas(1303, 901, CANVAS.pieces, mpp=0.25)
    path = write_tiff(tmp_path / "odd.svs", canvas, layout="svs")
    with open_slide(path) as slide:
        assert "aperio" in slide.format
        assert slide.levels[1].downsample == 4.0
        assert not slide.pixels._downsamples[1].is_integer()
        whole = slide.read(1, 0, 0, 325, 225)
        for x, y, width, height in ((3, 7, 200, 190), (97, 31, 228, 194), (64, 64, 1, 1)):
            np.testing.assert_array_equal(slide.read(1, x, y, width, height), whole[y : y + height, x : x + width])
        small = cv2.resize(canvas.region(0, 0, 1300, 900), (325, 225), interpolation=cv2.INTER_AREA)
        assert np.abs(whole.astype(int) - small).mean() < 1


def test_the_empty_canvas_about_a_scan_is_no_part_of_the_slide(tmp_path, monkeypatch):
    import openslide

    path = write(tmp_path, "svs")
    bounds = {"x": 256, "y": 128, "width": 800, "height": 640}

    class Bounded(openslide.OpenSlide):
        @property
        def properties(self):
            return {**super().properties, **{f"openslide.bounds-{name}": str(n) for name, n in bounds.items()}}

    monkeypatch.setattr(openslide, "OpenSlide", Bounded)
    with open_slide(path) as slide:
        assert (slide.width, slide.height) == (800, 640)
        np.testing.assert_array_equal(slide.read(0, 10, 20, 790, 620), WHOLE[148:768, 266:1056])
        small = cv2.resize(WHOLE, (325, 225), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(slide.read(1, 0, 0, 200, 160), small[32:192, 64:264])
