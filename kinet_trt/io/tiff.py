"""Read TIFF files.

tifffile finds the pages. Pillow decodes pages of 8 bits, tifffile other pages, and OpenCV those that neither decodes.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from kinet_trt.core.errors import ImageError
from kinet_trt.io.bit_depth import to_8_bit
from kinet_trt.io.jpeg import find_damage
from kinet_trt.io.ome import OmeImage, is_ome, read_ome
from kinet_trt.io.pillow import EIGHT_BIT_MODES, MAX_IMAGE_PIXELS, as_stored, over_white, to_rgb
from kinet_trt.io.pixel_size import Stated, described, positive, resolution

log = logging.getLogger(__name__)

COLOURS = ("red", "green", "blue")

_REDUCED = 1  # bit of NewSubfileType
_SMALL = 0.26
"""Maximum area of a copy or thumbnail, as a share of the area of the page."""
_AXES = {"Z": "z stack", "T": "time series", "C": "channels", "S": "samples"}
_COLOUR_AXES = "CIQS"
"""Axes along which three grey pages are colours: channels, samples, and axes of unknown meaning."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6  # photometric interpretations
_JPEG = 7
_DEFLATE = (8, 32946)
_PILLOW = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
"""Compressions of Pillow: none, CCITT, LZW, JPEG, deflate, PackBits."""
_PREMULTIPLIED, _ALPHA = 1, 2  # extra samples


Picture = tuple[NDArray[np.uint8], Sequence[Stated | None], tuple[str, ...]]
"""RGB, uint8 [height, width, 3]; pixel sizes from several places of the file, the most reliable first; notes on how it
was read."""


def read_tiff(data: bytes) -> Picture:
    """Read the largest picture of a TIFF file from its bytes; the first of several with the same size.

    The orientation tag is not applied. A picture that is too large or of an unsupported kind is an ImageError; a file
    that is damaged may raise any exception.
    """
    with quiet_tifffile(), _open(data) as file:
        pages, remarks = _select(file)
        first = pages[0].keyframe
        if first.imagewidth * first.imagelength > MAX_IMAGE_PIXELS:
            raise ImageError(
                f"too large to read as one image ({first.imagewidth} x {first.imagelength} px): export a region of it"
            )
        text = file.pages[0].description
        own = first.description if first.index else ""
        density = [ratio(first.tags.get(number)) for number in (282, 283)]
        unit = int(_value(first, 296, 2))
        size = first.imagewidth, first.imagelength
        sizes = described(own, density, size), described(text, density, size), resolution(density, unit)
        parts = []
        for page in pages:
            part, notes = _read_page(page, data, _significant_bits(text, size))
            parts.append(part)
            remarks += notes
    pixels = parts[0] if len(parts) == 1 else np.stack([part[..., 0] for part in parts], axis=2)
    return np.ascontiguousarray(pixels), sizes, tuple(dict.fromkeys(remarks))


def _open(data: bytes) -> Any:
    """Open a TIFF, without its metadata if tifffile cannot parse them."""
    file = tifffile.TiffFile(io.BytesIO(data))
    try:
        assert file.series
    except Exception as error:
        log.debug("TIFF metadata are ignored: %s", error)
        return tifffile.TiffFile(io.BytesIO(data), is_ome=False, is_imagej=False, is_shaped=False)
    return file


def _select(file: Any) -> tuple[Sequence[Any], tuple[str, ...]]:
    """Select the largest picture: a colour page, or those of red, green and blue; return it with notes."""
    whole = [one for one in file.series if any(page is not None for page in one.pages)]
    if not whole:
        raise ImageError("the TIFF holds no picture")
    # Prefer colour: a mask of the same size may come before the picture.
    series = max(whole, key=lambda one: _rank(next(page for page in one.pages if page is not None)))
    pages = list(series.pages)
    page = next(page for page in pages if page is not None)
    axes = series.axes[: -len(page.axes)]
    shape = tuple(series.shape[: len(axes)])
    if not series.axes.endswith(page.axes) or int(np.prod(shape)) != len(pages):
        axes, shape = "Q" if len(pages) > 1 else "", (len(pages),)
    grey = _is_grey(page)
    # In ImageJ the slices of a stack may be labelled Red, Green, Blue.
    along = axes if colour_order(_channel_names(file)) else _COLOUR_AXES
    colour = next((axis for axis in axes if axis in along), None) if grey else None
    if colour and shape[axes.index(colour)] == len(COLOURS):
        grid = np.moveaxis(np.arange(len(pages)).reshape(shape), axes.index(colour), -1).reshape(-1, len(COLOURS))
        chosen = next(([pages[n] for n in row] for row in grid if all(pages[n] is not None for n in row)), None)
        if chosen:
            rest = axes.replace(colour, "")
            return _in_order(file, chosen), _colour_remarks(file, colour) + _others(file, chosen, rest, shape)
    if colour == "C" and shape[axes.index("C")] > 1:
        count = shape[axes.index("C")]
        raise ImageError(f"expected red, green and blue, found {count} channels in grey pages: save the picture as RGB")
    if grey and len(pages) > 1:
        raise ImageError(f"expected red, green and blue, found {len(pages)} grey pages: save the picture as RGB")
    return [page], _others(file, [page], axes, shape)


def _others(file: Any, chosen: Sequence[Any], axes: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Return a note on pages that are not read, other than smaller copies."""
    numbers = {page.index for page in chosen}
    area = _area(chosen[0])
    left = [page.keyframe for page in file.pages if page.index not in numbers]
    missed = [one for one in left if not (one.subfiletype & _REDUCED or _area(one) <= _SMALL * area)]
    if not missed and min(numbers) == 0:
        return ()
    total = len(file.pages)
    if len(missed) == len(left) and any(count > 1 for count in shape):
        kinds = dict.fromkeys(_AXES[axis] for axis in axes if axis in _AXES)
        why = f" ({', '.join(kinds)})" if kinds else ""
    else:
        why = ", the largest" if _area(chosen[0]) > max(map(_area, left)) else ", the largest in colour"
    first = min(numbers) + 1
    which = f"Page {first} of {total} is" if len(chosen) == 1 else f"Pages {first} to {max(numbers) + 1} of {total} are"
    return (f"{which} read{why}; the others are not counted.",)


def _colour_remarks(file: Any, axis: str) -> tuple[str, ...]:
    if axis in "IQ":
        return ("Three grey pages are read as red, green and blue.",)
    names = _channel_names(file)
    if len(names) == len(COLOURS) and all(names) and colour_order(names) is None:
        return (f"The channels {', '.join(names)} are read as red, green and blue.",)
    return ()


def _in_order(file: Any, pages: Sequence[Any]) -> Sequence[Any]:
    order = colour_order(_channel_names(file))
    return [pages[n] for n in order] if order else pages


def colour_order(names: Sequence[str]) -> list[int] | None:
    """Return the indices of red, green and blue in the names of channels; None if they have other names."""
    first = [name.strip().lower()[:1] if name.strip().lower() in (*COLOURS, "r", "g", "b") else "" for name in names]
    return [first.index(colour[0]) for colour in COLOURS] if sorted(first) == ["b", "g", "r"] else None


def _channel_names(file: Any) -> Sequence[str]:
    text = file.pages[0].description
    if is_ome(text):
        return next((one.channels for one in _ome_images(text) if len(one.channels) == len(COLOURS)), ())
    return tuple(map(str, (file.imagej_metadata or {}).get("Labels", ())))[: len(COLOURS)] if file.is_imagej else ()


def _significant_bits(text: str, size: tuple[int, int]) -> int | None:
    fitting = (one for one in _ome_images(text) if (one.width, one.height) == size)
    return next((one.significant_bits for one in fitting), None)


def _ome_images(text: str) -> Sequence[OmeImage]:
    """Return the images of a description; none if it is not OME-XML that can be read."""
    try:
        return read_ome(text).images if is_ome(text) else ()
    except ValueError:
        return ()


def _read_page(page: Any, data: bytes, significant: int | None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return a page as RGB, uint8 [height, width, 3], and notes on its scaling."""
    key = page.keyframe
    plain = key.bitspersample <= 8 and key.sampleformat == 1 and key.compression in _PILLOW
    if plain and (pixels := _by_pillow(page, data)) is not None:
        return pixels, ()
    values = _by_tifffile(page, data)
    if key.imagedepth > 1:
        raise ImageError("a TIFF with a volume in one page: save one plane of it as RGB")
    if key.photometric == _PALETTE:
        values = np.moveaxis(np.asarray(key.colormap), 0, -1)[values[..., 0]]
    elif key.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR):
        raise ImageError(f"a TIFF with {_name(key.photometric)} colours: save it as RGB")
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _CMYK: 4}.get(key.photometric, 3)
    if values.shape[2] < colours:
        raise ImageError(f"expected {colours} channels, found {values.shape[2]}: save the picture as RGB")
    stated = significant or _bits_of(_value(key, 281, 0))
    pixels, remarks = to_8_bit(values[..., :colours], stated)
    if key.photometric == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    elif key.photometric == _CMYK:
        ink = 255 - pixels.astype(np.uint16)
        pixels = np.asarray(ink[..., :3] * ink[..., 3:] // 255, np.uint8)
    extra = (tuple(key.extrasamples) or (0,))[0]
    if extra in (_PREMULTIPLIED, _ALPHA) and values.shape[2] > colours:
        alpha, _ = to_8_bit(values[..., colours : colours + 1])
        pixels = over_white(pixels, alpha, premultiplied=extra == _PREMULTIPLIED)
    return np.asarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), np.uint8), remarks


def _by_pillow(page: Any, data: bytes) -> NDArray[np.uint8] | None:
    """Decode a page of 8 bits with Pillow; None if Pillow does not support this kind of TIFF."""
    key = page.keyframe
    if page.is_subifd or key.is_volumetric:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            image.seek(page.index)
            if image.mode == "LAB":
                raise ImageError("a TIFF with CIELAB colours: save it as RGB")
            if image.mode not in EIGHT_BIT_MODES:
                return None
            image.load()
            if key.compression == _JPEG and (reason := _jpeg_damage(page, data)):
                raise ImageError(f"its JPEG data are damaged ({reason}): copy or export the file again")
            if key.compression in _DEFLATE:
                _check_deflate(page, data)
            return as_stored(to_rgb(image), _orientation(page))
    except (ImageError, Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:
        log.debug("Pillow does not decode this TIFF: %s", error)
        return None


def _jpeg_damage(page: Any, data: bytes) -> str | None:
    """Return the decoder's message on the first damaged strip or tile of a page; None if there is none."""
    tables = bytes(page.jpegtables or b"\xff\xd8\xff\xd9")[:-2]  # without the end marker
    for place, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        if length and (reason := find_damage(tables + data[place + 2 : place + length])):
            return reason
    return None


def _check_deflate(page: Any, data: bytes) -> None:
    """Check the checksums of strips and tiles, which Pillow ignores."""
    for place, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        try:
            if length:
                zlib.decompress(data[place : place + length])
        except zlib.error as error:
            raise ImageError(f"its compressed data are damaged ({error}): copy or export the file again") from error


def _by_tifffile(page: Any, data: bytes) -> NDArray[np.generic]:
    """Decode a page with tifffile, [height, width, channels]."""
    try:
        values = np.asarray(page.asarray())
    except Exception as error:
        found = _by_opencv(page, data) if _codec_is_missing(error) else None
        if found is None:
            raise _unreadable(page.keyframe, error) from error
        values = found
    if page.axes == "SYX":
        values = values.transpose(1, 2, 0)
    return values if values.ndim == 3 else values.reshape(page.keyframe.imagelength, page.keyframe.imagewidth, -1)


def _by_opencv(page: Any, data: bytes) -> NDArray[np.generic] | None:
    """Decode a 16-bit page with OpenCV; None if OpenCV does not support it."""
    key = page.keyframe
    if key.planarconfig == 2 or page.is_subifd or key.compression not in _PILLOW or key.dtype != np.uint16:
        return None
    # OpenCV returns zeros for damaged data; Pillow raises an error.
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        image.seek(page.index)
        image.load()
    read, pages = cv2.imdecodemulti(
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(page.index, page.index + 1)
    )
    values = pages[0] if read and len(pages) == 1 else None
    if values is None or values.dtype != np.uint16:
        return None
    values = as_stored(values, _orientation(page))
    return np.asarray(values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]])


def _orientation(page: Any) -> int:
    return int(_value(page.keyframe, 274, 1))


def _codec_is_missing(error: Exception) -> bool:
    return "imagecodecs" in str(error)


def _unreadable(key: Any, error: Exception) -> Exception:
    """Return the error for a page that no decoder supports."""
    kind = f"a TIFF with {_name(key.compression)} compression"
    if _codec_is_missing(error) and key.compression in _PILLOW and key.bitspersample <= 16:
        return ValueError("it cannot be decoded")
    if _codec_is_missing(error):
        return ImageError(f'{kind}: pip install "kinet-trt[slides]" to read it, or export it with LZW or deflate')
    if isinstance(error, (NotImplementedError, KeyError)) or "not supported" in str(error):
        return ImageError(f"{kind} of a kind that is not read ({error}): export it with LZW or deflate")
    return error


def _name(code: Any) -> str:
    """Return the name of a compression or a photometric interpretation, such as "JPEG 2000"."""
    return (
        str(getattr(code, "name", code)).replace("_", " ").replace("JPEG2000", "JPEG 2000").replace("JPEGXL", "JPEG XL")
    )


def _bits_of(largest: float) -> int | None:
    """Return the bit depth of the largest value in the tags; None if there is none."""
    return int(largest).bit_length() if largest >= 255 else None


def _rank(page: Any) -> tuple[int, bool]:
    return _area(page), not _is_grey(page)


def _is_grey(page: Any) -> bool:
    return page.keyframe.samplesperpixel == 1 and page.keyframe.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)


def _area(page: Any) -> int:
    return int(page.keyframe.imagewidth * page.keyframe.imagelength)


def _value(page: Any, number: int, default: float) -> float:
    tag = page.tags.get(number)
    value = default if tag is None else tag.value
    return float(value[0] if isinstance(value, tuple) else value)


def ratio(tag: Any) -> float | None:
    """Return the value of a resolution tag, px per unit; None if it is missing or not positive."""
    try:
        over, under = tag.value
        return positive(float(over) / float(under))
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Log the warnings of tifffile at debug level: for a damaged file, there is one error."""

    def demote(record: logging.LogRecord) -> bool:
        log.debug("tifffile: %s", record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(demote)
    try:
        yield
    finally:
        logger.removeFilter(demote)
