"""Reader for TIFF with tifffile: OME-TIFF, also of several files, and pyramids in sub-images or pages.

Only the tiles or strips in the requested rectangle are decoded. Those that a sparse file leaves out are white.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError
from kinet_trt.io.ome import Ome, OmeImage
from kinet_trt.io.pixel_size import described, first_usable, pixel_size, resolution
from kinet_trt.io.tiff import colour_order, quiet_tifffile, ratio
from kinet_trt.slides.readers import tiff_tags
from kinet_trt.slides.readers.files import COMPANION_SUFFIX, ome_of, tiffs_of
from kinet_trt.slides.readers.main_image import is_aside, others_remark

_COLOUR_AXES = ("C", "S", "I", "Q")
"""Axes of tifffile along which three grey pages may be colours: channels, samples and unknown."""
_MAX_SEGMENT_BYTES = 1 << 28
"""Maximum size of a decoded tile or strip."""


@dataclass(frozen=True, eq=False)
class _Plane:
    """One or all channels of a level: a TiffPage or TiffFrame, and the index of its first segment."""

    page: Any
    first: int  # the planes of a page are stored one after another


class TiffPixels:
    """The largest image of a TIFF that is not a label, macro or thumbnail."""

    def __init__(self, path: Path) -> None:
        metadata, self._ome = ome_of(path)
        path = _tiff_of(path, self._ome)
        # The metadata of a companion file replace those that the TIFF lacks.
        options: dict[str, Any] = (
            {"omexml": metadata.read_text("utf-8-sig"), "is_ome": True} if metadata != path else {}
        )
        self._levels: list[list[_Plane]] = []
        with quiet_tifffile():
            try:
                self._file: Any = tifffile.TiffFile(path, **options)
            except Exception as error:  # tifffile raises many kinds on damaged files
                raise ImageError(f"not a TIFF, or a damaged one ({error}): copy or export it again") from None
            try:
                self._read_header()
            except ImageError:
                self.close()
                raise
            except Exception as error:
                self.close()
                raise ImageError(f"the TIFF is damaged ({error}): copy or export it again") from None

    def _read_header(self) -> None:
        every = self._file.series
        # Metadata may describe images in other files, which are counted separately.
        own = [one for one in every if any(page and page.parent is self._file for page in one.pages)] or every
        pictures = [one for one in own if not is_aside(one.name)] or own
        if not pictures:
            raise ImageError("the TIFF contains no image")
        picture = max(pictures, key=lambda one: one.size)
        image = _image_of(self._ome, picture, every) if self._ome else None
        self.format = f"{'OME-TIFF' if self._file.is_ome else 'TIFF'}, tifffile {tifffile.__version__}"
        self._levels, taken = _levels(picture, image)
        first = self._levels[0][0].page.keyframe
        # tifffile ends a pyramid of pages at a level that is much smaller than the previous one.
        known = {planes[0].page.keyframe.imagewidth for planes in self._levels}
        self._levels += [_planes_of(page) for page in self._smaller(first) if page.keyframe.imagewidth not in known]
        self._levels.sort(key=lambda planes: -planes[0].page.keyframe.imagewidth)
        self.sizes: Sequence[tuple[int, int]] = [
            (planes[0].page.keyframe.imagewidth, planes[0].page.keyframe.imagelength) for planes in self._levels
        ]
        for file in self._files():
            if file.filehandle.closed:  # tifffile closes the other files of a set
                file.filehandle.open()
        self.mpp, self.unused_size = self._mpp(first, image)
        others = [(_size(one), one.name) for one in own if one is not picture and _size(one) not in self.sizes]
        self.remarks: Sequence[str] = (*taken, *others_remark(self.sizes[0], others))

    def _mpp(self, first: Any, image: OmeImage | None) -> tuple[float | None, str | None]:
        """Return the um/px from the metadata or else the tags, and why a stated size is not used."""
        if image and image.unused:
            return None, image.unused
        if image and image.mpp:
            return pixel_size(*image.mpp)
        text, unit = self._file.pages[0].tags.get(270), first.tags.get(296)
        density = [ratio(first.tags.get(number)) for number in (282, 283)]
        stated = described(str(text.value) if text else "", density) if self._ome is None else None
        return first_usable([stated, resolution(density, int(unit.value) if unit else 2)])

    def _smaller(self, first: Any) -> list[Any]:
        """Return the pages that are levels of the first page; labels and overviews have other proportions."""
        whole = first.imagewidth, first.imagelength
        return [
            page
            for page in self._file.pages[1:]
            if page.keyframe.is_tiled
            and page.keyframe.samplesperpixel == first.samplesperpixel
            and tiff_tags.is_level(whole, (page.keyframe.imagewidth, page.keyframe.imagelength))
        ]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See :class:`kinet_trt.slides.Pixels`."""
        planes = self._levels[level]
        if len(planes) == 1:
            return self._read_plane(planes[0], x, y, width, height, 3)
        parts = [self._read_plane(plane, x, y, width, height, 1) for plane in planes]
        return np.concatenate(parts, axis=2)

    def _read_plane(self, plane: _Plane, x: int, y: int, width: int, height: int, channels: int) -> NDArray[np.uint8]:
        page, key = plane.page, plane.page.keyframe
        tile_width, tile_height = _segment_size(key)
        columns = -(-key.imagewidth // tile_width)
        whole = np.full((height, width, channels), 255, np.uint8)
        for row in range(y // tile_height, (y + height - 1) // tile_height + 1):
            for column in range(x // tile_width, (x + width - 1) // tile_width + 1):
                segment = self._segment(page, plane.first + row * columns + column)
                if segment is None:
                    continue
                left, top = column * tile_width, row * tile_height
                x0, x1 = max(x, left), min(x + width, left + tile_width)
                y0, y1 = max(y, top), min(y + height, top + tile_height)
                part = segment[y0 - top : y1 - top, x0 - left : x1 - left, :channels]
                if part.shape != (y1 - y0, x1 - x0, channels):
                    raise ValueError(f"a tile of {segment.shape[1]} x {segment.shape[0]} px is smaller than expected")
                whole[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return whole

    def _segment(self, page: Any, number: int) -> NDArray[np.uint8] | None:
        """Return a decoded tile or strip, [height, width, channels]; None if the file leaves it out."""
        offset, length = page.dataoffsets[number], page.databytecounts[number]
        if length == 0:
            return None
        handle = page.parent.filehandle
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
        for file in self._files():
            file.filehandle.close()
        self._file.close()

    def _files(self) -> Iterable[Any]:
        """Return the open files of a set, each once."""
        return {id(plane.page.parent): plane.page.parent for level in self._levels for plane in level}.values()


def _tiff_of(path: Path, ome: Ome | None) -> Path:
    """Return the TIFF to open: for a companion file, the first existing file that it names."""
    if not path.name.lower().endswith(COMPANION_SUFFIX) or ome is None:
        return path
    images = sorted(ome.images, key=lambda one: -one.width * one.height)
    found = next((file for image in images for file in tiffs_of(path, image)), None)
    if found is None:
        raise ImageError("OME metadata without TIFF files: put the files that they name into the same folder")
    return found


def _image_of(ome: Ome, picture: Any, every: Sequence[Any]) -> OmeImage | None:
    """Return the metadata of an image: those with its index if the sizes agree, else those of its size and name."""
    fitting = [one for one in ome.images if (one.width, one.height) == _size(picture)]
    place = next(n for n, one in enumerate(every) if one is picture)
    if len(every) == len(ome.images) and ome.images[place] in fitting:
        return ome.images[place]
    return next((one for one in fitting if one.name == picture.name), fitting[0] if fitting else None)


def _size(picture: Any) -> tuple[int, int]:
    """Return width and height of a tifffile series, px."""
    key = picture.keyframe
    return key.imagewidth, key.imagelength


def _levels(picture: Any, image: OmeImage | None) -> tuple[list[list[_Plane]], tuple[str, ...]]:
    """Return the planes of each level, and a remark if three grey pages are read as colours."""
    pages = list(picture.levels[0].pages)
    if len(pages) != 3 or any(page is None or page.keyframe.samplesperpixel != 1 for page in pages):
        return [_planes(level) for level in picture.levels], ()
    axes = picture.axes.replace("Y", "").replace("X", "")
    if axes not in _COLOUR_AXES or (image and image.planes > 1):
        raise ImageError(
            f"expected one RGB image, found a stack of 3 grey planes ({picture.axes} {list(picture.shape)}): export "
            "the plane to count as RGB"
        )
    names = image.channels if image else ()
    order = colour_order(names)
    levels = [[planes[n] for n in order or range(3)] for planes in map(_planes, picture.levels)]
    if order:
        return levels, ()
    shown = f" ({', '.join(names)})" if len(names) == 3 and all(map(str.strip, names)) else ""
    return levels, (f"The file contains three grey planes{shown}; they were read as red, green and blue.",)


def _planes(level: Any) -> list[_Plane]:
    """Return the planes of a level of a series."""
    pages = list(level.pages)
    if any(page is None for page in pages):
        raise ImageError("a level of the slide, or a file of its set, is missing: copy or export the slide again")
    if len(pages) == 1:
        return _planes_of(pages[0])
    if len(pages) == 3 and all(page.keyframe.samplesperpixel == 1 for page in pages):
        planes = [_Plane(page, 0) for page in pages]
        _check(pages[0].keyframe, 3)
        return planes
    raise ImageError(
        f"expected one RGB image, found {len(pages)} planes ({level.axes} {list(level.shape)}): export the "
        "plane to count as RGB"
    )


def _planes_of(page: Any) -> list[_Plane]:
    key = page.keyframe
    _check(key, key.samplesperpixel)
    if key.planarconfig == 1 or key.samplesperpixel == 1:
        return [_Plane(page, 0)]
    plane_segments = len(page.dataoffsets) // key.samplesperpixel
    return [_Plane(page, plane_segments * n) for n in range(3)]


def _check(key: Any, channels: int) -> None:
    try:
        tifffile.TIFF.DECOMPRESSORS[key.compression]
    except KeyError:
        name = getattr(key.compression, "name", key.compression)
        raise ImageError(
            f"TIFF with {name} compression, which is not supported: export it with deflate, LZW or JPEG compression"
        ) from None
    if key.dtype != np.uint8 or channels not in (3, 4) or key.imagedepth != 1:
        raise ImageError(f"expected 8-bit RGB, found {channels} channels of {key.dtype}: export the slide as 8-bit RGB")
    tile_width, tile_height = _segment_size(key)
    if tile_width * tile_height * channels > _MAX_SEGMENT_BYTES:
        raise ImageError(
            f"tiles of {tile_width} x {tile_height} px are too large for memory: export it as a tiled pyramid"
        )


def _segment_size(key: Any) -> tuple[int, int]:
    """Return width and height of a tile or strip, px."""
    return (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
