"""One field in the file formats of cameras, scanners and programs gives the same nuclei."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from kinet_trt import NucleusCounter
from kinet_trt.counting.image import count_image
from kinet_trt.simulation import simulate
from kinet_trt.slides.count import count_slide
from kinet_trt.slides.slide import is_slide
from simulated_slides import write_zarr

SIDE, MPP = 256, 0.34
FIELD = simulate.field(11, SIDE, SIDE)[0]
PLANES = np.ascontiguousarray(FIELD.transpose(2, 0, 1))
DEEP = FIELD.astype(np.uint16) * 257
TWELVE = np.rint(FIELD / 255 * 4095).astype(np.uint16)
HOT = TWELVE.copy()
HOT[5, 7] = HOT[250, 3] = 65535
OPAQUE = np.dstack([FIELD, np.full((SIDE, SIDE), 255, np.uint8)])
TURNED = Image.Exif()
TURNED[274] = 6
SIZE = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
UM = {"PhysicalSizeX": MPP, "PhysicalSizeY": MPP}

Write = Callable[[Path], object]


class Whole:
    """The field with the interface of :func:`simulated_slides.write_zarr`."""

    width = height = SIDE
    mpp = MPP

    def level(self, downsample: int) -> tuple[int, int]:
        return SIDE // downsample, SIDE // downsample

    def tile(self, downsample: int, x: int, y: int, side: int) -> np.ndarray:
        return smaller(downsample)[y : y + side, x : x + side]


def smaller(times: int) -> np.ndarray:
    return np.asarray(cv2.resize(FIELD, (SIDE // times, SIDE // times), interpolation=cv2.INTER_AREA))


def pillow(pixels: np.ndarray, mode: str = "", **options: object) -> Write:
    image = Image.fromarray(pixels)
    return lambda path: (image.convert(mode) if mode else image).save(path, **options)


def opencv(pixels: np.ndarray) -> Write:
    return lambda path: cv2.imwrite(str(path), pixels[..., ::-1])


def coded(encode: Callable[..., bytes], pixels: np.ndarray, **options: object) -> Write:
    return lambda path: path.write_bytes(encode(np.ascontiguousarray(pixels), **options))


def tiff(pixels: np.ndarray, **options: object) -> Write:
    about = {"photometric": "rgb", "metadata": None, **SIZE, **options}
    return lambda path: tifffile.imwrite(path, pixels, **about)


def ome(pixels: np.ndarray, axes: str, photometric: str = "rgb", **options: object) -> Write:
    return lambda path: tifffile.imwrite(
        path, pixels, ome=True, photometric=photometric, metadata={"axes": axes, **UM}, **options
    )


def imagej(pixels: np.ndarray, axes: str) -> Write:
    metadata = {"axes": axes, "unit": "mm", "mode": "composite" if "C" in axes else None}
    return lambda path: tifffile.imwrite(path, pixels, imagej=True, resolution=(1e3 / MPP,) * 2, metadata=metadata)


def pages(*each: tuple[np.ndarray, dict[str, object]]) -> Write:
    def write(path: Path) -> None:
        with tifffile.TiffWriter(path) as file:
            for pixels, own in each:
                file.write(np.ascontiguousarray(pixels), **{"photometric": "rgb", "metadata": None, **SIZE, **own})

    return write


def jpeg_turned(path: Path) -> None:
    Image.fromarray(FIELD).save(path, quality=97, subsampling=0, exif=TURNED)


TILES = {"tile": (128, 128)}
FORMS: dict[str, Write] = {
    "rgb.png": pillow(FIELD),
    "16-bit.png": opencv(DEEP),
    "12-bit.png": opencv(TWELVE),
    "palette.png": lambda path: Image.fromarray(FIELD).quantize(256).save(path),
    "alpha.png": pillow(OPAQUE),
    "rgb.bmp": pillow(FIELD),
    "444.jpg": pillow(FIELD, quality=97, subsampling=0),
    "420.jpg": pillow(FIELD, quality=97, subsampling=2),
    "progressive.jpg": pillow(FIELD, quality=97, subsampling=0, progressive=True),
    "cmyk.jpg": pillow(FIELD, "CMYK", quality=97),
    "turned.jpg": jpeg_turned,
    "lossless.webp": pillow(FIELD, lossless=True),
    "rgb.avif": pillow(FIELD, quality=97, subsampling="4:4:4"),
    "rgb.jp2": coded(imagecodecs.jpeg2k_encode, FIELD, level=0),
    "16-bit.jp2": coded(imagecodecs.jpeg2k_encode, DEEP, level=0),
    "rgb.jxl": coded(imagecodecs.jpegxl_encode, FIELD, lossless=True),
    "plain.tif": tiff(FIELD),
    "big-endian.tif": tiff(DEEP, byteorder=">"),
    "bigtiff.tif": tiff(FIELD, bigtiff=True),
    "lzw.tif": tiff(FIELD, compression="lzw", predictor=True),
    "deflate.tif": tiff(FIELD, compression="zlib", predictor=True),
    "packbits.tif": tiff(FIELD, compression="packbits"),
    "lzma.tif": tiff(FIELD, compression="lzma"),
    "zstd.tif": tiff(FIELD, compression="zstd"),
    "jpeg.tif": tiff(FIELD, compression="jpeg", compressionargs={"level": 97}),
    "webp.tif": tiff(FIELD, compression="webp", compressionargs={"level": -1}),
    "jpeg2000.tif": tiff(FIELD, compression="jpeg2000"),
    "jpegxl.tif": tiff(FIELD, compression="jpegxl"),
    "lerc.tif": tiff(FIELD, compression="lerc"),
    "tiles.tif": tiff(FIELD, **TILES),
    "strips.tif": tiff(FIELD, rowsperstrip=7),
    "planes.tif": tiff(PLANES, planarconfig="separate"),
    "16-bit.tif": tiff(DEEP, compression="lzw"),
    "16-bit-planes.tif": tiff(PLANES.astype(np.uint16) * 257, planarconfig="separate"),
    "12-bit.tif": tiff(TWELVE),
    "hot-pixels.tif": tiff(HOT),
    "int16.tif": tiff((FIELD.astype(np.int32) * 32767 // 255).astype(np.int16)),
    "uint32.tif": tiff(FIELD.astype(np.uint32) * 0x01010101),
    "float.tif": tiff((FIELD / 255).astype(np.float32), compression="zlib"),
    "float-255.tif": tiff(FIELD.astype(np.float32)),
    "half.tif": tiff((FIELD / 255).astype(np.float16)),
    "alpha.tif": tiff(OPAQUE, extrasamples=["unassalpha"]),
    "cmyk.tif": pillow(FIELD, "CMYK"),
    "16-bit-cmyk.tif": tiff(np.dstack([65535 - DEEP, np.zeros_like(DEEP[..., :1])]), photometric="separated"),
    "palette.tif": lambda path: Image.fromarray(FIELD).quantize(256).save(path),
    "turned.tif": tiff(FIELD, extratags=[(274, 3, 1, 6, True)]),
    "rgb.ome.tif": ome(FIELD, "YXS"),
    "planes.ome.tif": ome(PLANES, "CYX", "minisblack"),
    "stack.ome.tif": ome(np.stack([FIELD, FIELD[::-1]]), "ZYXS"),
    "imagej.tif": imagej(FIELD, "YXS"),
    "composite.tif": imagej(PLANES, "CYX"),
    "grey-pages.tif": pages(*((plane, {"photometric": "minisblack", "contiguous": False}) for plane in PLANES)),
    "thumbnail-first.tif": pages((smaller(4), {}), (FIELD, {})),
    "copies.tif": pages((FIELD, {}), (smaller(2), {"subfiletype": 1})),
    "pyramid.tif": pages((FIELD, TILES), (smaller(2), {"subfiletype": 1, **TILES})),
    "sub-images.tif": pages((FIELD, {"subifds": 1, **TILES}), (smaller(2), {"subfiletype": 1, **TILES})),
    "v2.zarr": lambda path: write_zarr(path, Whole(), version=2, downsamples=(1, 2)),
    "v3.zarr": lambda path: write_zarr(path, Whole(), version=3, downsamples=(1, 2)),
}


@pytest.fixture(scope="module")
def counter() -> NucleusCounter:
    return NucleusCounter(precision="fp32")


@pytest.fixture(scope="module")
def plain(counter: NucleusCounter) -> dict[str, int]:
    counts = counter(FIELD, MPP).counts()
    assert min(counts.values()) > 0
    return counts


@pytest.mark.parametrize("name", FORMS)
def test_labels_in_any_format_give_the_same_nuclei(
    name: str, counter: NucleusCounter, plain: dict[str, int], tmp_path: Path
) -> None:
    path = tmp_path / name
    FORMS[name](path)
    if is_slide(path):
        counted, _ = count_slide(counter, path, folder=tmp_path / "tiles")
    else:
        counted, _ = count_image(counter, path, None)
    assert counted.mpp == pytest.approx(MPP, rel=1e-3)
    # One nucleus is more than 1% of a field this small.
    lossy = any(part in name for part in ("jpg", "jpeg.", "avif", "palette", "hot-pixels"))
    differences = [abs(n - counted.counts[kind]) for kind, n in plain.items()]
    assert max(differences) <= (1 if lossy else 0)
