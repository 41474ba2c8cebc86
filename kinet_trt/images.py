"""Image files to frames: PNG, JPEG and TIFF, 8 or 16 bit, grey, palette or with alpha; and their um/px tag.

Pillow reads headers and 8-bit pixels and notices truncated files; OpenCV reads 16-bit colour, which Pillow cuts to 8.
Pixels are taken as stored: an EXIF rotation is not applied, so coordinates agree with QuPath and ImageJ.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kinet_trt.errors import ImageError
from kinet_trt.frame import Frame

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
PLAUSIBLE_MPP = (0.05, 5.0)
"""um/px of a microscope. 72 or 300 dpi (353 and 85 um/px) are a printer's resolution, not a tissue's."""

_MODES_8_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def read_image(path: Path | str) -> Frame:
    """Read an image file.

    16-bit values are scaled from the smallest of 8, 10, 12, 14 or 16 bits that holds the largest one, because cameras
    store 12 bits in 16. Transparent pixels become white (glass). Of several pages the first counts.

    Parameters
    ----------
    path
        A PNG, JPEG, TIFF or BMP file.

    Returns
    -------
    Frame
        With ``mpp`` from the file's resolution tag where that is a microscope's, else None.

    Raises
    ------
    ImageError
        If the file is missing, empty, truncated, not an image, too large, or of a pixel type that is not read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageError("the file is empty (0 bytes): copy or export it again")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and odd metadata; what matters here is whether the pixels decode.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                mpp = _tag_mpp(image)
                deep = _bits(image, data) > 8
                image.load()
                pixels = _decode_deep(data) if deep else _decode(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image: expected PNG, JPEG, TIFF or BMP, found other or damaged content") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large to read as one image ({error}): export a region of it") from None
    # Pillow's decoders raise many kinds of errors on damaged files; all of them mean the same to the user.
    except Exception as error:
        raise ImageError(f"the file is damaged or cut short ({error}): copy or export it again") from error
    return Frame(pixels, mpp=mpp)


def _bits(image: Image.Image, data: bytes) -> int:
    """Return the bits of one channel value."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))  # type: ignore[attr-defined, no-any-return]
    return 8


def _decode(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode not in _MODES_8_BIT:
        raise ImageError(f"pixel type {image.mode!r}: expected 8 or 16 bit grey, RGB or RGBA: convert the file")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        glass = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(glass, colour)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _decode_deep(data: bytes) -> NDArray[np.uint8]:
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype not in (np.uint8, np.uint16):
        found = "nothing" if raw is None else str(raw.dtype)
        raise ImageError(f"pixel type: expected 8 or 16 bit integers, found {found}: convert the file")
    largest = int(raw.max())
    bits = next(b for b in (8, 10, 12, 14, 16) if largest < 2**b)
    values = raw.astype(np.float32) / (2**bits - 1)
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] in (2, 4):
        values = values[..., :-1] * values[..., -1:] + (1 - values[..., -1:])
    rgb = np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values[..., ::-1]
    return np.asarray(np.rint(rgb * 255), np.uint8)


def _tag_mpp(image: Image.Image) -> float | None:
    """Return the um/px that the file states, where it is a microscope's."""
    candidates = _description_mpp(image) or _resolution_mpp(image)
    if candidates is None:
        return None
    x, y = candidates
    low, high = PLAUSIBLE_MPP
    if not (low <= x <= high and low <= y <= high):
        log.info("resolution tag of %.4g um/px ignored: a microscope's lies between %g and %g", x, low, high)
        return None
    if abs(x / y - 1) > 0.01:
        log.warning("resolution tag ignored: pixels of %.4g x %.4g um are not square", x, y)
        return None
    return (x + y) / 2


def _resolution_mpp(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    if dpi is None or min(dpi) <= 0:
        return None
    return 25400 / float(dpi[0]), 25400 / float(dpi[1])


def _description_mpp(image: Image.Image) -> tuple[float, float] | None:
    """Read what ImageJ, OME-TIFF and Aperio write into a TIFF's ImageDescription."""
    if image.format != "TIFF":
        return None
    tags = image.tag_v2  # type: ignore[attr-defined]
    text = str(tags.get(270, ""))
    if text.startswith("ImageJ=") and re.search(r"^unit=(micron|um|µm|\\u00B5m)\s*$", text, re.MULTILINE):
        x, y = float(tags.get(282, 0)), float(tags.get(283, 0))
        return (1 / x, 1 / y) if x > 0 and y > 0 else None
    if found := re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", text):
        return float(found[1]), float(found[1])
    if "<OME" in text:
        sizes = [re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', text) for axis in "XY"]
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', text)
        if sizes[0] and sizes[1] and (unit is None or unit[1] in ("µm", "um", "&#181;m", "&#xB5;m")):
            return float(sizes[0][1]), float(sizes[1][1])
    return None
