"""Whole slides by the simulator: mostly glass, with pieces of tissue whose truth is known, in several formats.

Nothing of the size of a slide is held in memory but the pieces. Tiles of glass are encoded once.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from kinet_trt.simulation import simulate

GLASS = (241, 240, 243)


@dataclass(frozen=True)
class Piece:
    """A rectangle of tissue: where it lies on the slide, px of level 0, its seed and the fraction of positive ones."""

    x: int
    y: int
    width: int
    height: int
    seed: int = 1
    positive_fraction: float = 0.15


@dataclass(frozen=True)
class Canvas:
    """A slide to be written: its size, px of level 0, um/px and pieces that do not overlap."""

    width: int
    height: int
    pieces: tuple[Piece, ...]
    mpp: float = 0.34

    @cached_property
    def _drawn(self):
        slides = [
            simulate.SimulatedSlide(p.seed, mpp=self.mpp, positive_fraction=p.positive_fraction) for p in self.pieces
        ]
        return [
            slide.region(*simulate.find_tissue(slide, p.width, p.height), p.width, p.height)
            for p, slide in zip(self.pieces, slides, strict=True)
        ]

    def region(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a rectangle of level 0, RGB uint8; glass beyond the edges."""
        image = np.empty((height, width, 3), np.uint8)
        image[:] = GLASS
        for piece, (pixels, _) in zip(self.pieces, self._drawn, strict=True):
            x0, x1 = max(x, piece.x), min(x + width, piece.x + piece.width)
            y0, y1 = max(y, piece.y), min(y + height, piece.y + piece.height)
            if x0 < x1 and y0 < y1:
                image[y0 - y : y1 - y, x0 - x : x1 - x] = pixels[
                    y0 - piece.y : y1 - piece.y, x0 - piece.x : x1 - piece.x
                ]
        return image

    def touches(self, x: int, y: int, width: int, height: int) -> bool:
        """Say whether a rectangle holds tissue."""
        return any(
            x < p.x + p.width and p.x < x + width and y < p.y + p.height and p.y < y + height for p in self.pieces
        )

    @cached_property
    def truth(self) -> simulate.Truth:
        """The nuclei of all pieces, px of level 0, in raster order."""
        x, y, cls = (
            np.concatenate(part)
            for part in zip(
                *((t.x + p.x, t.y + p.y, t.cls) for p, (_, t) in zip(self.pieces, self._drawn, strict=True)),
                strict=True,
            )
        )
        order = np.lexsort((x, y))
        return simulate.Truth(x[order], y[order], cls[order])

    def level(self, downsample: int) -> tuple[int, int]:
        """Return width and height of a level, px."""
        return self.width // downsample, self.height // downsample

    def tile(self, downsample: int, x: int, y: int, side: int) -> np.ndarray:
        """Return a tile of a level, averaged over whole px of level 0."""
        pixels = self.region(x * downsample, y * downsample, side * downsample, side * downsample)
        return pixels if downsample == 1 else cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def write_tiff(
    path: Path,
    canvas: Canvas,
    *,
    layout: str = "ome",
    downsamples: tuple[int, ...] = (1, 4),
    side: int = 256,
    compression: str = "deflate",
    extras: bool = False,
    states_mpp: bool = True,
) -> Path:
    """Write a tiled pyramid.

    ``layout``: ``"ome"`` (OME-TIFF with sub-images), ``"pages"`` (reduced pages, as libvips writes them) or ``"svs"``
    (pages with Aperio's description). ``extras`` adds a label and a macro, both red, as scanners do.
    """
    import tifffile

    per_cm = (1e4 / canvas.mpp, 1e4 / canvas.mpp) if states_mpp else None
    with tifffile.TiffWriter(path, bigtiff=True, ome=layout == "ome") as file:
        for n, downsample in enumerate(downsamples):
            width, height = canvas.level(downsample)
            options = {
                "shape": (height, width, 3),
                "dtype": np.uint8,
                "tile": (side, side),
                "photometric": "rgb",
                "compression": compression,
                "resolution": per_cm and tuple(v / downsample for v in per_cm),
                "resolutionunit": "CENTIMETER" if per_cm else None,
            }
            if layout == "ome":
                options["subifds"] = len(downsamples) - 1 if n == 0 else None
                if n == 0:
                    sizes = {f"PhysicalSize{a}": canvas.mpp for a in "XY"}
                    units = {f"PhysicalSize{a}Unit": "µm" for a in "XY"}
                    options["metadata"] = {"axes": "YXS", **(sizes | units if states_mpp else {})}
            else:
                options["metadata"] = None
                if layout == "svs":
                    said = f"Aperio Image Library v11.2.1\r\n{width}x{height} [0,0 {width}x{height}] (256x256)"
                    options["description"] = said + (f"|AppMag = 20|MPP = {canvas.mpp}" if states_mpp else "")
            options["subfiletype"] = int(n > 0)
            options = {name: value for name, value in options.items() if value is not None or name == "metadata"}
            if layout == "ome" and n:
                options.pop("metadata", None)
            file.write(_tiles(canvas, downsample, side, compression), **options)
            if layout == "svs" and n == 0:  # Aperio's second page is a small picture in strips
                small = canvas.tile(8, 0, 0, min(canvas.level(8)))
                file.write(small, photometric="rgb", metadata=None, description="Aperio Image Library v11.2.1\r\nthumb")
        if extras:
            red = np.zeros((120, 100, 3), np.uint8)
            red[..., 0] = 200
            for kind, name in ((1, "label"), (9, "macro")):
                said = {"metadata": {"Name": name}} if layout == "ome" else {
                    "metadata": None, "description": f"Aperio Image Library v11.2.1\r\n{name} 100x120"
                }  # fmt: skip
                file.write(red, photometric="rgb", subfiletype=0 if layout == "ome" else kind, **said)
    return path


def _tiles(canvas: Canvas, downsample: int, side: int, compression: str) -> Iterator[bytes | np.ndarray]:
    width, height = canvas.level(downsample)
    glass = np.empty((side, side, 3), np.uint8)
    glass[:] = GLASS
    encoded = zlib.compress(glass.tobytes())
    for y in range(0, height, side):
        for x in range(0, width, side):
            if canvas.touches(x * downsample, y * downsample, side * downsample, side * downsample):
                pixels = canvas.tile(downsample, x, y, side)
                yield zlib.compress(pixels.tobytes(), 1) if compression == "deflate" else pixels
            else:
                yield encoded if compression == "deflate" else glass


def write_zarr(
    path: Path,
    canvas: Canvas,
    *,
    version: int = 2,
    downsamples: tuple[int, ...] = (1, 4),
    side: int = 256,
    states_mpp: bool = True,
) -> Path:
    """Write an OME-Zarr: metadata 0.4 in zarr v2, 0.5 in zarr v3."""
    import zarr

    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", **({"unit": "micrometer"} if states_mpp else {})} for a in "yx"]
    datasets = [
        {
            "path": str(n),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, *[canvas.mpp * d if states_mpp else float(d)] * 2]}
            ],
        }
        for n, d in enumerate(downsamples)
    ]
    scales = [{"axes": axes, "datasets": datasets, "name": "slide", **({"version": "0.4"} if version == 2 else {})}]
    # Python 3.10 has zarr 2, which knows neither the new names nor version 3.
    modern = int(zarr.__version__.partition(".")[0]) >= 3
    group = zarr.open_group(str(path), mode="w", **({"zarr_format": version} if modern else {}))
    group.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"version": "0.5", "multiscales": scales}})
    for n, downsample in enumerate(downsamples):
        width, height = canvas.level(downsample)
        make = group.create_array if modern else group.create_dataset
        array = make(str(n), shape=(3, height, width), chunks=(3, side, side), dtype="uint8", fill_value=255)
        for y in range(0, height, side):
            for x in range(0, width, side):
                tile = canvas.tile(downsample, x, y, side)[: height - y, : width - x]
                array[:, y : y + side, x : x + side] = tile.transpose(2, 0, 1)
    return path


def without_level(path: Path, level: int) -> None:
    """Take a level of an OME-Zarr away, that its metadata go on speaking of."""
    import shutil

    assert json.loads((path / ".zattrs").read_text())["multiscales"][0]["datasets"][level]
    shutil.rmtree(path / str(level))
