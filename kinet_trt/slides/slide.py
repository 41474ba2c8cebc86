"""Whole slides: :func:`open_slide` selects the reader for a file and returns a :class:`Slide`.

`kinet_trt.slides.readers.files` finds the files of a slide, `kinet_trt.slides.plan` selects the tiles to count,
`kinet_trt.slides.tiles` counts them, `kinet_trt.slides.results_db` stores their nuclei, and `kinet_trt.slides.count`
runs these steps and resumes an interrupted run. Label and macro images are never read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError, MissingExtraError
from kinet_trt.slides.readers import dicom, tiff_tags
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
_UNSUPPORTED: Mapping[str, str] = {
    ".vsi": "an Olympus VSI",
    ".isyntax": "a Philips iSyntax",
    ".i2syntax": "a Philips iSyntax",
    ".kfb": "a KFBio",
    ".sdpc": "a Sqray",
    ".mds": "a Motic",
    ".mdsx": "a Motic",
}
"""Slide formats that no reader supports, by suffix. A ``.vsi`` is a TIFF of the label and an overview only."""
_ZARR_FILES = ("zarr.json", ".zattrs", ".zgroup")
_WHITE = 255


@dataclass(frozen=True)
class Level:
    """A level of the pyramid: its size, px, and px of level 0 per px of this level.

    Px i covers the px of level 0 from ``i * downsample`` to ``(i + 1) * downsample``.
    """

    width: int
    height: int
    downsample: float


class Pixels(Protocol):
    """A slide file opened by one of the readers.

    Attributes
    ----------
    format
        Name of the file format.
    sizes
        Width and height of each level, px, the largest first.
    mpp
        um/px of level 0; None if the file does not state it.
    unused_size
        Why a pixel size that the file states is not used; None if it is used, or none is stated.
    remarks
        Notes on how the file was read, one sentence each.
    """

    format: str
    sizes: Sequence[tuple[int, int]]
    mpp: float | None
    unused_size: str | None
    remarks: Sequence[str]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a rectangle inside a level, RGB uint8 [height, width, 3]; may raise any exception."""

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True, eq=False)
class Slide:
    """An open slide. Reading is thread-safe.

    Attributes
    ----------
    path
        The file, or the folder of an OME-Zarr.
    levels
        The pyramid, level 0 first. Coordinates of nuclei and regions are px of level 0, pixel centres at integers.
    mpp
        um/px of level 0; None if it is not known.
    mpp_source
        Source of ``mpp``: ``"file"`` or ``"option"``; empty if it is not known.
    fingerprint
        Hash of size and content, hexadecimal: see :func:`kinet_trt.slides.readers.fingerprint.fingerprint`.
    pixels
        The reader.
    """

    path: Path
    levels: tuple[Level, ...]
    mpp: float | None
    mpp_source: str
    fingerprint: str
    pixels: Pixels

    @property
    def width(self) -> int:
        """Width of level 0, px."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Height of level 0, px."""
        return self.levels[0].height

    @property
    def format(self) -> str:
        """Name of the file format."""
        return self.pixels.format

    @property
    def unused_size(self) -> str | None:
        """Why a pixel size that the file states is not used; None if it is used, or none is stated."""
        return self.pixels.unused_size

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes on how the file was read, one sentence each."""
        return tuple(self.pixels.remarks)

    def at(self, mpp: float | None) -> Slide:
        """Return the slide with another um/px; unchanged if None."""
        return self if mpp is None else replace(self, mpp=mpp, mpp_source="option")

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a rectangle of a level; pixels outside of the level are white.

        Parameters
        ----------
        level
            Index in ``levels``.
        x, y, width, height
            px of the level; may extend beyond its edges.

        Returns
        -------
        NDArray
            RGB, uint8 [height, width, 3].

        Raises
        ------
        ImageError
            If there is no such level, or the pixels cannot be decoded.
        """
        if not 0 <= level < len(self.levels):
            raise ImageError(f"there is no level {level}: expected 0 to {len(self.levels) - 1}")
        size = self.levels[level]
        left, top = max(0, x), max(0, y)
        right, bottom = min(size.width, x + width), min(size.height, y + height)
        whole = np.full((height, width, 3), _WHITE, np.uint8)
        if right <= left or bottom <= top:
            return whole
        try:
            inside = self.pixels.read(level, left, top, right - left, bottom - top)
        # Readers raise many kinds of errors on damaged files; all of them mean the same to the user.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ImageError(
                f"level {level}, px {left} to {right} across and {top} to {bottom} down: cannot be decoded ({reason}): "
                "copy or export the slide again, or count a region without that part"
            ) from error
        if (right - left, bottom - top) == (width, height):
            return inside
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
    """Open a slide with the reader for its format.

    Parameters
    ----------
    path
        The file or folder.
    mpp
        um/px of level 0; overrides the file's.

    Raises
    ------
    KinetError
        If the packages of the extra ``slides`` are missing; an ImageError if the file is damaged, contains no 8-bit
        colour image, or lacks a level that its metadata name.
    """
    path = Path(path)
    if mpp is not None and not 0 < mpp < float("inf"):
        raise ImageError(f"µm/px: expected a positive number, found {mpp}")
    try:
        path.stat()
        slide_hash = fingerprint(path)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    pixels = _open(path)
    try:
        levels = tuple(Level(*size, _downsample(pixels.sizes[0], size)) for size in pixels.sizes)
        return Slide(path, levels, pixels.mpp, "file" if pixels.mpp else "", slide_hash, pixels).at(mpp)
    except BaseException:
        pixels.close()
        raise


def is_slide(path: Path) -> bool:
    """Return whether a path is counted as a slide, by its suffix, or by its content if the suffix is ambiguous.

    A TIFF is a slide if it is a tiled pyramid, comes from a scanner that OpenSlide knows, is part of an OME-TIFF set,
    or has more pixels than are read as one image. A DICOM file is a slide whatever its name, and so is a folder with
    the metadata of an OME-Zarr.
    """
    # os.path, because pathlib raises without permission.
    if os.path.isdir(path):
        return is_zarr(path)
    suffix = path.suffix.lower()
    if suffix in OPENSLIDE_SUFFIXES or suffix in _UNSUPPORTED or path.name.lower().endswith(COMPANION_SUFFIX):
        return True
    if suffix in TIFF_SUFFIXES:
        return tiff_tags.is_slide(path) or is_ome_set(path) or (tiff_tags.is_tiled(path) and _has_known_vendor(path))
    return suffix not in PICTURE_SUFFIXES and dicom.is_dicom(path)


def is_zarr(path: Path) -> bool:
    """Return whether a path is a folder with the metadata of a zarr."""
    return any(os.path.isfile(path / name) for name in _ZARR_FILES)  # noqa: PTH113 - pathlib raises


def _has_known_vendor(path: Path) -> bool:
    if not find_spec("openslide"):
        return False
    from kinet_trt.slides.readers.openslide import GENERIC, vendor

    try:
        return vendor(path) not in (None, GENERIC)
    except ImageError:
        return False


def _open(path: Path) -> Pixels:
    if path.is_dir():
        _require("zarr")
        from kinet_trt.slides.readers.zarr import ZarrPixels

        return ZarrPixels(path)
    if format_ := _UNSUPPORTED.get(path.suffix.lower()):
        raise ImageError(f"{format_} slide, which is not read: export it as OME-TIFF, SVS or DICOM")
    _require("openslide", "tifffile", "imagecodecs")
    if path.suffix.lower() == SET_SUFFIX:
        path = _only_slide_of_set(path)
    if dicom.is_dicom(path):
        _require("pydicom")
        if reason := dicom.why_no_slide(path):
            raise ImageError(reason)
    from kinet_trt.slides.readers.openslide import GENERIC, OpenSlidePixels, vendor

    maker = vendor(path)
    if maker and maker != GENERIC:
        return OpenSlidePixels(path, maker)
    from kinet_trt.slides.readers.tiff import TiffPixels

    return TiffPixels(path)


def _only_slide_of_set(path: Path) -> Path:
    """Return the slide of a set of NDPI files that contains one."""
    slides = ndpi_set(path)
    if len(slides) != 1:
        raise ImageError(
            f"a set of {len(slides)} NDPI files, one for each stain or channel, expected one: name the file to count"
        )
    return slides[0]


def _require(*modules: str) -> None:
    for module in modules:
        if not find_spec(module):
            raise MissingExtraError("Reading slides", "slides", module)


def _downsample(whole: tuple[int, int], level: tuple[int, int]) -> float:
    """Return px of level 0 per px of a level: a whole number if both sides fit one, rounded up or down."""
    ratio = whole[0] / level[0] if whole[0] >= whole[1] else whole[1] / level[1]
    integer = max(1, round(ratio))
    fits = all(abs(a / integer - b) < 1 for a, b in zip(whole, level, strict=True))
    return float(integer) if fits else ratio
