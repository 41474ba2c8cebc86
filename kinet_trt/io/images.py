"""Read image files and their µm/px: PNG, JPEG, TIFF, BMP, WebP, JPEG 2000, JPEG XL and AVIF.

EXIF rotations are not applied, so coordinates agree with QuPath and ImageJ.
"""

from __future__ import annotations

import io
import logging
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kinet_trt.core.errors import ImageError
from kinet_trt.core.frame import Frame
from kinet_trt.io.bit_depth import to_8_bit
from kinet_trt.io.image_kinds import READABLE, content_kind
from kinet_trt.io.jpeg import find_damage
from kinet_trt.io.pillow import EIGHT_BIT_MODES, over_white, to_rgb
from kinet_trt.io.pixel_size import Stated, first_usable, positive, resolution

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "JPEG2000", "AVIF")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    *(".webp", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".avif"),
)

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG = b"\xff\xd8"
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296  # EXIF
_Read = tuple[NDArray[np.uint8], Sequence[Stated | None], tuple[str, ...]]


def read_image(path: Path | str) -> Frame:
    """Read an image file.

    Integers of more than 8 bits are scaled to 8 bits (see :func:`kinet_trt.io.bit_depth.to_8_bit`). Transparent pixels
    become white (glass). A file of several pages is read at its largest page, in colour if there is one; three grey
    pages of one picture are red, green and blue, and other grey pages are an error.

    Parameters
    ----------
    path
        A PNG, JPEG, TIFF, BMP, WebP, JPEG 2000, JPEG XL or AVIF file.

    Returns
    -------
    Frame
        Its ``mpp`` is the file's if that is plausible for a microscope, else None with the reason in ``unused_size``;
        ``remarks`` has notes on how the file was read.

    Raises
    ------
    ImageError
        If the file is missing, empty, damaged, not an image, too large, or of an unsupported kind.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("not a file: expected an image file, found a folder, a pipe or a device")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError("the file is empty (0 bytes): copy or export it again")
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images and odd metadata, which do not matter here.
            warnings.simplefilter("ignore")
            pixels, sizes, remarks = _read(data)
    except ImageError:
        raise
    except UnidentifiedImageError:
        kind = content_kind(data)
        raise ImageError(
            f"{kind}: expected {READABLE}: save it as PNG or TIFF"
            if kind
            else f"not an image: expected {READABLE}, found other or damaged content"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large to read as one image ({error}): export a region of it") from None
    except MemoryError:
        raise ImageError("not enough memory to read it: export a region of it") from None
    # Decoders raise many kinds of errors on damaged files.
    except Exception as error:
        raise ImageError(f"the file is damaged or cut short ({error}): copy or export it again") from error
    mpp, unused = first_usable(sizes)
    return Frame(np.ascontiguousarray(pixels), mpp=mpp, unused_size=unused, remarks=remarks)


def _read(data: bytes) -> _Read:
    if data.startswith(_TIFF):
        # Importing tifffile takes as long as counting a small picture.
        from kinet_trt.io.tiff import read_tiff

        return read_tiff(data)
    if data.startswith(_JPEG_XL):
        return _read_jpeg_xl(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        sizes = _stated_sizes(image)
        remarks: tuple[str, ...] = ()
        # The second frame of a JPEG (MPO) is a preview of the first.
        if not data.startswith(_JPEG) and (frames := getattr(image, "n_frames", 1)) > 1:
            remarks = (f"Frame 1 of {frames} is read; the others are not counted.",)
        image.load()
        if data.startswith(_JPEG) and (reason := find_damage(data)):
            raise ImageError(f"the JPEG is damaged ({reason}): copy or export it again")
        if image.format == "PNG" and data[24] > 8:
            pixels, scaled = _deep(_by_opencv(data), _significant_bits(data))
            return pixels, sizes, remarks + scaled
        if image.format == "JPEG2000" and (values := _by_opencv(data)).dtype != np.uint8:
            pixels, scaled = _deep(values, None)
            return pixels, sizes, remarks + scaled
        if image.mode not in EIGHT_BIT_MODES:
            raise ImageError(f"pixel type {image.mode!r}: expected 8 or 16 bit grey, RGB or RGBA: convert the file")
        return to_rgb(image), sizes, remarks


def _read_jpeg_xl(data: bytes) -> _Read:
    try:
        from imagecodecs import jpegxl_decode
    except ImportError:
        raise ImageError('a JPEG XL picture: pip install "kinet-trt[slides]" to read it, or save it as PNG') from None
    values = np.asarray(jpegxl_decode(data))
    if values.ndim == 4 or (values.ndim == 3 and values.shape[2] > 4):
        raise ImageError("a JPEG XL picture of several frames: save one of them as PNG")
    pixels, remarks = _deep(values if values.ndim == 3 else values[..., None], None)
    return pixels, (), remarks


def _by_opencv(data: bytes) -> NDArray[np.generic]:
    """Decode a 16-bit picture, [height, width, channels] in the order red, green, blue, alpha."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("it cannot be decoded")
    return np.asarray(values[..., None] if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]])


def _deep(values: NDArray[np.generic], stated_bits: int | None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return grey or colour values of any depth, with or without alpha, as RGB over white, and notes on the scaling."""
    colours = 1 if values.shape[2] < 3 else 3
    pixels, remarks = to_8_bit(values[..., :colours], stated_bits)
    if values.shape[2] > colours:
        alpha, _ = to_8_bit(values[..., colours:])
        pixels = over_white(pixels, alpha)
    return np.asarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), np.uint8), remarks


def _significant_bits(png: bytes) -> int | None:
    """Return the largest bit depth in the sBIT chunk of a PNG."""
    place = png.find(b"sBIT", 0, png.find(b"IDAT"))
    length = int.from_bytes(png[place - 4 : place], "big") if place > 0 else 0
    return max(png[place + 4 : place + 4 + min(length, 3)], default=0) or None


def _stated_sizes(image: Image.Image) -> list[Stated | None]:
    """Return the pixel sizes in EXIF and in the header of the file format."""
    exif = image.getexif()
    density = [positive(exif.get(number)) for number in (_X_RESOLUTION, _Y_RESOLUTION)]
    header = [positive(value) for value in image.info.get("dpi", ())]
    if image.info.get("jfif_unit") == 2:  # per cm; converted by Pillow 12
        header = [positive(2.54 * value) for value in image.info["jfif_density"]]
    return [
        resolution(density, int(exif.get(_RESOLUTION_UNIT) or 2)),
        resolution(header, 2) if len(header) == 2 else None,
    ]
