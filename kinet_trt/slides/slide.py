"""Whole slides: `open_slide` finds the reader that suits a file, and gives a `Slide` whose regions can be read.

`kinet_trt.slides.readers.files` finds the files of a slide, `kinet_trt.slides.plan` decides which tiles are counted,
`kinet_trt.slides.tiles` counts them, `kinet_trt.slides.results_db` keeps their nuclei, `kinet_trt.slides.count` runs
these steps and resumes an interrupted run, and `kinet_trt.slides.writers` writes the results. Label and macro images
are never read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError, MissingExtraError
from kinet_trt.core.units import check_mpp
from kinet_trt.slides.readers import dicom, tiff_head
from kinet_trt.slides.readers.files import (
    COMPANION_SUFFIX,
    PICTURE_SUFFIXES,
    SET_SUFFIX,
    TIFF_SUFFIXES,
    is_ome_set,
    ndpi_set,
)
from kinet_trt.slides.readers.fingerprint import fingerprint

OPENSLIDE_SUFFIXES = (
    ".svs", ".ndpi", SET_SUFFIX, ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".avs", dicom.SUFFIX,
)  # fmt: skip
ZARR_SUFFIX = ".zarr"
_UNREAD: Mapping[str, str] = {
    ".vsi": "an Olympus VSI",
    ".isyntax": "a Philips iSyntax",
    ".i2syntax": "a Philips iSyntax",
    ".kfb": "a KFBio",
    ".sdpc": "a Sqray",
    ".mds": "a Motic",
    ".mdsx": "a Motic",
}
"""Slides that no reader opens, by suffix. A ``.vsi`` is a TIFF that holds only the label and an overview."""
_ZARR_FILES = ("zarr.json", ".zattrs", ".zgroup")
_WHITE = 255


@dataclass(frozen=True)
class Level:
    """One picture of the pyramid.

    Attributes
    ----------
    width, height
        px.
    downsample
        px of level 0 along one px of this level; px i covers the px of level 0 from ``i * downsample`` to
        ``(i + 1) * downsample``.
    """

    width: int
    height: int
    downsample: float


class Pixels(Protocol):
    """What a reader gives of an open file.

    Attributes
    ----------
    format
        What it is, in words.
    sizes
        Width and height of each level, px, the largest first.
    mpp
        um/px of level 0, where the file states it; else None.
    unused_size
        Why a pixel size that the file states is not used, in words; None where it is used, or none is stated.
    remarks
        What a person should know of how the file was read, a sentence each.
    """

    format: str
    sizes: Sequence[tuple[int, int]]
    mpp: float | None
    unused_size: str | None
    remarks: Sequence[str]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a rectangle that lies wholly inside a level, RGB uint8 [height, width, 3]; raise anything."""

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True, eq=False)
class Slide:
    """An open slide. Several threads may read it.

    Attributes
    ----------
    path
        The file, or the folder of an OME-Zarr.
    width, height
        Of level 0, px. All coordinates of nuclei and regions are px of level 0, pixel centres at integers.
    mpp
        um/px of level 0; None when it is not known.
    mpp_source
        How it is known: ``"file"`` or ``"option"``; empty when it is not.
    levels
        The pyramid, level 0 first.
    format
        What the file is, in words.
    fingerprint
        Of its size and content, hexadecimal: see :func:`kinet_trt.slides.readers.fingerprint.fingerprint`.
    pixels
        The reader.
    unused_size
        Why a pixel size that the file states is not used, in words; None where it is used, or none is stated.
    remarks
        What a person should know of how the file was read, a sentence each.
    """

    path: Path
    width: int
    height: int
    mpp: float | None
    mpp_source: str
    levels: tuple[Level, ...]
    format: str
    fingerprint: str
    pixels: Pixels
    unused_size: str | None = None
    remarks: tuple[str, ...] = ()

    def at(self, mpp: float | None) -> Slide:
        """Return the slide with another um/px, that somebody gave; None: as it is."""
        return self if mpp is None else dataclasses.replace(self, mpp=mpp, mpp_source="option")

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a rectangle of a level; what lies outside of it is white.

        Parameters
        ----------
        level
            Its number.
        x, y, width, height
            px of the level; may reach over its edges.

        Returns
        -------
        NDArray
            RGB, uint8 [height, width, 3].

        Raises
        ------
        ImageError
            If there is no such level, or what is there cannot be decoded.
        """
        if not 0 <= level < len(self.levels):
            raise ImageError(f"there is no level {level}: the slide has {len(self.levels)}, from 0 on")
        of = self.levels[level]
        left, top = max(0, x), max(0, y)
        right, bottom = min(of.width, x + width), min(of.height, y + height)
        if right <= left or bottom <= top:
            return np.full((height, width, 3), _WHITE, np.uint8)
        try:
            inside = self.pixels.read(level, left, top, right - left, bottom - top)
        # Readers raise many kinds of errors on damaged files; all of them mean the same to the user.
        except Exception as error:
            said = f"{error or type(error).__name__}".strip().splitlines()
            raise ImageError(
                f"level {level}, px {left} to {right} across and {top} to {bottom} down: cannot be decoded "
                f"({said[0] if said else error!r}): copy or export the slide again, or count a region without that part"
            ) from error
        if (right - left, bottom - top) == (width, height):
            return inside
        whole = np.full((height, width, 3), _WHITE, np.uint8)
        whole[top - y : bottom - y, left - x : right - x] = inside
        return whole

    def close(self) -> None:
        """Close the file."""
        self.pixels.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_slide(path: Path | str, mpp: float | None = None) -> Slide:
    """Open a slide with the reader that suits it.

    OpenSlide reads what it knows the maker of (SVS, NDPI, MRXS, SCN, BIF, DICOM, ...), tifffile any other TIFF
    (OME-TIFF and plain pyramids), zarr a folder with OME-Zarr metadata 0.4 or 0.5.

    Parameters
    ----------
    path
        The file or folder.
    mpp
        um/px of level 0, before what the file says.

    Raises
    ------
    KinetError
        If the packages of the extra ``slides`` are missing; an ImageError, if the file is damaged, holds no colour
        picture of 8 bits, or lacks a level that it speaks of.
    """
    path = Path(path)
    if mpp is not None:
        check_mpp(mpp)
    try:
        path.stat()
        mark = fingerprint(path)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    pixels = _open(path)
    try:
        sizes = list(pixels.sizes)
        width, height = sizes[0]
        levels = tuple(Level(w, h, _downsample(sizes[0], (w, h))) for w, h in sizes)
        known = pixels.mpp
    except BaseException:
        pixels.close()
        raise
    source = "file" if known else ""
    slide = Slide(
        path,
        width,
        height,
        known,
        source,
        levels,
        pixels.format,
        mark,
        pixels,
        pixels.unused_size,
        tuple(pixels.remarks),
    )
    return slide.at(mpp)


def is_slide(path: Path) -> bool:
    """Return whether a path is counted as a slide: by its suffix, or by its content where that says more.

    A TIFF is a slide when it is a tiled pyramid, comes from a scanner that OpenSlide knows, is one of an OME-TIFF set,
    or has more pixels than are read as one picture. A DICOM file is one whatever its name, and a folder with the
    metadata of an OME-Zarr.
    """
    # os.path, because pathlib raises where it may not look.
    if os.path.isdir(path):
        return is_zarr(path)
    suffix = path.suffix.lower()
    if suffix in OPENSLIDE_SUFFIXES or suffix in _UNREAD or path.name.lower().endswith(COMPANION_SUFFIX):
        return True
    if suffix in TIFF_SUFFIXES:
        return tiff_head.is_slide(path) or is_ome_set(path) or (tiff_head.is_tiled(path) and _has_known_maker(path))
    return suffix not in PICTURE_SUFFIXES and dicom.is_dicom(path)


def is_zarr(path: Path) -> bool:
    """Return whether a path is a folder with the metadata of a zarr."""
    return any(os.path.isfile(path / name) for name in _ZARR_FILES)  # noqa: PTH113 - pathlib raises


def _has_known_maker(path: Path) -> bool:
    if not find_spec("openslide"):
        return False
    from kinet_trt.slides.readers.openslide import GENERIC, vendor

    try:
        return vendor(path) not in (None, GENERIC)
    except ImageError:
        return False


def _open(path: Path) -> Pixels:
    if path.is_dir():
        _need("zarr")
        from kinet_trt.slides.readers.zarr import ZarrPixels

        return ZarrPixels(path)
    if what := _UNREAD.get(path.suffix.lower()):
        raise ImageError(f"{what} slide, which is not read: export it as OME-TIFF, SVS or DICOM")
    _need("openslide", "tifffile", "imagecodecs")
    if path.suffix.lower() == SET_SUFFIX:
        path = _only_of_set(path)
    if dicom.is_dicom(path):
        _need("pydicom")
        if why := dicom.why_no_slide(path):
            raise ImageError(why)
    from kinet_trt.slides.readers.openslide import GENERIC, OpenSlidePixels, vendor

    maker = vendor(path)
    if maker and maker != GENERIC:
        return OpenSlidePixels(path, maker)
    from kinet_trt.slides.readers.tiff import TiffPixels

    return TiffPixels(path)


def _only_of_set(path: Path) -> Path:
    """Return the one slide of a set of NDPI files."""
    slides = ndpi_set(path)
    if len(slides) != 1:
        raise ImageError(
            f"a set of {len(slides)} NDPI files that are there, one for each stain or channel; expected one: name the "
            "NDPI file to count"
        )
    return slides[0]


def _need(*modules: str) -> None:
    for module in modules:
        if not find_spec(module):
            raise MissingExtraError("Reading slides", "slides", module)


def _downsample(whole: tuple[int, int], level: tuple[int, int]) -> float:
    """Return px of level 0 a px of a level: the whole number where both sides fit one, rounded either way."""
    ratio = whole[0] / level[0] if whole[0] >= whole[1] else whole[1] / level[1]
    near = max(1, round(ratio))
    fits = all(abs(a / near - b) < 1 for a, b in zip(whole, level, strict=True))
    return float(near) if fits else ratio
