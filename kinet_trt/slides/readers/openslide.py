"""Reader for the formats of scanners, with OpenSlide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from kinet_trt.core.errors import ImageError
from kinet_trt.io.pixel_size import pixel_size
from kinet_trt.slides.readers import dicom

GENERIC = "generic-tiff"
"""OpenSlide's name for a tiled TIFF of an unknown vendor."""
_BLOCK = 512  # px of a level


def vendor(path: Path) -> str | None:
    """Return OpenSlide's name of a file's vendor (``"aperio"``, ``"generic-tiff"``); None if it knows none."""
    try:
        return openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError as error:
        raise _error(error) from None


def _error(error: Exception) -> ImageError:
    """Return the error for a slide that OpenSlide cannot open: unsupported, or damaged."""
    if "nsupported" in str(error) or "not supported" in str(error):
        reason = dicom.with_names(str(error))
        return ImageError(f"OpenSlide does not read this kind of slide ({reason}): export it as OME-TIFF")
    return ImageError(f"the slide is damaged, or a file of it is missing ({error}): copy or export it again")


class OpenSlidePixels:
    """A slide opened with OpenSlide.

    If the file states the bounds of the scanned area, the slide is cropped to them, as in QuPath.

    A level whose downsample is not an integer is read in blocks of a fixed grid: OpenSlide interpolates there, and a
    pixel must not depend on the rectangle that is read.
    """

    def __init__(self, path: Path, maker: str) -> None:
        try:
            self._slide = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError) as error:
            raise _error(error) from None
        try:
            self._read_header(maker)
        except BaseException:
            self._slide.close()
            raise

    def _read_header(self, maker: str) -> None:
        properties = self._slide.properties
        self.format = f"{maker}, OpenSlide {openslide.__library_version__}"
        bounds = [properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
        self._downsamples: tuple[float, ...] = tuple(self._slide.level_downsamples)
        if all(bounds):
            self._left, self._top, width, height = (int(b) for b in bounds if b is not None)
            self.sizes: Sequence[tuple[int, int]] = [
                (max(1, int(width / d)), max(1, int(height / d))) for d in self._downsamples
            ]
        else:
            self._left = self._top = 0
            self.sizes = list(self._slide.level_dimensions)
        self.mpp, self.unused_size = pixel_size(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"))
        self.remarks: Sequence[str] = ()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See :class:`kinet_trt.slides.Pixels`."""
        if self._downsamples[level].is_integer():
            return self._rectangle(level, x, y, width, height)
        level_width, level_height = self.sizes[level]
        whole = np.empty((height, width, 3), np.uint8)
        for top in range(y // _BLOCK * _BLOCK, y + height, _BLOCK):
            for left in range(x // _BLOCK * _BLOCK, x + width, _BLOCK):
                size = min(_BLOCK, level_width - left), min(_BLOCK, level_height - top)
                block = self._rectangle(level, left, top, *size)
                x0, x1 = max(x, left), min(x + width, left + size[0])
                y0, y1 = max(y, top), min(y + height, top + size[1])
                whole[y0 - y : y1 - y, x0 - x : x1 - x] = block[y0 - top : y1 - top, x0 - left : x1 - left]
        return whole

    def _rectangle(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        downsample = self._downsamples[level]
        corner = self._left + round(x * downsample), self._top + round(y * downsample)
        rgba = np.asarray(self._slide.read_region(corner, level, (width, height)))
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        # Areas that were not scanned are shown as glass.
        share = alpha.astype(np.float32) / 255
        return np.rint(rgba[..., :3] * share + 255 * (1 - share)).astype(np.uint8)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
