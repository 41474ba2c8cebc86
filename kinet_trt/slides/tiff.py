"""What tifffile reads: OME-TIFF, and TIFF whose pyramid lies in sub-images or in reduced pages.

Only the tiles or strips that a rectangle touches are read and decoded. Empty ones, that a sparse file leaves out, are
white.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from kinet_trt.errors import ImageError
from kinet_trt.images import described_mpp, square_mpp

log = logging.getLogger(__name__)

_REDUCED = 1  # bit of NewSubfileType
_LARGEST_SEGMENT = 1 << 28
"""Bytes of a tile or strip, decoded; a picture in one strip would have to be read whole."""


@dataclass(frozen=True, eq=False)
class _Plane:
    """Where one or all channels of a level are.

    Attributes
    ----------
    page
        A TiffPage or TiffFrame.
    first
        Number of its first segment: planes of one page follow each other.
    """

    page: Any
    first: int


class TiffPixels:
    """A TIFF that tifffile reads; of several pictures in it the largest."""

    def __init__(self, path: Path) -> None:
        with _quiet():
            try:
                self._file: Any = tifffile.TiffFile(path)
            except Exception as error:  # tifffile raises many kinds on damaged files
                raise ImageError(f"not a TIFF, or a damaged one ({error}): copy or export it again") from None
            try:
                self._read_head()
            except ImageError:
                self._file.close()
                raise
            except Exception as error:
                self._file.close()
                raise ImageError(f"the TIFF is damaged ({error}): copy or export it again") from None

    def _read_head(self) -> None:
        pictures = [one for one in self._file.series if "thumb" not in one.name.lower()]
        if not pictures:
            raise ImageError("the TIFF holds no picture")
        picture = max(pictures, key=lambda one: one.size)
        self.format = f"{'OME-TIFF' if self._file.is_ome else 'TIFF'}, tifffile {tifffile.__version__}"
        self._levels = [_planes(level) for level in picture.levels]
        first = self._levels[0][0].page.keyframe
        # tifffile ends a pyramid of pages where a level is much smaller than the one before.
        known = {planes[0].page.keyframe.imagewidth for planes in self._levels}
        self._levels += [_planes_of(page) for page in self._reduced(first) if page.keyframe.imagewidth not in known]
        self._levels.sort(key=lambda planes: -planes[0].page.keyframe.imagewidth)
        self.sizes: Sequence[tuple[int, int]] = [
            (planes[0].page.keyframe.imagewidth, planes[0].page.keyframe.imagelength) for planes in self._levels
        ]
        self.mpp = self._mpp(first)

    def _mpp(self, first: Any) -> float | None:
        """Return um/px of the largest picture: the description's, else of the resolution tags."""
        text, unit = self._file.pages[0].tags.get(270), first.tags.get(296)
        density = [_ratio(first.tags.get(number)) for number in (282, 283)]
        if sizes := described_mpp(str(text.value) if text else "", density):
            return square_mpp(*sizes)
        um = {2: 25_400, 3: 10_000}.get(int(unit.value) if unit else 2)
        across, down = (um / value if um and value else None for value in density)
        return square_mpp(across, down)

    def _reduced(self, first: Any) -> list[Any]:
        """Return the pages that are the first page's pyramid; a label or an overview has other proportions."""
        found, width, height = [], first.imagewidth, first.imagelength
        for page in self._file.pages[1:]:
            one = page.keyframe
            if not (one.subfiletype & _REDUCED and one.is_tiled and one.samplesperpixel == first.samplesperpixel):
                continue
            ratio = max(width / one.imagewidth, height / one.imagelength)
            if abs(width / ratio - one.imagewidth) <= 1 and abs(height / ratio - one.imagelength) <= 1 and ratio > 1:
                found.append(page)
        return found

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See :class:`kinet_trt.slides.Pixels`."""
        planes = self._levels[level]
        if len(planes) == 1:
            return self._read_plane(planes[0], x, y, width, height, 3)
        parts = [self._read_plane(plane, x, y, width, height, 1) for plane in planes]
        return np.concatenate(parts, axis=2)

    def _read_plane(self, plane: _Plane, x: int, y: int, width: int, height: int, channels: int) -> NDArray[np.uint8]:
        page, key = plane.page, plane.page.keyframe
        across, down = (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
        columns = -(-key.imagewidth // across)
        whole = np.full((height, width, channels), 255, np.uint8)
        for row in range(y // down, (y + height - 1) // down + 1):
            for column in range(x // across, (x + width - 1) // across + 1):
                segment = self._segment(page, plane.first + row * columns + column)
                if segment is None:
                    continue
                left, top = column * across, row * down
                x0, x1 = max(x, left), min(x + width, left + across)
                y0, y1 = max(y, top), min(y + height, top + down)
                part = segment[y0 - top : y1 - top, x0 - left : x1 - left, :channels]
                if part.shape != (y1 - y0, x1 - x0, channels):
                    raise ValueError(f"a tile of {segment.shape[1]} x {segment.shape[0]} px where more was promised")
                whole[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return whole

    def _segment(self, page: Any, number: int) -> NDArray[np.uint8] | None:
        """Return a decoded tile or strip, [height, width, channels]; None: it is left out of the file."""
        offset, length = page.dataoffsets[number], page.databytecounts[number]
        if length == 0:
            return None
        handle = self._file.filehandle
        with handle.lock:
            handle.seek(offset)
            data = handle.read(length)
        if len(data) != length:
            raise ValueError("the file is cut short")
        key = page.keyframe
        tables: dict[str, Any] = {}
        if key.compression in (6, 7, 34892, 33007):  # JPEG
            tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        decoded, _, _ = key.decode(data, number, _fullsize=key.is_tiled, **tables)
        return None if decoded is None else np.asarray(decoded[0])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile from logging what it finds odd: of a damaged file there is one message, ours."""

    def says_nothing(record: logging.LogRecord) -> bool:
        log.debug("tifffile: %s", record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(says_nothing)
    try:
        yield
    finally:
        logger.removeFilter(says_nothing)


def _planes(level: Any) -> list[_Plane]:
    """Return the planes of a level of a series."""
    pages = list(level.pages)
    if any(page is None for page in pages):
        raise ImageError("a level of the slide is missing: copy or export it again")
    if len(pages) == 1:
        return _planes_of(pages[0])
    if len(pages) == 3 and all(page.keyframe.samplesperpixel == 1 for page in pages):
        planes = [_Plane(page, 0) for page in pages]
        _check(pages[0].keyframe, 3)
        return planes
    raise ImageError(
        f"expected one RGB picture, found {len(pages)} planes ({level.axes} {list(level.shape)}): export the "
        "plane to count as RGB"
    )


def _planes_of(page: Any) -> list[_Plane]:
    key = page.keyframe
    _check(key, key.samplesperpixel)
    if key.planarconfig == 1 or key.samplesperpixel == 1:
        return [_Plane(page, 0)]
    each = len(page.dataoffsets) // key.samplesperpixel
    return [_Plane(page, each * n) for n in range(3)]


def _check(key: Any, channels: int) -> None:
    if key.dtype != np.uint8 or channels not in (3, 4) or key.imagedepth != 1:
        raise ImageError(
            f"expected RGB of 8 bits, found {channels} channels of {key.dtype}: export the slide as 8-bit RGB"
        )
    across, down = (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
    if across * down * channels > _LARGEST_SEGMENT:
        raise ImageError(
            f"it is stored in pieces of {across} x {down} px, each too large for memory: export it as a tiled pyramid"
        )


def _ratio(tag: Any) -> float | None:
    try:
        over, under = tag.value
        return float(over) / float(under)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None
